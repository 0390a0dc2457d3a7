"""A visitor's own photos: checked, stripped of metadata, and kept for a day.

They are in `uploads/` of the cache, in a folder with an unguessable name that is never served.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from s2l.data.decode import HEAD, Unreadable, decode, looks_like_picture, open_regular, readable
from s2l.errors import UserError
from s2l.jobs.limits import MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS, MAX_UPLOADS
from s2l.store import Store

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "HEIF")
MIN_PHOTOS = 3  # of each kind: fewer are too few for a ROC curve


def _pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file. Raises ValueError with what is wrong."""
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"larger than {MAX_UPLOAD_BYTES / 1e6:g} MB")
    try:
        return np.asarray(decode(path, FORMATS, MAX_UPLOAD_PIXELS).image)
    except Unreadable as error:
        raise ValueError(f"not a readable picture ({', '.join(FORMATS)}): {error}") from None


def kind_of(path: Path) -> str:
    """The format of an uploaded picture, from its first bytes: "png". Raises UserError for every other file."""
    allowed = f"only pictures are accepted ({', '.join(FORMATS)})"
    try:
        with open_regular(path) as file:
            if looks_like_picture(file.read(HEAD)):
                with Image.open(file, formats=readable(FORMATS)) as picture:
                    return str(picture.format).lower()
    except (Unreadable, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # all of these give the error below
    raise UserError(allowed)


def keep(store: Store, kinds: Mapping[str, Sequence[str | Path]]) -> dict[str, str]:
    """Copy uploaded pictures into a new folder, one subfolder per kind, and delete the originals.

    Only pixels are copied: no location, no time, no file name. Returns {kind: folder}. Raises UserError.
    """
    home, folders = store.root / "uploads" / secrets.token_urlsafe(16), {}
    try:
        for kind, paths in kinds.items():
            if not MIN_PHOTOS <= len(paths) <= MAX_UPLOADS:
                raise UserError(f"{kind}: from {MIN_PHOTOS} to {MAX_UPLOADS} pictures are needed, not {len(paths)}")
            folder = home / kind
            folder.mkdir(parents=True)
            for i, path in enumerate(map(Path, paths)):
                try:
                    Image.fromarray(_pixels(path)).save(folder / f"{i:04d}.png", compress_level=1)
                except ValueError as error:
                    raise UserError(f"{kind}, picture {i + 1}: {error}") from None
            folders[kind] = str(folder)
    except UserError:
        discard(home)
        raise
    finally:
        for paths in kinds.values():
            for upload in paths:
                with suppress(OSError):
                    Path(upload).unlink()
    return folders


def folders(root: Path) -> list[Path]:
    """Every upload in a cache: those that the page has just taken (ui/guard.py), and those that were kept for a run."""
    return [folder for place in ("public/visitors", "uploads") for folder in (root / place).glob("*")]


def discard(folder: Path) -> None:
    """Delete one visitor's pictures."""
    shutil.rmtree(folder, ignore_errors=True)
