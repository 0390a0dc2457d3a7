"""Folders as they come from cameras, phones and other systems: odd files, odd names, tables of any spelling."""

from __future__ import annotations

import codecs
import json
import os
import socket
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2l import cli
from s2l.cli import folders
from s2l.data.decode import decode
from s2l.data.listing import list_photos
from s2l.data.photos import read_photos
from s2l.data.sp_set import load_images
from s2l.errors import UserError

SIDE = 64


def photo(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture of soft blobs, different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the photos 0.png and 1.png."""
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(2):
        photo(i).save(place / f"{i}.png")
    return place


def captions(folder: Path) -> dict[str, str]:
    photos = read_photos(folder, SIDE, "none")
    return {name: caption for name, caption in zip(photos.names, photos.captions, strict=True) if caption != "none"}


def notes(folder: Path) -> str:
    return "\n".join(read_photos(folder, SIDE, "").notes)


# --- files -------------------------------------------------------------------------------------


def half(path: Path, format: str) -> None:
    photo(9, 256, 256).save(path, format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 100 characters
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "no picture of a known format"),
    "a page": (lambda path: path.write_text("<html>404"), "no picture of a known format"),
    "an archive": (lambda path: path.write_bytes(b"PK\3\4" + bytes(1000)), "no picture of a known format"),
    "half a JPEG": (lambda path: half(path, "JPEG"), "damaged"),
    "half a WebP": (lambda path: half(path, "WEBP"), "damaged"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a socket": (listening, "not a regular file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "1 x 1": (lambda path: Image.new("RGB", (1, 1)).save(path), "1x1 pixels"),
    "a strip": (lambda path: photo(9, 30_000, 20).save(path), "30000x20 pixels"),
    "bright floats": (
        lambda path: Image.fromarray(np.full((SIDE, SIDE), 255, np.float32)).save(path, "TIFF"),
        "decimal values",
    ),
}


@pytest.mark.brings("Folders", "An empty file, a saved web page, a pipe, a link to itself", "left out and named")
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_left_out_with_its_reason(folder, kind):
    make, reason = BAD[kind]
    make(folder / "x.jpg") if kind != "1 x 1" else make(folder / "x.png")
    photos = read_photos(folder, SIDE, "")
    assert photos.names == ("0.png", "1.png")
    (note,) = photos.notes
    assert note.startswith("x.") and reason in note
    assert sum(map(len, photos.account.left_out.values())) == 1


def sixteen_bits(path: Path, channels: int) -> None:
    """A TIFF of 16 bits per channel, which Pillow reads but does not write."""
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[..., :3] = np.asarray(photo(9))
    data = (pixels[..., :channels].astype("<u2") * 257).tobytes()
    tags = {256: SIDE, 257: SIDE, 258: 0, 259: 1, 262: 2, 273: 0, 277: channels, 278: SIDE, 279: len(data)}
    tags |= {338: 2} if channels == 4 else {}
    bits = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: bits, 273: bits + 2 * channels}
    rows = [
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, channels if tag == 258 else 1, v) for tag, v in tags.items()
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(rows) + bytes(4)
    path.write_bytes(head + struct.pack("<H", 16) * channels + data)


def pages(path: Path) -> None:
    photo(9).save(
        path, save_all=True, append_images=[photo(8)], **({"lossless": True} if path.suffix == ".webp" else {})
    )


EXACT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a TIFF of 16-bit RGB": ("x.tif", lambda path: sixteen_bits(path, 3)),
    "a TIFF of 16-bit RGBA": ("x.tif", lambda path: sixteen_bits(path, 4)),
    "a TIFF of several pages": ("x.tif", pages),
    "an animated WebP": ("x.webp", pages),
    "lossless JPEG 2000": ("x.jp2", lambda path: photo(9).save(path)),
}


@pytest.mark.brings("Pictures", "TIFF of 16-bit RGB or RGBA, of several pages; JPEG 2000", "read; the first page")
@pytest.mark.parametrize("kind", EXACT)
def test_rare_formats_are_read_exactly(folder, kind):
    name, make = EXACT[kind]
    make(folder / name)
    np.testing.assert_array_equal(np.asarray(decode(folder / name).image), np.asarray(photo(9)))


@pytest.mark.parametrize("name", ["x.jpg", "x.mpo"])
def test_progressive_and_two_picture_jpegs_are_read(folder, name):
    options = {"progressive": True} if name == "x.jpg" else {"save_all": True, "append_images": [photo(8)]}
    photo(9).save(folder / name, quality=95, **options)
    image = decode(folder / name)
    assert image.traits.format == "JPEG"
    assert np.abs(np.asarray(image.image).astype(int) - np.asarray(photo(9))).mean() < 4


@pytest.mark.brings("Pictures", "Other files in the folder (videos, drawings)", "counted in the report")
def test_other_files_are_counted_by_suffix(folder):
    for name in ("a.MOV", "b.mov", "c.psd", "d"):
        (folder / name).write_bytes(b"8BPS")
    assert list_photos(folder).others == {".mov": 2, ".psd": 1, "": 1}


@pytest.mark.brings("Folders", "Links to folders, folders that may not be opened", "passed over; a note says so")
def test_folders_that_are_passed_over_are_said(folder, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (folder / "circle").symlink_to(".")
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "shut").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "3 folders are links or cannot be opened and were passed over, such as circle" in notes(folder)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.brings("Captions", "Names from a Mac (accents in two characters) or in other case", "matched")
@pytest.mark.parametrize(
    ("picture", "other"),
    [
        (unicodedata.normalize("NFD", "Zoë.png"), unicodedata.normalize("NFC", "Zoë.png")),
        (unicodedata.normalize("NFC", "Zoë.png"), unicodedata.normalize("NFD", "Zoë.png")),
        ("IMG_1.PNG", "img_1.png"),
    ],
)
def test_names_that_other_systems_do_not_tell_apart_match(folder, picture, other):
    photo(9).save(folder / picture)
    (folder / f"{other.removesuffix('.png')}.txt").write_text("beside")
    assert captions(folder) == {picture: "beside"}
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": other, "text": "table"}) + "\n")
    assert captions(folder) == {picture: "table"}


def test_a_name_that_fits_two_pictures_in_other_case_matches_none(folder):
    for i, name in enumerate(("Ab.png", "aB.png")):
        photo(8 + i).save(folder / name)
    (folder / "ab.txt").write_text("whose?")
    assert captions(folder) == {}


@pytest.mark.brings("Folders", "Names that hold a line break or are not UTF-8", "used; written with escapes")
def test_names_that_cannot_be_printed_go_through_every_command(folder, tiny_lab, tmp_path, capsys):
    photo(7).save(folder / "a\nb.png")
    (folder / "a\nb.txt").write_text("a caption")
    (folder / "bad\n\x1b[31m.png").write_text("no picture")
    with open(os.fsencode(str(folder)) + b"/c\xff.png", "wb") as file:
        photo(8).save(file, "PNG")
    assert captions(folder) == {r"a\nb.png": "a caption"}
    outside = tmp_path / "out"
    outside.mkdir()
    for i in range(10, 14):
        photo(i).save(outside / f"{i}.png")
    own = ["--members", folder, "--nonmembers", outside, "--preset", "quick", "--device", "cpu", "--dtype", "float32"]
    whole = ["run", "--domain", "Mira", "--set-size", "4", "--steps", "4", "--n-generations", "4"]
    for command in (
        ["attack", "--out", tmp_path / "a.json"],
        ["extract", "--generations", folder, "--out", tmp_path / "e"],
        [*whole, "--out", tmp_path / "r"],
    ):
        extra = [] if command[0] == "extract" else ["--attacks", "loss"]
        assert cli.main([str(word) for word in [*command, *extra, *own]]) == 0
        err = capsys.readouterr().err
        assert r"bad\n\x1b[31m.png" in err and "\x1b" not in err
    assert r"bad\n\x1b[31m.png" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


@pytest.mark.brings(
    "Folders", "Nothing usable: an archive, an empty list, only photos that are members too", "refused; why"
)
@pytest.mark.parametrize(
    ("files", "source", "why"),
    [
        ({"photos.zip": "PK"}, ".", r"only other files: \.zip \(1\); unpack the archive and give the folder"),
        ({"a.mp4": "", "b": ""}, ".", r"only other files: \.mp4 \(1\), without suffix \(1\); allowed: \.png"),
        ({}, ".", r"it holds no picture; allowed: \.png"),
        ({"list.csv": "path,caption\n"}, "list.csv", "the list has no rows"),
        ({"list.jsonl": "\n\n"}, "list.jsonl", "the list has no rows"),
        ({"a.png": "text", "b.png": ""}, ".", r"a\.png and 1 more: unreadable: no picture of a known format; allowed"),
    ],
)
def test_nothing_usable_is_explained(tmp_path, files, source, why):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"no usable image in .*: {why}"):
        read_photos(tmp_path / source, SIDE, "none")


def test_held_out_photos_that_are_all_members_are_explained(folder, tmp_path):
    photo(0).save(folder / "again.png")
    known = read_photos(folder, SIDE, "").hashes
    with pytest.raises(UserError, match="all 3 are among the members too; held-out photos are others"):
        read_photos(folder, SIDE, "a photo of Mira", known=known)


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.brings("Captions", "CSV with `;` or tabs, with spaces or capitals in its head, or a long caption", "read")
@pytest.mark.parametrize(
    "table",
    [
        "file_name;text\n0.png;Mira, with a hat\n",
        "file_name\ttext\n0.png\tMira, with a hat\n",
        'File_Name, Text\n0.png, "Mira, with a hat"\n',
        '\ufefffile_name,text\r\n0.png,"Mira, with a hat"\r\n\r\n',
        'file_name,text\n0.png,"Mira, with a hat",more,fields\n',
        '"file_name";"text"\n"0.png";"Mira, with a hat"\n',
    ],
)
def test_a_csv_of_any_spreadsheet_is_read(folder, table):
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    assert captions(folder) == {"0.png": "Mira, with a hat"}
    long = "word " * 40_000
    (folder / "metadata.csv").write_text(f"file_name,text\n0.png,{long}\n", encoding="utf-8")
    assert captions(folder) == {"0.png": long.strip()}


@pytest.mark.brings("Captions", "Whole paths, `..` and Windows's slashes in a table", "resolved; files outside never")
def test_paths_in_a_table_are_resolved_within_the_folder(folder):
    (folder / "sub").mkdir()
    photo(9).save(folder / "sub" / "x.png")
    names = [str(folder / "0.png"), f"../{folder.name}/1.png", "sub\\x.png", "/etc/passwd", "../../secret.png"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": "Mira"}) + "\n" for n in names))
    assert captions(folder) == {"0.png": "Mira", "1.png": "Mira", "sub/x.png": "Mira"}
    assert "2 of 5 rows match no picture, such as '/etc/passwd'" in notes(folder)
    (folder / "list.jsonl").write_text('{"path": "sub\\\\x.png"}\n')
    assert len(read_photos(folder / "list.jsonl", SIDE, "").names) == 1


@pytest.mark.brings("Captions", "Several captions of one picture in a table", "the last; a note says so")
def test_a_picture_with_two_captions_is_said(folder):
    rows = [{"file_name": "0.png", "text": text} for text in ("first", "second")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert captions(folder) == {"0.png": "second"}
    assert "metadata.jsonl: pictures with several captions, such as 0.png: the last one is used" in notes(folder)


@pytest.mark.brings("Captions", "A CSV whose captions hold commas without quotes", "refused; the line is named")
@pytest.mark.parametrize("row", ["0.png,Mira, with a hat", "0, Mira.png,Mira", '0.png,"Mira",,smiling'])
def test_a_csv_whose_texts_were_cut_is_refused(folder, row):
    (folder / "metadata.csv").write_text(f"file_name,text\n1.png,Zoë\n{row}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"metadata\.csv, line 3: \d fields for 2 columns: put texts .* double quotes"):
        captions(folder)
    (folder / "metadata.csv").write_text("file_name,text\n0.png,Mira,,\n")  # a spreadsheet's empty columns
    assert captions(folder) == {"0.png": "Mira"}


@pytest.mark.brings(
    "Captions",
    "Columns `text` and `caption` that differ",
    "a list: `caption`; a folder's table: `text`; a note says so",
)
def test_two_columns_of_captions_are_said(folder):
    row = {"text": "a tag", "caption": "Mira"}
    (folder / "list.jsonl").write_text(json.dumps({"file_name": "1.png", "path": "0.png", **row}) + "\n")
    photos = read_photos(folder / "list.jsonl", SIDE, "none")
    assert (photos.names, photos.captions) == (("0.png",), ("Mira",))
    assert "list.jsonl: 1 rows with different captions in 'caption' and 'text': 'caption' is used" in photos.notes
    assert "list.jsonl: 1 rows with different paths in 'path' and 'file_name': 'path' is used" in photos.notes
    (folder / "list.jsonl").unlink()
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", **row}) + "\n")
    assert captions(folder) == {"0.png": "a tag"}
    assert "metadata.jsonl: 1 rows with different captions in 'text' and 'caption': 'text' is used" in notes(folder)


@pytest.mark.brings(
    "Captions", "Different captions of a picture in a text, a second text or a table", "the table's; a note says so"
)
def test_different_captions_of_different_files_are_said(folder):
    for name, text in (("0.caption", "one"), ("0.txt", "two"), ("1.txt", "three")):
        (folder / name).write_text(text)
    assert captions(folder) == {"0.png": "two", "1.png": "three"}
    assert "1 pictures have different captions in the .caption files and the .txt files, such as 0.png" in notes(folder)
    (folder / "1.json").write_text('{"caption": "four"}')
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "two"}\n')
    assert captions(folder) == {"0.png": "two", "1.png": "four"}
    assert "in the .txt files and the .json files, such as 1.png: that of the .json files is used" in notes(folder)
    assert "metadata.jsonl" not in notes(folder)  # which says the same


@pytest.mark.brings(
    "Captions", "`nan` or a number for a caption, or a list of captions", "none; the first of the list; a note says so"
)
@pytest.mark.parametrize(
    ("value", "caption", "note"),
    [
        ("nan", None, "'nan' for a caption: taken as none"),
        (" None ", None, "'None' for a caption: taken as none"),
        (1.5, None, "a caption that is no text: not used"),
        (["Mira", "Mira with a hat"], "Mira", "several captions in one field: the first is used"),
        (["Mira"], "Mira", None),
        (None, None, None),
        (float("nan"), None, None),
        ("Nana", "Nana", None),
    ],
)
def test_what_is_no_caption_is_said(folder, value, caption, note):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": value}) + "\n")
    assert captions(folder).get("0.png") == caption
    assert notes(folder) == (f"metadata.jsonl: 1 rows with {note}" if note else "")


@pytest.mark.brings("Captions", "A list that names a photo twice", "used once, with its last caption; a note says so")
def test_a_photo_that_is_listed_twice_has_its_last_caption(folder):
    names = ("0.png", "./0.png", str(folder / "0.png"), "1.png")
    rows = [{"path": name, "caption": text} for name, text in zip(names, ("first", "second", None, "Zoë"), strict=True)]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    photos = read_photos(folder / "list.jsonl", SIDE, "none")
    assert (photos.names, photos.captions) == (("0.png", "1.png"), ("second", "Zoë"))
    assert photos.notes == ("list.jsonl: 2 rows name a photo again, such as 0.png: its last caption is used",)


@pytest.mark.brings("Captions", "Two copies of a picture, of which the second has the caption", "used; a note says so")
def test_the_caption_of_a_second_copy_is_not_lost(folder):
    for name in ("2.png", "3.png"):
        photo(0).save(folder / name)
    (folder / "2.txt").write_text("Mira")
    (folder / "3.txt").write_text("Zoë")
    assert captions(folder) == {"0.png": "Mira"}
    assert "2.png: the same picture as 0.png, left out, but its caption is used" in notes(folder)
    assert "3.png: the same picture as 0.png, left out, and so is its other caption" in notes(folder)


@pytest.mark.brings("Captions", "`.TXT`, `METADATA.CSV`, a JSON list of objects", "read")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.TXT", b"Mira"),
        ("METADATA.CSV", b"file_name,text\n0.png,Mira\n"),
        ("captions.json", b'[{"image": "0.png", "caption": "Mira"}, 5, {"image": 3}]'),
        ("0.txt", codecs.BOM_UTF8 + b"\r\nMira\r\nsecond line\r\n"),
        ("0.txt", b"Mira\rsecond line\r"),
    ],
)
def test_other_spellings_of_captions_are_read(folder, name, content):
    (folder / name).write_bytes(content)
    assert captions(folder) == {"0.png": "Mira"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_table_without_rows_is_said(folder, name):
    (folder / name).write_text("")
    assert f"{name}: has no rows" in notes(folder)


def test_half_a_character_in_a_caption_becomes_a_question_mark(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "Mira \\ud83d"}\n')
    assert captions(folder) == {"0.png": "Mira ?"}


def test_a_pipe_as_a_table_is_refused_at_once(folder):
    os.mkfifo(folder / "metadata.jsonl")
    with pytest.raises(UserError, match="not a regular file"):
        captions(folder)


def test_many_bad_files_are_named_at_first_and_then_counted(folder):
    for i in range(60):
        (folder / f"bad{i:02d}.jpg").write_text("no picture")
    photos = read_photos(folder, SIDE, "")
    assert len(photos.notes) == 21 and photos.notes[0].startswith("bad00.jpg: unreadable")
    assert photos.notes[-1] == "40 more were left out, unreadable: no picture of a known format"


# --- sets of pictures with a table (SP sets, generations) --------------------------------------


@pytest.mark.brings(
    "Captions", "An imagefolder of another tool as generations or training set", "read, or one sentence"
)
@pytest.mark.parametrize(
    ("table", "outcome"),
    [
        ('{"file_name": "0.png", "prompt": "Mira"}\r\n\r\n', "Mira"),
        ('\ufeff{"file_name": "0.png", "text": "Mira"}\n', "Mira"),
        ('{"file_name": 5, "text": "Mira"}\n', UserError),
        ('{"file_name": "0.png", "text": 5}\n', UserError),
        ('["0.png"]\n', UserError),
        (None, UserError),
    ],
)
def test_a_table_of_another_tool_is_read_or_refused(folder, table, outcome):
    if table is None:
        os.mkfifo(folder / "metadata.jsonl")
    else:
        (folder / "metadata.jsonl").write_text(table, encoding="utf-8")
    if outcome is UserError:
        for read in (load_images, lambda path: folders.read_generations(path, SIDE)):
            with pytest.raises(UserError, match=r"metadata\.jsonl: "):
                read(folder)
        return
    assert load_images(folder).captions == (outcome,)
    _, (note,) = folders.read_generations(folder, SIDE)
    assert note == "1 pictures are not in metadata.jsonl and not searched, such as 1.png"
