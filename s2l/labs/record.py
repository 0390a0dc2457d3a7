"""The embedded model's `lab.json`: its recipe, people, photo seeds, repeats and hashes. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

from s2l.assets import ASSETS
from s2l.errors import UserError
from s2l.store import read_json
from s2l.worlds.people import vocabulary, words_of


def lab_folder() -> Path:
    """Where the embedded model lies: `$S2L_LAB`, else the shipped one."""
    return Path(os.environ.get("S2L_LAB") or ASSETS / "labs" / "fresh")


def lab_record() -> dict:
    """The content of `lab.json`. Raises UserError when there is no lab."""
    path = lab_folder() / "lab.json"
    if not path.exists():
        raise UserError(f"no lab model in {lab_folder()}: make one with `python -m s2l lab build`")
    return read_json(path)


def lab_people_records() -> list[dict]:
    """The lab's celebrities, one dict each: index, name, role, photo_seeds, repeats, hashes."""
    return lab_record()["people"]


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that no caption of the lab contains, in order."""
    known = set(vocabulary())
    return [word for word in words_of(prompt) if word not in known]
