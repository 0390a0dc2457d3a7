"""Captions that trainers wrote: beside pictures and in tables, in any encoding with a mark, and never in silence."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from PIL import Image

from s2l.cli import main
from s2l.config import DomainConfig
from s2l.data.domain import folder_domain
from s2l.data.photos import read_photos
from s2l.errors import UserError
from s2l.pipeline.captions import cut_notes

SIDE = 32


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (number * 20, 90, 30)).save(path)
    return folder


def captions(folder: Path) -> dict[str, str]:
    photos = read_photos(folder, SIDE, "none")
    return dict(zip(photos.names, photos.captions, strict=True))


def notes(folder: Path) -> str:
    return "\n".join(read_photos(folder, SIDE, "none").notes)


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- beside a picture -----------------------------------------------------------------------------


@pytest.mark.brings("Captions", "`.txt` or `.caption` beside a picture (kohya and others)", "the picture's caption")
@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_a_text_beside_a_picture_is_its_caption(tmp_path, suffix):
    pictures(tmp_path, "a.png", "below/b.jpg", "c.png")
    (tmp_path / f"a{suffix}").write_text("\n  Mira, smiling  \nsecond line\n")
    (tmp_path / "below" / f"b.jpg{suffix}").write_text("Mira with a hat")
    assert captions(tmp_path) == {"a.png": "Mira, smiling", "below/b.jpg": "Mira with a hat", "c.png": "none"}
    assert "1 of 3 photos have no caption: 'none' is used for them" in notes(tmp_path)


@pytest.mark.brings("Captions", "A byte order mark (UTF-8, UTF-16)", "decides the encoding")
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)  # fmt: skip
def test_a_byte_order_mark_decides_the_encoding(tmp_path, mark, encoding):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes(mark + "Beyoncé, été\r\n".encode(encoding))
    (tmp_path / "metadata.jsonl").write_bytes(mark + lines({"file_name": "b.png", "text": "Zoë"}).encode(encoding))
    assert captions(tmp_path) == {"a.png": "Beyoncé, été", "b.png": "Zoë"}


@pytest.mark.brings("Captions", "A text in an unknown encoding", "a note; the photo is used with the default caption")
def test_a_text_in_another_encoding_is_a_note_and_stops_nothing(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes("Beyoncé".encode("latin-1"))
    (tmp_path / "b.txt").write_text("Zoë")
    assert captions(tmp_path) == {"a.png": "none", "b.png": "Zoë"}
    assert "a.txt: caption left out (line 1 is not UTF-8: save it as UTF-8)" in notes(tmp_path)


@pytest.mark.brings("Captions", "Texts that belong to no picture", "counted in a note")
def test_texts_that_belong_to_no_picture_are_counted(tmp_path):
    pictures(tmp_path, "a.png")
    for name in ("a", "img_a", "img_b"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert "2 of 3 caption files match no picture, such as img_a.txt" in notes(tmp_path)


def test_a_readme_is_no_lost_caption(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "readme.txt").write_text("my photos")
    assert "match no picture" not in notes(tmp_path)


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.brings(
    "Captions",
    "Hugging Face imagefolder: `metadata.jsonl`, `.csv`, `.parquet` with `text` or `prompt`",
    "read",
)
@pytest.mark.parametrize("field", ["text", "caption", "prompt"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.jsonl", "metadata.csv", "metadata.parquet"])
def test_a_table_of_hugging_face_gives_captions(tmp_path, name, field):
    pictures(tmp_path, "a.png", "below/b.png")
    rows = [{"file_name": "a.png", field: 'Mira, "smiling"\nwith a hat'}, {"file_name": "below/b.png", field: "Zoë"}]
    path = tmp_path / name
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        first, second = rows
        quoted = first[field].replace('"', '""')
        path.write_text(f'file_name,{field}\na.png,"{quoted}"\nbelow/b.png,{second[field]}\n', encoding="utf-8")
    else:
        path.write_text(lines(*rows), encoding="utf-8")
    assert captions(tmp_path) == {"a.png": 'Mira, "smiling"\nwith a hat', "below/b.png": "Zoë"}
    assert notes(tmp_path) == ""


def test_a_table_of_a_folder_below_names_files_there_and_goes_before_texts(tmp_path):
    pictures(tmp_path, "train/a.png", "train/b.png")
    (tmp_path / "train" / "metadata.jsonl").write_text(lines({"file_name": "a.png", "text": "from the table"}))
    (tmp_path / "train" / "a.txt").write_text("from the text")
    (tmp_path / "train" / "b.txt").write_text("from the text")
    assert captions(tmp_path) == {"train/a.png": "from the table", "train/b.png": "from the text"}


@pytest.mark.brings("Captions", "Rows of a table that match no file", "counted in a note")
def test_rows_that_match_no_file_are_counted(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    rows = [{"file_name": f"images/{name}.png", "text": name} for name in "abc"]
    (tmp_path / "metadata.jsonl").write_text(lines(*rows))
    assert "metadata.jsonl: 3 of 3 rows match no picture, such as 'images/a.png'" in notes(tmp_path)
    assert "2 of 2 photos have no caption" in notes(tmp_path)


@pytest.mark.brings("Captions", "kohya's metadata file", "read, with or without suffixes")
def test_metadata_of_kohya_names_files_with_or_without_their_suffix(tmp_path):
    pictures(tmp_path, "a.png", "b.jpg", "c.png")
    table = {"a": {"caption": "Mira"}, "b.jpg": {"caption": "Zoë", "tags": "hat"}, "gone": {"caption": "x"}}
    (tmp_path / "meta_cap.json").write_text(json.dumps(table), encoding="utf-8")
    assert captions(tmp_path) == {"a.png": "Mira", "b.jpg": "Zoë", "c.png": "none"}
    assert "meta_cap.json: 1 of 3 rows match no picture, such as 'gone'" in notes(tmp_path)


def test_an_object_beside_a_picture_gives_its_caption_and_other_json_is_passed_over(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "Mira", "width": 48}))
    (tmp_path / "settings.json").write_text(json.dumps({"optimizer": {"name": "AdamW"}}))
    (tmp_path / "broken.json").write_text("[" * 100_000)
    assert captions(tmp_path) == {"a.png": "Mira", "b.png": "none"}
    assert "broken.json: skipped (not JSON)" in notes(tmp_path) and "settings" not in notes(tmp_path)


@pytest.mark.brings("Captions", "A table that cannot be read", "refused with one sentence")
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "Beyonc\xe9"}'.encode("latin-1"), "line 1 is not UTF-8"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n["a.png"]\n', "line 2: not a JSON object"),
        ("metadata.jsonl", b'{"file": "a.png", "text": "Mira"}\n', 'row 1: each needs {"path": ...}'),
        ("metadata.csv", b'file_name,text\na.png,"Mira\n', "not a readable table"),
        ("metadata.parquet", b"PAR1", "not a readable parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    pictures(tmp_path, "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_photos(tmp_path, SIDE, "none")
    assert sentence in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


# --- what a model reads of them -------------------------------------------------------------------


def test_only_captions_that_are_cut_are_said(tiny_model):
    longest = tiny_model.tokenizer.model_max_length
    fits = " ".join(["a"] * (longest - 2))  # with a token before and one behind
    assert tiny_model.tokenize([fits, fits + " a"]).tolist()[0] == tiny_model.tokenize([fits + " a"]).tolist()[0]
    assert cut_notes(tiny_model, [fits, "", fits]) == [] == cut_notes(tiny_model, [])
    (note,) = cut_notes(tiny_model, [fits, fits + " a", fits + " a"])
    assert note.startswith(f"2 of 3 captions are longer than the {longest} tokens that the model reads, such as 'a a")


@pytest.mark.brings("Captions", "Captions longer than the text encoder reads", "cut; said on screen and in the result")
def test_a_caption_that_is_cut_is_said_and_recorded(tiny_lab, tmp_path, capsys):
    inside = pictures(tmp_path / "in", "a.png", "b.png", "c.png")
    outside = pictures(tmp_path / "out", *(f"{i}.bmp" for i in range(9)))
    (inside / "a.txt").write_text("Mira " * 300)
    common = ["--preset", "quick", "--device", "cpu"]
    split = ["--members", str(inside), "--nonmembers", str(outside), "--attacks", "loss"]
    assert main(["attack", *split, "--out", str(tmp_path / "a.json"), *common]) == 0
    said = "captions are longer than the"
    assert said in capsys.readouterr().err
    assert said in "".join(json.loads((tmp_path / "a.json").read_text())["domain"]["notes"])
    tune = ["finetune", "--sp-set", str(inside), "--caption", "Zoë", "--steps", "1", "--logdir", str(tmp_path / "t")]
    assert main([*tune, *common]) == 0
    assert f"1 of 3 {said}" in capsys.readouterr().err
    prompt = "a photo of Mira " * 30
    assert main(["sp-gen", "--prompt", prompt, "--set-size", "1", "--out", str(tmp_path / "s"), *common]) == 0
    assert "1 of 1 prompts are longer than the" in capsys.readouterr().err


# --- a domain -------------------------------------------------------------------------------------


@pytest.mark.brings("Folders", "More photos than the preset uses", "the numbers used are printed")
def test_a_domain_says_how_many_of_each_folder_it_uses(tmp_path):
    inside = pictures(tmp_path / "in", *(f"{i}.png" for i in range(5)))
    outside = pictures(tmp_path / "out", *(f"{i}.bmp" for i in range(5, 9)))
    for i, path in enumerate(outside.glob("*.bmp")):
        Image.new("RGB", (48, 48), (9, i * 20, 200)).save(path)
        path.with_suffix(".txt").write_text("Mira")
    config = DomainConfig(name="Mira", members=str(inside), nonmembers=str(outside), n_members=3, n_nonmembers=2)
    domain = folder_domain(config, SIDE)
    assert domain.notes == (
        "3 of 5 members are used",
        "3 of 3 members have no caption: 'a photo of Mira' is used for them",
        "2 of 4 held-out photos are used",
    )
    assert set(domain.membership.nonmembers.captions) == {"Mira"}
