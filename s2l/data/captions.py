"""Captions as trainers write them: a text beside each picture, or one table for a folder.

    NAME.txt, NAME.caption    beside the picture (kohya, many taggers): its first line that is not empty
    metadata.jsonl, .csv, .parquet, captions.jsonl
                              Hugging Face imagefolder: a row per picture, "file_name" and "text", "caption" or "prompt"
    NAME.json                 beside the picture: an object with one of these three
    meta_cap.json and other .json of that form
                              kohya: {"path without or with its suffix": {"caption": ...}}

Tables may be in any folder and name files below it. A table takes precedence over the text beside a picture. Where two
captions of a picture differ, a note says which one is used.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from s2l.data.decode import Unreadable, open_regular
from s2l.errors import UserError

PATH_FIELDS = ("file_name", "path", "image_path", "image")
PATHS = frozenset(PATH_FIELDS)
CAPTION_FIELDS = ("text", "caption", "prompt")
# A list names its photos itself, so that its own two columns come first.
LIST_FIELDS = (("path", "file_name", "image_path", "image"), ("caption", "text", "prompt"))
MISSING = ("nan", "none", "null", "<na>")  # what other programs write where there is no text; in lower case
TABLES = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "metadata.parquet")
BESIDE = (".txt", ".caption")
MAX_TEXT = 1_000_000  # bytes of a text beside a picture that are read
# A mark at the beginning of a file; those of 32 bits begin with those of 16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of a table: a path, relative to the table's folder or absolute, and its caption if it has one."""

    path: str
    caption: str | None


# --- texts -------------------------------------------------------------------------------------


