"""Which files of a finished folder are cut, empty, garbled or missing. Loads no torch.

What is looked at is the structure that the format itself declares: sizes in headers, end marks, whether JSON parses. It
takes microseconds a file, so that every entry of the cache is looked at whenever it is used. A changed byte inside a
tensor or a picture keeps the structure; a picture's checksum is looked at when it is decoded.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_HEADER = 100_000_000  # bytes of a safetensors header, as the library allows
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
METADATA = "metadata.jsonl"  # of an image set: a row for each of its .png files, with the file_name


def damaged_files(folder: Path) -> dict[str, str]:
    """{path in `folder`, with /: what is wrong}, in order; pictures that a finished image set lists and lacks too."""
    found: dict[str, str] = {}
    for file in sorted(_files(folder)):
        place = file.relative_to(folder)
        if (problem := damage(file)) is not None:
            found[place.as_posix()] = problem
        elif file.name == METADATA and not folder.name.endswith(".partial"):
            listed, there = _listed(file), {each.name for each in file.parent.glob("*.png")}
            if there - listed:  # a cut at the end of a line
                found[place.as_posix()] = "is cut or garbled"
            found |= {(place.parent / name).as_posix(): "is missing" for name in sorted(listed - there)}
    return found


def damage(file: Path) -> str | None:
    """What is wrong with a file, as the end of a sentence; None if nothing is, or its kind is not known."""
    looks_whole = KINDS.get(file.suffix)
    if looks_whole is None:
        return None
    try:
        if file.stat().st_size == 0:
            return "is empty"
        return None if looks_whole(file) else "is cut or garbled"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "is cut or garbled"


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)


def _listed(metadata: Path) -> set[str]:
    rows = [json.loads(line) for line in metadata.read_text(encoding="utf-8").split("\n") if line.strip()]
    return {row["file_name"] for row in rows if isinstance(row.get("file_name"), str)}


def _json(file: Path) -> bool:
    json.loads(file.read_text(encoding="utf-8"))
    return True


def _lines(file: Path) -> bool:
    text = file.read_text(encoding="utf-8")
    return text.endswith("\n") and all(isinstance(json.loads(line), dict) for line in text.split("\n") if line.strip())


def _safetensors(file: Path) -> bool:
    """The header's length and the last tensor's end must give the size of the file."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > MAX_HEADER:
            return False
        header = json.loads(opened.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return file.stat().st_size == 8 + length + max(ends, default=0)


def _png(file: Path) -> bool:
    with open(file, "rb") as opened:
        start = opened.read(len(PNG_START))
        opened.seek(-len(PNG_END), os.SEEK_END)
        return (start, opened.read()) == (PNG_START, PNG_END)


KINDS: dict[str, Callable[[Path], bool]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".safetensors": _safetensors,
    ".png": _png,
    ".pt": zipfile.is_zipfile,  # a checkpoint of torch: the list of contents is at its end
    ".npz": zipfile.is_zipfile,
}
