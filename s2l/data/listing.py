"""What a source of photos holds, unread: a folder, or a list of paths and captions (.jsonl, .csv, .parquet)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from s2l.data.captions import LIST_FIELDS, READERS, folder_captions, said_notes, table_rows
from s2l.data.decode import HEAD, IMAGE_SUFFIXES, NOT_READ, Unreadable, looks_like_picture, open_regular, suffix_of
from s2l.data.files import shown
from s2l.errors import UserError
from s2l.store import cache_root

# Folders in which other programs keep thumbnails, deleted files and notes of their own; in lower case.
FOREIGN = frozenset((
    "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
    "thumbs", "thumbnails",
))  # fmt: skip
SIDE_FILES = (".txt", ".caption", ".json", ".jsonl", ".csv", ".parquet", ".md", ".yaml", ".safetensors", ".npz")
PICTURES = frozenset((*IMAGE_SUFFIXES, *NOT_READ))


@dataclass(frozen=True)
class Listed:
    """One photo of a source: its name there, its file, and its caption if it has one."""

    name: str
    path: Path
    caption: str | None


@dataclass(frozen=True)
class Listing:
    """What a source holds, unread: its photos, notes on its captions, and what was passed over."""

    photos: list[Listed]
    notes: list[str] = field(default_factory=list)
    unmatched: int = 0  # captions that match no picture
    others: dict[str, int] = field(default_factory=dict)  # files that are neither pictures nor captions, by suffix
    is_folder: bool = False


def list_photos(source: str | Path) -> Listing:
    """What a folder or a list holds, unread.

    Raises UserError when it is neither, for a list without paths, and for a table of captions that cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        names, others, closed, foreign = _files(source)
        captions, notes, unmatched = folder_captions(source, names, others)
        if closed:
            notes.append(
                f"{len(closed)} folders are links or cannot be opened and were passed over, such as {min(closed)}"
            )
        if foreign:
            notes.append(
                f"{len(foreign)} folders that are hidden, or of other programs or the cache, were passed over, "
                f"such as {min(foreign)}"
            )
        kinds = Counter(shown(suffix) for name in sorted(others) if (suffix := suffix_of(name)) not in SIDE_FILES)
        photos = [Listed(shown(name), source / name, captions.get(name)) for name in names]
        return Listing(photos, notes, unmatched, dict(kinds.most_common()), is_folder=True)
    if not source.is_file() or source.suffix.lower() not in READERS:
        raise UserError(f"{source} is not a folder of images, nor a list of them ({', '.join(READERS)})")
    return _rows_of(source)


def _rows_of(table: Path) -> Listing:
    """What a list holds: each photo once, with the last of its captions."""
    photos: dict[str, Listed] = {}
    again, said = list[str](), Counter[str]()
    for row in table_rows(table, said, LIST_FIELDS):
        place = _place(table.parent, row.path)  # an absolute path stays what it is
        before = photos.get(key := os.path.normpath(place))
        caption = row.caption
        if before is not None:
            again.append(before.name)
            caption = before.caption if caption is None else caption
        photos[key] = Listed(shown(row.path) if before is None else before.name, place, caption)
    notes = said_notes(table.name, said)
    if again:
        notes.append(
            f"{table.name}: {len(again)} rows name a photo again, such as {again[0]}: its last caption is used"
        )
    return Listing(list(photos.values()), notes)


def _place(folder: Path, name: str) -> Path:
    """The file of a row; Windows's slashes count where there is no file of that very name."""
    if "\\" in name and "\0" not in name and not os.path.lexists(folder / name):
        name = name.replace("\\", "/")
    return folder / name


def picture_files(folder: Path) -> list[str]:
    """The pictures of a folder and of those below it: relative paths, sorted by folder and name.

    A file counts as a picture by its suffix or, if that is unknown, by its first bytes. It may still turn out to be
    unreadable; reading it then says why. Links to folders are not followed, because they may form a circle.
    """
    return _files(folder)[0]


def _files(folder: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """(pictures, other files, folders that cannot be read, folders not of photos) of a folder and of those below it."""
    pictures: list[str] = []
    others: list[str] = []
    closed: list[str] = []
    foreign: list[str] = []
    not_photos = {str(cache_root().resolve())}

    def cannot_open(error: OSError) -> None:
        closed.append(os.path.relpath(error.filename, folder))

    for here, folders, files in os.walk(folder, onerror=cannot_open):
        if "blobs" in folders and "snapshots" in folders:
            not_photos |= _in_hub_cache(Path(here))
        left = [name for name in folders if _is_foreign(os.path.join(here, name), not_photos)]
        foreign += [os.path.relpath(os.path.join(here, name), folder) for name in left]
        folders[:] = [name for name in folders if name not in left]
        closed += [
            os.path.relpath(path, folder) for name in folders if os.path.islink(path := os.path.join(here, name))
        ]
        relative = Path(here).relative_to(folder).as_posix()
        below = "" if relative == "." else relative + "/"
        for name in files:
            if name.startswith("._"):  # what a Mac writes beside a file
                continue
            suffix = suffix_of(name)
            is_picture = suffix in PICTURES or (suffix not in SIDE_FILES and _is_picture(os.path.join(here, name)))
            (pictures if is_picture else others).append(below + name)
    return sorted(pictures, key=lambda path: path.split("/")), others, closed, foreign


def _is_foreign(path: str, not_photos: Collection[str]) -> bool:
    name = os.path.basename(path).lower()
    return name.startswith(".") or name in FOREIGN or os.path.realpath(path) in not_photos


def _in_hub_cache(folder: Path) -> set[str]:
    """Of a repository in a Hugging Face cache, the folders to pass over: its files by hash, and other revisions.

    A revision is a folder of links to the files, under their names. Raises UserError if it is not clear which is meant.
    """
    folder = folder.resolve()
    revisions = {path.name: path for path in sorted((folder / "snapshots").iterdir()) if path.is_dir()}
    if not any(path.is_symlink() for revision in revisions.values() for path in revision.rglob("*")):
        return set()  # another folder of these names
    try:
        current = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        current = ""
    if current not in revisions and len(revisions) > 1:
        first = next(iter(revisions.values()))
        raise UserError(f"{folder} holds {len(revisions)} revisions: name the one that is meant, such as {first}")
    left = [path for name, path in revisions.items() if name != current and len(revisions) > 1]
    return {str(path) for path in (folder / "blobs", *left)}


def _is_picture(path: str) -> bool:
    try:
        with open_regular(path) as file:
            return looks_like_picture(file.read(HEAD))
    except Unreadable:
        return False
