"""The header of a .safetensors file: tensor names, shapes and metadata, without reading any weight.

The format: 8 bytes with the length of the header, the header as JSON, then the tensors one after another
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from s2l.errors import UserError

LARGEST_HEADER = 100_000_000  # bytes, the library's own limit
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Header:
    """Shapes of the tensors by name, and the metadata that the writer left."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def parse_json(text: str | bytes):
    """JSON without NaN and infinity; bytes in any encoding of JSON, with a byte order mark or without.

    Raises ValueError, also for nesting that is too deep to be read.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is not a number that JSON knows")

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_header(path: Path) -> Header:
    """The header of a whole .safetensors file.

    Raises UserError if it is not a regular file, is a git-lfs pointer, is truncated, or has no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: weights are read from .safetensors files only")
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is a git-lfs pointer, not the weights themselves: fetch them with `git lfs pull`")
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("too long a header")
            header = parse_json(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise UserError(
            f"{path} is not a readable .safetensors file: it is truncated, damaged or in another format"
        ) from None
    if path.stat().st_size != end:
        raise UserError(
            f"{path} is not a whole .safetensors file: {path.stat().st_size:,} bytes where its header says {end:,}, "
            "so copy or download it again"
        )
    if not any(math.prod(shape) for shape in shapes.values()):
        raise UserError(f"{path} is a .safetensors file without any weights")
    return Header(shapes, metadata)
