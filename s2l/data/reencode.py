"""Two folders saved again in one way, so that how their files were saved tells them apart as little as possible.

Each photo becomes a square of the smallest photo's size, is compressed as JPEG, blurred, made half as large, and
compressed again. The first compression, stronger than that of nearly all photos, gives every photo the traces that some
of them have. Blurring and halving take most of them away, with much of what distinguishes resampling, sharpness and
noise, and the second compression covers the rest. A quality of 75 without the blur leaves too much: photos of
quality 85 and 95 are still told from lossless ones. results/blind.json says what is hidden and what is not.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from scipy import ndimage

from s2l.data.decode import Unreadable, decode, header
from s2l.data.files import jpeg_quality
from s2l.data.listing import Listed, list_photos
from s2l.data.photos import MIN_SIDE, square
from s2l.errors import UserError

BEST = 40  # JPEG quality at most: above it the traces of a stronger compression remain
BLUR = 1.0  # standard deviation in pixels, before halving
SAMPLE = 20  # photos of each side in which the detail that is left is measured
SIDES = ("members", "nonmembers")
TABLE = "metadata.jsonl"  # of an output folder: file, caption and original name of each photo


@dataclass(frozen=True)
class Recipe:
    """What is done to every photo: the sides in pixels before and after halving, and the JPEG quality.

    `smallest` is the name of the photo that decides the size; `detail` the share of fine detail that is left, which is
    measured when photos are written: 1 for photos that are only made smaller.
    """

    before: int
    side: int
    quality: int
    smallest: str
    detail: float | None = None

    def __call__(self, image: Image.Image) -> bytes:
        """An RGB picture as the bytes of a JPEG file without metadata."""
        first = _opened(self._jpeg(Image.fromarray(square(image, self.before))))
        soft = Image.fromarray(ndimage.gaussian_filter(np.asarray(first), (BLUR, BLUR, 0)))
        return self._jpeg(soft.resize((self.side, self.side), Image.Resampling.LANCZOS))

    @property
    def treatment(self) -> str:
        """What is done to the pixels, whatever their size."""
        return f"JPEG {self.quality}, blur of sigma {BLUR:g}, halved, JPEG {self.quality}"

    @property
    def words(self) -> str:
        """What is done, for people."""
        left = "" if self.detail is None else f"; {100 * self.detail:.0f} % of the fine detail is left"
        return (
            f"{self.side} x {self.side} pixels: the middle of each photo, at the size of the smallest "
            f"({self.smallest}, {self.before} pixels), as JPEG of quality {self.quality}, blurred, made half as large, "
            f"at the same quality again; no metadata{left}"
        )

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """What a reader of that file sees: (H, W, 3) uint8 to (side, side, 3) uint8."""
        return np.asarray(_opened(self(Image.fromarray(image))))

    def _jpeg(self, image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        return file.getvalue()


def _opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def detail_left(images: Iterable[Image.Image], recipe: Recipe) -> float:
    """The share of fine detail that is left in re-encoded photos, against the same photos made smaller alone.

    The slope of a regression of one's Laplacian of brightness on the other's: traces of compression do not count.
    """
    products = squares = 0.0
    for image in images:
        plain = Image.fromarray(square(image, recipe.before)).resize((recipe.side,) * 2, Image.Resampling.LANCZOS)
        fine, wanted = (ndimage.laplace(np.asarray(x.convert("L"), float)) for x in (_opened(recipe(image)), plain))
        products, squares = products + (fine * wanted).sum(), squares + (wanted**2).sum()
    return float(products / squares) if squares else 1.0


def recipe_for(before: int, quality: int, smallest: str = "") -> Recipe:
    """The recipe for photos whose smallest side is `before` pixels and whose lowest JPEG quality is `quality`."""
    return Recipe(before, max(MIN_SIDE, before // 2), min(BEST, quality), smallest)


def smallest_side(sources: Collection[Path]) -> int:
    """The shortest side in pixels of all photos of the sources that are large enough; 0 if there are none."""
    sides = []
    for photo in (photo for source in sources for photo in list_photos(source).photos):
        with suppress(Unreadable):  # reading the photo later reports why
            saved = header(photo.path)
            sides.append(min(saved.width, saved.height))
    return min((side for side in sides if side >= MIN_SIDE), default=0)


def check_output(out: Path, sources: Collection[Path]) -> None:
    """Raises UserError for a folder that holds something already, or that lies inside one of the sources."""
    place = out.resolve()
    for source in sources:
        if source.is_dir() and place.is_relative_to(source.resolve()):
            raise UserError(f"--fix: {out} lies in {source}: give a folder outside of both")
    if place.is_dir() and any(place.iterdir()):
        raise UserError(f"--fix: {out} is not empty: give a new folder, because nothing is written over")


def reencode(sources: Collection[Path], used: Collection[Collection[str]], out: Path) -> Recipe:
    """Write OUT/members and OUT/nonmembers: the photos of both sources whose names are in `used`, saved in one way.

    Captions go along, in a metadata.jsonl that also has the original names. OUT appears when everything is written.
    Raises UserError for an `out` that `check_output` refuses.
    """
    check_output(out, sources)
    photos = [list(_named(source, set(names))) for source, names in zip(sources, used, strict=True)]
    saved = [[header(photo.path) for photo in side] for side in photos]
    sizes = {min(x.width, x.height): photo.name for side, facts in zip(photos, saved, strict=True)
             for photo, x in zip(side, facts, strict=True)}  # fmt: skip
    qualities = [[jpeg_quality(x.quantization[0]) for x in facts if x.quantization] for facts in saved]
    lowest = min((round(median(some)) for some in qualities if some), default=BEST)
    recipe = recipe_for(min(sizes), lowest, sizes[min(sizes)])
    some = (photo for side in photos for photo in side[:SAMPLE])
    recipe = replace(recipe, detail=detail_left((decode(photo.path).image for photo in some), recipe))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        for name, side in zip(SIDES, photos, strict=True):
            _write(Path(place) / name, side, recipe)
        out.mkdir(exist_ok=True)
        check_output(out, sources)
        for name in SIDES:
            shutil.move(Path(place) / name, out / name)
    return recipe


def _named(source: Path, names: set[str]) -> Iterator[Listed]:
    """The photos of these names, each once."""
    for photo in list_photos(source).photos:
        if photo.name in names:
            names.discard(photo.name)
            yield photo


def _write(folder: Path, photos: list[Listed], recipe: Recipe) -> None:
    folder.mkdir()
    files = [f"{i:05}.jpg" for i in range(len(photos))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(_write_photo, recipe), photos, (folder / file for file in files)))
    rows = (
        {"file_name": file, **({"text": photo.caption} if photo.caption else {}), "source": photo.name}
        for file, photo in zip(files, photos, strict=True)
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / TABLE).write_text(text, encoding="utf-8")


def _write_photo(recipe: Recipe, photo: Listed, path: Path) -> None:
    path.write_bytes(recipe(decode(photo.path).image))
