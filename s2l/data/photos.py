"""Photos on disk, as squares of one size.

Streamed: each photo is decoded once, into an array that lies in a file when it is large. Ten thousand pictures of 512
pixels then need 8 GB of disk and the memory of a few.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from s2l.data.decode import IMAGE_SUFFIXES, Unreadable, decode
from s2l.data.files import Traits, shown
from s2l.data.listing import Listed, Listing, list_photos
from s2l.errors import UserError
from s2l.store import cache_root
from s2l.worlds.people import photo_hash

MIN_SIDE = 32  # pixels; smaller files are thumbnails, not photos
IN_MEMORY = 2**28  # bytes; larger arrays lie in a file
ROWS = 64  # images that are copied at once
NOTED = 20  # photos that are named for one reason; the others are counted
AHEAD = 32  # photos that are decoded before they are looked at
LARGE = 20_000  # bytes; a smaller file is decoded faster than it is handed to another core
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))
MEMBER_TOO = "among the members too"  # why a held-out photo is left out


# --- arrays of pixels --------------------------------------------------------------------------


def pixel_array(n: int, height: int, width: int) -> torch.Tensor:
    """(n, 3, height, width) uint8 to be filled: in memory, or in a file of the cache deleted with the tensor."""
    shape, size = (n, 3, height, width), n * 3 * height * width
    if size <= IN_MEMORY:
        return torch.zeros(shape, dtype=torch.uint8)
    folder = cache_root() / "pixels"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > 0.9 * free:
        raise UserError(
            f"{n:,} photos of {height} x {width} pixels need {size / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are "
            "free: take fewer, or another disk with the S2L_CACHE variable"
        )
    with tempfile.TemporaryFile(dir=folder) as file:  # the mapping keeps the file alive, and nothing else does
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def gather(images: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """images[rows] as a new pixel array, a few images at a time."""
    out = pixel_array(len(rows), *images.shape[2:])
    for first in range(0, len(rows), ROWS):
        out[first : first + ROWS] = images[rows[first : first + ROWS]]
    return out


def join(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The images of `a`, then those of `b`, as a new pixel array. ValueError when their sizes differ."""
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"images of {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be one set")
    out = pixel_array(len(a) + len(b), *a.shape[2:])
    for start, part in ((0, a), (len(a), b)):
        for first in range(0, len(part), ROWS):
            rows = part[first : first + ROWS]
            out[start + first : start + first + len(rows)] = rows
    return out


# --- pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """What became of a source's photos: `found` = used + `unread` (beyond the limit) + those left out."""

    found: int
    unread: int
    left_out: dict[str, list[str]]  # reason: names
    unmatched: int  # captions that match no picture
    others: dict[str, int]  # files that are neither pictures nor captions, by suffix
    captioned: int  # used photos with a caption of their own
    traits: tuple[Traits, ...]  # of the used photos


@dataclass(frozen=True)
class Photos:
    """N photos: images (N, 3, H, W) uint8, with names, captions, content hashes, and notes on what was left out."""

    images: torch.Tensor
    names: tuple[str, ...]
    captions: tuple[str, ...]
    hashes: tuple[str, ...]
    notes: tuple[str, ...]
    account: Account


def square(image: Image.Image, resolution: int) -> np.ndarray:
    """Centre crop to a square, then resize: (resolution, resolution, 3) uint8."""
    if image.mode != "RGB":
        image = image.convert("RGB")
    side = min(image.size)
    if image.width != image.height:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image if side == resolution else image.resize((resolution,) * 2, Image.Resampling.LANCZOS))


class _Read(NamedTuple):
    """One picture as a square, its content hash, and what `decode` says of its file."""

    pixels: np.ndarray
    content: str
    traits: Traits
    note: str


class _TooSmall(Exception):
    """A picture with a side below MIN_SIDE; the message is its size."""


def _read(photo: Listed, resolution: int) -> _Read | Unreadable | _TooSmall:
    """A photo, or why it cannot be used."""
    try:
        picture = decode(photo.path)
    except Unreadable as error:
        return error
    if min(picture.image.size) < MIN_SIDE:
        return _TooSmall("{}x{}".format(*picture.image.size))
    pixels = square(picture.image, resolution)
    return _Read(pixels, photo_hash(pixels), picture.traits, picture.note)


def _is_large(path: Path) -> bool:
    try:
        return os.path.getsize(path) > LARGE
    except (OSError, ValueError):  # reading it says why
        return False


def _read_ahead(photos: Iterable[Listed], resolution: int, needed: Callable[[], int]) -> Iterator:
    """`_read` of the photos in their order, large ones on all cores; never of more than `needed()` at a time."""
    coming: deque[Callable[[], _Read | Unreadable | _TooSmall]] = deque()
    left = iter(photos)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while needed():
            while len(coming) < min(AHEAD, needed()) and (photo := next(left, None)) is not None:
                read = partial(_read, photo, resolution)
                coming.append(pool.submit(read).result if _is_large(photo.path) else read)
            if not coming:
                return
            yield coming.popleft()()


