"""A finished run as a few small files that can be committed: `s2l/assets/showcase`.

    result.json            the record of the run
    members.webp ...       one lossless contact sheet per image set, read back to the same pixels
    sets.json              {set: {"n", "columns", "captions", "ids"}}

`load_showcase` unpacks the sheets into the cache once, so that everything that reads a Result can
read this one too.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from s2l.errors import UserError
from s2l.keys import file_hash
from s2l.record import Result
from s2l.store import Store, read_json, write_json

COLUMNS = 16
SETS = ("sp_set", "members", "nonmembers", "before", "after")
SETS_FILE = "sets.json"
MAX_BYTES = 5_000_000


def export_showcase(result: Result, folder: str | Path) -> int:
    """Write a result and its pictures as a few small files; returns their size in bytes.

    Raises UserError above 5 MB, and for a folder that holds anything but a showcase; the folder is then left unchanged.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / SETS_FILE).exists():
        raise UserError(f"--out: {folder} holds something other than a showcase: give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        size = _pack(result, Path(temporary))
        if size > MAX_BYTES:
            raise UserError(
                f"the showcase has {size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:g} MB are allowed: show a smaller run"
            )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(temporary, folder)
    return size


def _pack(result: Result, folder: Path) -> int:
    sets = {}
    for name in (s for s in SETS if s in result.record["folders"]):
        whole, sets[name] = contact_sheet(result, name)
        whole.save(folder / f"{name}.webp", lossless=True, quality=60, method=3)
    write_json(folder / SETS_FILE, sets)
    (folder / "result.json").write_text(json.dumps(result.record, allow_nan=False), encoding="utf-8")
    return sum(f.stat().st_size for f in folder.iterdir())


def load_showcase(folder: str | Path, store: Store) -> Result:
    """The exported result, its pictures unpacked below the cache. Raises UserError for a broken folder."""
    folder = Path(folder)
    try:
        record = read_json(folder / "result.json")
        key = file_hash(list(folder.iterdir()))
        root, _ = store.stage("showcase", key, lambda work: _unpack(folder, record, work))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder} is not a showcase: {error}") from error
    return Result(record, Store(root))


def contact_sheet(result: Result, name: str) -> tuple[Image.Image, dict]:
    """An image set of a run as one picture, and the facts {"n", "columns", "captions", "ids"} that `cut_up` needs."""
    images = result.images(name)
    pixels = images.images.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3) uint8
    facts = {"n": len(pixels), "columns": COLUMNS, "captions": images.captions, "ids": images.ids}
    return Image.fromarray(sheet(pixels)), facts


def sheet(pixels: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """(N, H, W, 3) as one picture (rows * H, columns * W, 3), row by row."""
    n, height, width, _ = pixels.shape
    whole = np.zeros((-(-n // columns) * height, columns * width, 3), np.uint8)
    for i, image in enumerate(pixels):
        y, x = i // columns * height, i % columns * width
        whole[y : y + height, x : x + width] = image
    return whole


def _unpack(folder: Path, record: dict, root: Path) -> None:
    """Image folders with metadata.jsonl at the places that the record names."""
    for name, facts in read_json(folder / SETS_FILE).items():
        with Image.open(folder / f"{name}.webp") as image:
            cut_up(image, facts, root / record["folders"][name])


def cut_up(image: Image.Image, facts: dict, target: Path) -> None:
    """Write the pictures of a contact sheet, and their metadata.jsonl, into the folder `target`."""
    target.mkdir(parents=True, exist_ok=True)
    sheet = np.asarray(image.convert("RGB"))
    side = sheet.shape[1] // facts["columns"]
    rows = []
    for i, (caption, identity) in enumerate(zip(facts["captions"], facts["ids"], strict=True)):
        y, x = i // facts["columns"] * side, i % facts["columns"] * side
        file_name = f"{i:08d}.png"
        Image.fromarray(sheet[y : y + side, x : x + side]).save(target / file_name, compress_level=1)
        rows.append(json.dumps({"file_name": file_name, "text": caption, "id": identity}) + "\n")
    temporary = target / "metadata.tmp"
    temporary.write_text("".join(rows), encoding="utf-8")
    os.replace(temporary, target / "metadata.jsonl")