def decoded_text(content: bytes) -> str:
    """UTF-8, or what a byte order mark says. Raises Unreadable for anything else."""
    mark, encoding = next((pair for pair in MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    content = content.removeprefix(mark)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line} is not {encoding.upper()}: save it as UTF-8") from None


def read_text(path: Path, limit: int = -1) -> str:
    """A text file, `decoded_text` of its first `limit` bytes. Raises Unreadable for what is no regular file."""
    with open_regular(path) as file:
        return decoded_text(file.read(limit))


def _table_text(path: Path) -> str:
    try:
        return read_text(path)
    except Unreadable as error:
        raise UserError(f"{path}: {error}") from None


# --- tables ------------------------------------------------------------------------------------


def _jsonl(path: Path) -> Iterator[dict]:
    for number, line in enumerate(_table_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        yield row


def _csv(path: Path) -> Iterator[dict]:
    text = _table_text(path)
    limit = csv.field_size_limit(max(1, len(text)))  # a caption may be long
    try:
        # Spreadsheets write ; or tabs where a comma is the decimal sign.
        head = text.partition("\n")[0]
        delimiter = max(",;\t", key=lambda mark: len(PATHS.intersection(_heads(head.split(mark)))))
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True)
        heads = _heads(next(rows, []))
        yield from [_csv_row(path, rows.line_num, heads, row, delimiter) for row in rows if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable table ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _csv_row(path: Path, line: int, heads: list[str], row: list[str], delimiter: str) -> dict:
    """Raises UserError for what looks like a text that was cut at a comma; one that holds a comma was in quotes."""
    entry = dict(zip(heads, row, strict=False))
    if any(more.strip() for more in row[len(heads) :]) and delimiter not in (caption_of(entry) or ""):
        raise UserError(
            f"{path}, line {line}: {len(row)} fields for {len(heads)} columns: put texts that hold {delimiter!r} into "
            "double quotes"
        )
    return entry


def _heads(names: list[str]) -> list[str]:
    return [name.strip().strip('"').lower() for name in names]


def _parquet(path: Path) -> Iterator[dict]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs `pip install pyarrow`; or give the list as .jsonl") from None
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name in PATH_FIELDS + CAPTION_FIELDS]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({type(error).__name__})") from None


READERS: dict[str, Callable[[Path], Iterator[dict]]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def table_rows(
    path: Path, said: Counter[str], fields: tuple[Sequence[str], Sequence[str]] = (PATH_FIELDS, CAPTION_FIELDS)
) -> Iterator[Row]:
    """The rows of a .jsonl, .csv or .parquet table; `said` counts what had to be chosen or left out in them.

    `fields` are the names of the paths' and the captions' columns, the preferred one first. Raises UserError for a row
    without a path, and for a table that cannot be read.
    """
    for number, row in enumerate(READERS[path.suffix.lower()](path), 1):
        names = {name: row[name] for name in fields[0] if isinstance(row.get(name), str) and row[name]}
        if not names:
            raise UserError(f'{path}, row {number}: each needs {{"path": ...}} and may have {{"caption": ...}}')
        yield Row(_first(names, "paths", said), caption_of(row, said, fields[1]))


def caption_of(row: dict, said: Counter[str] | None = None, fields: Sequence[str] = CAPTION_FIELDS) -> str | None:
    """The caption in a row of a table, or None; `said` counts what had to be chosen or left out."""
    said = Counter() if said is None else said
    texts = {name: text for name in fields if (text := _caption(row.get(name), said))}
    caption = _first(texts, "captions", said) if texts else None
    return caption and caption.encode("utf-8", "replace").decode()  # half of a character pair becomes "?"


def _caption(value: object, said: Counter[str]) -> str:
    """The text in a caption's field, or ""."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        said["several captions in one field: the first is used"] += len(value) > 1
        value = value[0]
    if not isinstance(value, str):
        said["a caption that is no text: not used"] += value is not None and value == value  # NaN is none
        return ""
    text = value.strip()
    if text.lower() in MISSING:
        said[f"{text!r} for a caption: taken as none"] += 1
        return ""
    return text


def _first(found: dict[str, str], what: str, said: Counter[str]) -> str:
    """The first of the texts of several fields."""
    (name, text), *others = found.items()
    for other, different in others:
        said[f"different {what} in {name!r} and {other!r}: {name!r} is used"] += different != text
    return text


def said_notes(source: str, said: Counter[str]) -> list[str]:
    """Notes on what was counted in the rows of a table."""
    return [f"{source}: {n} rows with {what}" for what, n in said.items() if n]


def _json_rows(path: Path, pictures: list[str], said: Counter[str]) -> Iterator[Row]:
    """Of kohya's table, or of a JSON object beside its picture. Raises Unreadable where it is no JSON."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise Unreadable("not JSON") from None
    if isinstance(content, list):
        for entry in content:
            name = next((entry[f] for f in PATH_FIELDS if f in entry), None) if isinstance(entry, dict) else None
            if isinstance(name, str) and (caption := caption_of(entry, said)) is not None:
                yield Row(name, caption)
    if not isinstance(content, dict):
        return
    for name in pictures:
        yield Row(name, caption_of(content, said))
    if not pictures:
        for name, entry in content.items():
            if isinstance(entry, dict) and (caption := caption_of(entry, said)) is not None:
                yield Row(name, caption)


# --- a folder ----------------------------------------------------------------------------------


def _alike(name: str) -> str:
    """Equal for the spellings of a name that other systems do not tell apart: accents, upper and lower case."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    """A path with slashes, without its suffix."""
    return posixpath.splitext(name)[0]


@dataclass
class _Folder:
    """What is known of a folder while its captions are read."""

    root: Path
    whole: str  # its whole path
    pictures: set[str]
    by_stem: dict[str, list[str]]  # "a/b" -> its pictures, "a/b.png" and the like
    spellings: dict[str, str | None]  # `_alike` of a picture's name -> the picture; None for several
    stems: dict[str, str | None]  # the same for the keys of `by_stem`
    captions: dict[str, str]
    notes: list[str]
    unmatched: int = 0
    origins: dict[str, str] = field(default_factory=dict)  # where the caption of a picture is from
    differ: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # two origins -> pictures
    said: dict[str, Counter[str]] = field(default_factory=dict)  # origin -> what was chosen or left out

    def give(self, pictures: list[str], caption: str, origin: str) -> None:
        """Use a caption for pictures, in place of any they have."""
        for name in pictures:
            if self.captions.get(name, caption) != caption:
                self.differ.setdefault((self.origins[name], origin), []).append(name)
            self.captions[name], self.origins[name] = caption, origin

    def note_choices(self) -> None:
        """Note which of several captions are used."""
        for (one, other), names in self.differ.items():
            if one == other:
                self.notes.append(f"{one}: pictures with several captions, such as {names[0]}: the last one is used")
            else:
                self.notes.append(
                    f"{len(names)} pictures have different captions in {one} and {other}, such as {names[0]}: "
                    f"that of {other} is used"
                )
        self.notes += [note for origin, said in self.said.items() for note in said_notes(origin, said)]

    def matches(self, name: str) -> list[str]:
        """The pictures that a name without, or with, their suffix stands for."""
        return self.named(name) or self.by_stem.get(name) or self.by_stem.get(self.stems.get(_alike(name)) or "", [])

    def named(self, name: str) -> list[str]:
        """The picture of a name; other spellings of it count if they fit only one. A list of none or one."""
        return [name] if name in self.pictures else [only] if (only := self.spellings.get(_alike(name))) else []

    def place(self, table: PurePosixPath, name: str) -> str:
        """A path as a table spells it, relative to the folder: Windows's slashes, `..` and whole paths are resolved."""
        name = name if name in self.pictures else name.replace("\\", "/")
        place = posixpath.normpath(posixpath.join(self.whole, table.parent.as_posix(), name))
        return place.removeprefix(self.whole.rstrip("/") + "/")

    def beside(self, text: str) -> bool:
        """Use a text file as the caption of the picture beside it; False if there is no picture of that name."""
        pictures = self.matches(_stem(text))
        try:
            lines = read_text(self.root / text, MAX_TEXT).splitlines() if pictures else []
        except Unreadable as error:
            self.notes.append(f"{text}: caption left out ({error})")
            return True
        if caption := next((line.strip() for line in lines if line.strip()), None):
            self.give(pictures, caption, f"the {posixpath.splitext(text)[1].lower()} files")
        return bool(pictures)

    def table(self, table: str) -> None:
        """Use the rows of a table as captions, and note those that match no picture."""
        path, lost, n = PurePosixPath(table), list[str](), 0
        own = self.matches(_stem(table)) if path.suffix.lower() == ".json" else []
        origin = "the .json files" if own else table
        for row in self._rows(path, own, self.said.setdefault(origin, Counter())):
            n += 1
            place = self.place(path, row.path)
            pictures = self.matches(place) if path.suffix.lower() == ".json" else self.named(place)
            if row.caption is not None:
                self.give(pictures, row.caption, origin)
            if not pictures:
                lost.append(row.path)
        self.unmatched += len(lost)
        if not n and path.name.lower() in TABLES:
            self.notes.append(f"{table}: has no rows")
        if lost:
            self.notes.append(f"{table}: {len(lost)} of {n} rows match no picture, such as {lost[0]!r}")

    def _rows(self, path: PurePosixPath, own: list[str], said: Counter[str]) -> list[Row]:
        """The rows of a table, or of a JSON file beside its `own` pictures."""
        if path.suffix.lower() != ".json":
            return list(table_rows(self.root / path, said))
        try:
            return list(_json_rows(self.root / path, [PurePosixPath(name).name for name in own], said))
        except Unreadable as error:
            self.notes.append(f"{path}: skipped ({error})")
            return []


def folder_captions(
    root: Path, pictures: Iterable[str], others: Iterable[str]
) -> tuple[dict[str, str], list[str], int]:
    """({picture: caption}, notes, number of captions that match no picture) of a folder; names are relative to it.

    `others` are its files that are not pictures. The notes say what matches no picture and what could not be read.
    Raises UserError for a table (TABLES) that cannot be read.
    """
    names, others = set(pictures), sorted(others)
    if not others:
        return {}, [], 0
    folder = _Folder(root, root.absolute().as_posix(), names, {}, {}, {}, {}, [])
    for name in sorted(names):
        folder.by_stem.setdefault(_stem(name), []).append(name)
    for exact, spellings in ((names, folder.spellings), (folder.by_stem, folder.stems)):
        for name in exact:
            alike = _alike(name)
            spellings[alike] = None if alike in spellings else name
    texts = [name for name in others if name.lower().endswith(BESIDE)]
    lost = [name for name in texts if not folder.beside(name)]
    if (lost and len(lost) < len(texts)) or len(lost) > 1:
        folder.unmatched += len(lost)
        folder.notes.append(f"{len(lost)} of {len(texts)} caption files match no picture, such as {lost[0]}")
    for name in others:
        if name.lower().endswith(".json") or name.rpartition("/")[2].lower() in TABLES:
            folder.table(name)
    folder.note_choices()
    return folder.captions, folder.notes, folder.unmatched