def _why_none(listing: Listing, notes: list[str], left_out: dict[str, list[str]]) -> str:
    """Why a source has no usable photo, and what is allowed."""
    allowed = f"allowed: {', '.join(IMAGE_SUFFIXES)}"
    if not listing.photos and not listing.is_folder:
        return "the list has no rows"
    if not listing.photos:
        others = ", ".join(f"{suffix or 'without suffix'} ({n})" for suffix, n in listing.others.items())
        why = [f"only other files: {others}" if others else "it holds no picture", *notes[:1]]
        if ARCHIVES.intersection(listing.others):
            return f"{'; '.join(why)}; unpack the archive and give the folder"
        return f"{'; '.join(why)}; {allowed}"
    if list(left_out) == [MEMBER_TOO]:
        n = len(left_out[MEMBER_TOO])
        return f"all {n} are {MEMBER_TOO}; held-out photos are others, which the model was not trained on"
    more = {reason: f" and {len(names) - 1} more" if len(names) > 1 else "" for reason, names in left_out.items()}
    reasons = [f"{names[0]}{more[reason]}: {reason}" for reason, names in left_out.items()]
    return f"{'; '.join(reasons)}; {allowed}"


def read_photos(
    source: str | Path,
    resolution: int,
    default_caption: str,
    limit: int | None = None,
    seed: int = 0,
    known: Collection[str] = (),
    what: str = "photos",
) -> Photos:
    """Decode the photos of a source, in its order. What is unreadable, too small or a duplicate becomes a note.

    With `limit`, a random sample of that many usable photos, decided by `seed`; no others are decoded. Photos whose
    hash is in `known` are left out (non-members that are members too). Notes call the photos `what`; if it is "", no
    note mentions captions. Raises UserError when no photo is usable.
    """
    listing = list_photos(source)
    listed, notes = listing.photos, listing.notes
    order = list(range(len(listed)))
    if limit is not None and limit < len(listed):
        order = np.random.default_rng(seed).permutation(len(listed)).tolist()
    wanted = min(len(listed), limit or len(listed))
    images = pixel_array(wanted, resolution, resolution)
    filled = images.numpy()
    kept: list[int] = []
    hashes: dict[str, int] = {}  # content: position of the first such photo
    taken: dict[int, str] = {}  # captions of photos that have none but in another copy
    traits: list[Traits] = []
    left_out: dict[str, list[str]] = {}

    def leave_out(name: str, reason: str, text: str) -> None:
        names = left_out.setdefault(reason, [])
        names.append(name)
        if text and len(names) <= NOTED:
            notes.append(f"{name}: {text}")

    pictures = _read_ahead((listed[i] for i in order), resolution, lambda: wanted - len(kept))
    for position, picture in zip(order, pictures, strict=False):
        name = listed[position].name
        if isinstance(picture, Unreadable):
            leave_out(name, f"unreadable: {str(picture).split(':')[0]}", f"unreadable ({picture})")
            continue
        if isinstance(picture, _TooSmall):
            text = f"{picture} pixels, too small (at least {MIN_SIDE})"
            leave_out(name, f"smaller than {MIN_SIDE} pixels", text)
            continue
        if picture.note:
            notes.append(f"{name}: {picture.note}")
        if picture.content in known:
            leave_out(name, MEMBER_TOO, "")
        elif picture.content in hashes:
            first, caption = hashes[picture.content], listed[position].caption
            kept_caption = listed[first].caption or taken.get(first)
            text = f"the same picture as {listed[first].name}, left out"
            if caption and not kept_caption:
                taken[first], text = caption, f"{text}, but its caption is used"
            elif caption and caption != kept_caption:
                text += ", and so is its other caption"
            leave_out(name, "the same picture as another", text)
        else:
            filled[len(kept)] = picture.pixels.transpose(2, 0, 1)
            traits.append(picture.traits)
            hashes[picture.content] = position
            kept.append(position)
    for reason, names in left_out.items():
        if len(names) > NOTED and reason != MEMBER_TOO:
            notes.append(f"{len(names) - NOTED} more were left out, {reason}")
    if twice := len(left_out.get(MEMBER_TOO, ())):
        notes.append(f"{twice} non-members are also members and were left out")
    if not kept:
        raise UserError(f"no usable image in {source}: {shown(_why_none(listing, notes, left_out))}")
    images, contents = images[: len(kept)], list(hashes)
    if order != sorted(order):  # a sample is put back into the source's order
        back = sorted(range(len(kept)), key=kept.__getitem__)
        images, kept, contents = gather(images, back), [kept[i] for i in back], [contents[i] for i in back]
        traits = [traits[i] for i in back]
    if len(kept) < len(listed) and len(kept) == wanted:
        notes.append(f"{len(kept)} of {len(listed)} {what} are used")
    found = [listed[i].caption or taken.get(i) for i in kept]
    bare = found.count(None)
    if bare and default_caption and what:
        notes.append(f"{bare} of {len(kept)} {what} have no caption: {default_caption!r} is used for them")
    captions = tuple(caption or default_caption for caption in found)
    unread = len(listed) - len(kept) - sum(map(len, left_out.values()))
    account = Account(len(listed), unread, left_out, listing.unmatched, listing.others, len(kept) - bare, tuple(traits))
    return Photos(
        images, tuple(listed[i].name for i in kept), captions, tuple(contents), tuple(map(shown, notes)), account
    )
