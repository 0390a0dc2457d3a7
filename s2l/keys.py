"""The names of cached results: sha256 over what a result depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel


def key_of(*parts) -> str:
    """sha256 over settings, strings and numbers, as 24 hex digits: the name of a cached result.

    A field that is None counts as absent: a setting or section that is added later changes no key while it is off. So
    does one with the value that all results had before it was a setting (`Settings.OF_BEFORE`).
    """

    def plain(part):
        if isinstance(part, BaseModel):
            inner = {name: getattr(part, name) for name in type(part).model_fields}
            sections = {name: plain(value) for name, value in inner.items() if isinstance(value, BaseModel)}
            before = getattr(part, "OF_BEFORE", {})
            part = part.model_dump(mode="json") | sections
            part = {name: value for name, value in part.items() if name not in before or value != before[name]}
        if isinstance(part, dict):
            return {name: plain(value) for name, value in part.items() if value is not None}
        return [plain(value) for value in part] if isinstance(part, list | tuple) else part

    text = json.dumps([plain(p) for p in parts], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_hash(paths: list[Path]) -> str:
    """sha256 over names and contents of files, as 24 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]
