"""How a picture file was saved (format, size, JPEG tables, metadata), and near-copies by a perceptual hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch  # the page reads this module before torch is loaded

# The luminance table of ISO/IEC 10918-1, annex K, row by row; libjpeg scales it by the quality.
LUMINANCE = np.array((
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
))  # fmt: skip
METADATA = {
    "exif": "EXIF", "icc_profile": "colour profile", "photoshop": "IPTC", "xmp": "XMP", "XML:com.adobe.xmp": "XMP",
    "comment": "comment",
}  # fmt: skip
CODING = ("compression",)  # what Pillow's `info` says in words of how the pixels are stored: no metadata
SIDE = 32  # pixels of the picture that is hashed
NEAR_BITS = 6  # of 64 that may differ in near-copies; saving at JPEG quality 30 changes 2 to 6
NEAR_L2 = 0.05  # root mean square of the pixels, in [0, 1], that near-copies may differ by at SIDE x SIDE
COMPARED = 5_000  # photos of a folder that are searched for near-copies, and pairs that are looked at


@dataclass(frozen=True)
class Traits:
    """How a file was saved: format, upright size in pixels, a JPEG's quantization tables, kinds of metadata."""

    format: str
    width: int
    height: int
    quantization: tuple[tuple[int, ...], ...] = ()
    metadata: tuple[str, ...] = ()


def metadata_kinds(info: Mapping) -> tuple[str, ...]:
    """The kinds of metadata in Pillow's `info` of a file, sorted; text fields of a PNG count as "text"."""
    found = {key for key, value in info.items() if value and (key in METADATA or _is_text(key, value))}
    kinds = {METADATA.get(key, "text") for key in found}
    return tuple(sorted(kinds))


def shown(name: str) -> str:
    """A name, as one line that can be printed and saved as UTF-8: other characters as their escapes."""
    return name if name.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _is_text(key: object, value: object) -> bool:
    return isinstance(value, str) and key not in CODING


@lru_cache(maxsize=1)
def _scaled_tables() -> np.ndarray:
    """libjpeg's luminance table at each quality from 1 to 100: (100, 64)."""
    quality = np.arange(1, 101)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None]
    return np.clip((LUMINANCE * percent + 50) // 100, 1, 255)


@lru_cache(maxsize=1024)
def jpeg_quality(table: tuple[int, ...]) -> int:
    """The quality of libjpeg, 1 to 100, whose luminance table is closest to these 64 numbers (row by row)."""
    return int(np.abs(np.sort(_scaled_tables(), axis=1) - np.sort(table)).sum(axis=1).argmin()) + 1


# --- near-copies -------------------------------------------------------------------------------


def perceptual_hashes(images: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) uint8 to (N,) uint64: which of the 64 lowest frequencies of the brightness exceed their median.

    0 stands for a flat picture, which has none. A cosine transform of 32 x 32 pixels (Zauner 2010, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", section 3.2.1).
    """
    from scipy.fft import dctn

    hashes = np.zeros(len(images), np.uint64)
    for start, batch in _batches(images):
        low = dctn(_small(batch).mean(1).numpy(), axes=(1, 2))[:, :8, :8].reshape(len(batch), 64)
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        bits &= np.abs(low[:, 1:]).max(axis=1, keepdims=True) > 2 * SIDE  # about one level of 255 of contrast
        hashes[start : start + len(batch)] = np.packbits(bits, axis=1).view(np.uint64).ravel()
    return hashes


def _batches(images: torch.Tensor):
    step = max(1, 2**21 // max(1, images[0].numel())) if len(images) else 1
    return ((start, images[start : start + step]) for start in range(0, len(images), step))


def _small(batch: torch.Tensor) -> torch.Tensor:
    """(N, 3, 32, 32) float32 of 0 to 255."""
    from torch.nn import functional

    side, factor = batch.shape[-1], batch.shape[-1] // SIDE
    if side == batch.shape[-2] == factor * SIDE:
        return functional.avg_pool2d(batch.float(), factor)
    return functional.adaptive_avg_pool2d(batch.float(), SIDE)


def near_copies(
    images: torch.Tensor,
    others: torch.Tensor | None = None,
    hashes: np.ndarray | None = None,
    other_hashes: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Pairs (i, j) of near-copies, i of `images` and j of `others`, or i < j within `images`. Both (N, 3, H, W) uint8.

    Near-copies have hashes that differ in at most NEAR_BITS bits and pixels that differ little (NEAR_L2), up to
    brightness: a photo saved again, or made a little smaller or brighter. Of each side, the first COMPARED are
    compared; `hashes` and `other_hashes` are theirs if they are there already.
    """
    images = images[:COMPARED]
    a = perceptual_hashes(images) if hashes is None else hashes[:COMPARED]
    if others is None:
        b, against = a, images
    else:
        against = others[:COMPARED]
        b = perceptual_hashes(against) if other_hashes is None else other_hashes[:COMPARED]
    candidates: list[tuple[int, int]] = []
    for start in range(0, len(a), 256):
        rows, columns = np.nonzero(np.bitwise_count(a[start : start + 256, None] ^ b[None]) <= NEAR_BITS)
        rows += start
        wanted = (a[rows] != 0) & (b[columns] != 0) & ((rows < columns) | (others is not None))
        candidates += zip(rows[wanted].tolist(), columns[wanted].tolist(), strict=True)
        if len(candidates) >= COMPARED:
            break
    small = lru_cache(maxsize=None)(lambda which, i: _small((images, against)[which][i][None]) / 255)
    return [(i, j) for i, j in candidates[:COMPARED] if _alike(small(0, i), small(int(others is not None), j))]


def _alike(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Of two pictures of `_small`, in [0, 1]."""
    difference = (x - x.mean()) - (y - y.mean())
    return float(difference.square().mean().sqrt()) <= NEAR_L2


def traits(image: Image.Image, size: tuple[int, int], quantization: Mapping[int, list[int]]) -> Traits:
    """The traits of an opened file; `size` is (width, height) upright."""
    kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a phone's JPEG with a second picture
    tables = tuple(tuple(quantization[i]) for i in sorted(quantization))
    return Traits(kind, *size, tables, metadata_kinds(image.info))
