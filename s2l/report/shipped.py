"""Finished runs that ship with the program, so that a choice on the page is answered at once: `assets/matrix`.

    index.json        the runs, [{"person", "role", "methods", "preset", "run", "sp_set", "file", "folder"}, ...]
    mira-solwyn.zip   the runs of one person; image sets that several of them share are in it once
      lora/result.json     the record of a run
      lora/sets.json       {set: {"sheet", "n", "columns", "captions", "ids"}}
      HASH.webp            a contact sheet

The private and the held-out photos are stored without loss, generated pictures as lossy WebP. All numbers of the record
come from the original pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from PIL import Image

from s2l.assets import ASSETS
from s2l.config import RunConfig, checked
from s2l.errors import UserError
from s2l.pipeline import identity
from s2l.record import Result
from s2l.report.showcase import SETS, SETS_FILE, contact_sheet, cut_up
from s2l.store import Store, read_json, write_json

MATRIX = ASSETS / "matrix"
INDEX = "index.json"
PREFIX = "shipped:"  # of what a job calls its result
EXACT = ("members", "nonmembers")
QUALITY = 85  # of generated pictures; at 64 pixels no difference can be seen


class Entry(TypedDict):
    """A run in the index. `run` and `sp_set` are keys, on the reference precision of the record's model."""

    person: str
    role: str
    methods: list[str]
    preset: str
    run: str
    sp_set: str
    file: str
    folder: str


@lru_cache(maxsize=4)
def _index(matrix: Path) -> tuple[Entry, ...]:
    return tuple(read_json(matrix / INDEX)) if (matrix / INDEX).exists() else ()


def entries() -> tuple[Entry, ...]:
    """The runs that ship; none if the folder is missing."""
    return _index(MATRIX)


def find(run: str, sp_set: str) -> Entry | None:
    """The shipped run with these keys."""
    return next((e for e in entries() if (e["run"], e["sp_set"]) == (run, sp_set)), None)


def named(result: str) -> Entry | None:
    """The shipped run that a job's result names ("shipped:KEY"); None for a result of this machine.

    Raises KeyError if it does not ship any more.
    """
    if not result.startswith(PREFIX):
        return None
    return {PREFIX + e["run"]: e for e in entries()}[result]


def load(entry: Entry, store: Store) -> Result:
    """A shipped run, its pictures unpacked below the cache but apart from the stages: they are not what was generated.

    Raises UserError for a broken file.
    """

    file = MATRIX / entry["file"]

    def unpack(root: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            record = archive.read(f"{entry['folder']}/result.json")
            folders = json.loads(record)["folders"]
            for name, facts in json.loads(archive.read(f"{entry['folder']}/{SETS_FILE}")).items():
                with Image.open(io.BytesIO(archive.read(facts["sheet"]))) as image:
                    cut_up(image, facts, root / folders[name])
            (root / "result.json").write_bytes(record)

    try:
        root, _ = store.stage("shipped", entry["run"], unpack)
        return Result(read_json(root / "result.json"), Store(root))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def export(results: Iterable[Result], matrix: Path, name: str) -> int:
    """Write the runs of one person to `matrix/name.zip` and into the index; returns the file's size in bytes."""
    matrix.mkdir(parents=True, exist_ok=True)
    path, added = matrix / f"{name}.zip", []
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for result in results:
            added.append(_entry(result, path.name))
            _add(archive, result, added[-1]["folder"])
    temporary.replace(path)
    kept = [e for e in read_json(matrix / INDEX) if e["file"] != path.name] if (matrix / INDEX).exists() else []
    write_json(matrix / INDEX, kept + added)
    _index.cache_clear()
    return path.stat().st_size


def _entry(result: Result, file: str) -> Entry:
    record = result.record
    config = checked(RunConfig, record["config"])
    return {
        "person": config.domain.name,
        "role": record["domain"]["role"],
        "methods": list(config.finetune.methods),
        "preset": config.preset,
        "run": identity.run(config, record["model"]["key"]),
        "sp_set": record["stages"]["sp_set"]["key"],
        "file": file,
        "folder": "+".join(config.finetune.methods),
    }  # fmt: skip


def _add(archive: zipfile.ZipFile, result: Result, folder: str) -> None:
    sets = {}
    for name in (s for s in SETS if s in result.record["folders"]):
        whole, facts = contact_sheet(result, name)
        data = io.BytesIO()
        whole.save(data, "WEBP", lossless=name in EXACT, quality=60 if name in EXACT else QUALITY, method=6)
        file = hashlib.sha256(data.getvalue()).hexdigest()[:16] + ".webp"
        if file not in archive.namelist():
            archive.writestr(zipfile.ZipInfo(file), data.getvalue())
        sets[name] = facts | {"sheet": file}
    for file, content in (("result.json", result.record), (SETS_FILE, sets)):
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        archive.writestr(zipfile.ZipInfo(f"{folder}/{file}"), text, zipfile.ZIP_DEFLATED, 9)
