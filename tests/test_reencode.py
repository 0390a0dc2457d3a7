"""`split-check --fix`: two folders saved again in one way, what that hides, and what it says it cannot hide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from s2l import cli
from s2l.data.decode import decode, header
from s2l.data.listing import list_photos
from s2l.data.reencode import Recipe, detail_left, recipe_for, smallest_side
from s2l.labs import shipped_lab

N = 40


def folders(root: Path, change=lambda image: image, **how) -> tuple[Path, Path]:
    """Members as PNG and held-out photos saved in another way; nobody ever trained on either."""
    photos = shipped_lab("fresh").person("Mira Solwyn").held_out(2 * N)
    inside, outside = root / "in", root / "out"
    for folder in (inside, outside / "deep"):
        folder.mkdir(parents=True)
    for i, photo in enumerate(photos[:N]):
        Image.fromarray(photo.pixels(64)).save(inside / f"{i}.png")
        (inside / f"{i}.txt").write_text(photo.caption)
    for i, photo in enumerate(photos[N:]):
        image = change(Image.fromarray(photo.pixels(96)))
        image.save(outside / "deep" / f"{i}.jpg", **{"quality": 80} | how)
        if i:
            (outside / "deep" / f"{i}.txt").write_text(photo.caption)
    return inside, outside


def check(*words) -> int:
    return cli.main(["split-check", *map(str, words)])


@pytest.mark.brings(
    "Folders",
    "Members and non-members of other format, size, JPEG quality or metadata, given to `split-check --fix`",
    "copies of both, saved in one way, are checked again; what still differs is said",
)
def test_folders_that_were_saved_differently_are_told_apart_no_more(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    inside, outside = folders(tmp_path, exif=exif.tobytes())
    new, file = tmp_path / "same", tmp_path / "check.json"
    assert check("--members", inside, "--nonmembers", outside, "--fix", new, "--out", file) == 0
    out, record = capsys.readouterr().out, json.loads(file.read_text())
    for what in ("size 64x64: 40 of 40 members, 0", "JPEG quality 80: 0 of 40 members, 40", "metadata EXIF: 0 of 40"):
        assert f"The folders differ: {what}" in out
    assert record["fine"]["differ"] and "not fair" in out and f"most clearly in {record['fine']['reason']}" in out
    assert not record["fix"]["fine"]["differ"] and record["fix"]["report"]["differences"] == []
    assert "no difference is found between the re-encoded folders" in out and "cannot hide" in out
    assert (record["fix"]["recipe"]["side"], record["fix"]["recipe"]["quality"]) == (32, 40)
    assert 0.1 < record["fix"]["recipe"]["detail"] < 0.9

    saved = [header(photo.path) for side in ("members", "nonmembers") for photo in list_photos(new / side).photos]
    assert len(saved) == 2 * N and len(set(saved)) == 1 and saved[0].metadata == ()
    before = {photo.name: photo.caption for photo in list_photos(outside).photos}
    rows = [json.loads(line) for line in (new / "nonmembers" / "metadata.jsonl").read_text().splitlines()]
    assert {row["source"]: row.get("text") for row in rows} == before and before["deep/0.jpg"] is None
    assert [photo.caption for photo in list_photos(new / "nonmembers").photos] == [row.get("text") for row in rows]


def test_what_cannot_be_hidden_is_said(tmp_path, capsys):
    inside, outside = folders(tmp_path, lambda image: image.filter(ImageFilter.GaussianBlur(3)))
    assert check("--members", inside, "--nonmembers", outside, "--fix", tmp_path / "same") == 0
    out = capsys.readouterr().out
    assert "the re-encoded folders still differ, in their" in out and "do not audit on them" in out
    assert "no difference is found" not in out


def test_fair_folders_are_called_fair(tmp_path, capsys):
    inside, _ = folders(tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    for path in sorted(inside.glob("1*")):
        path.rename(half / path.name)
    assert check("--members", inside, "--nonmembers", half) == 0
    out = capsys.readouterr().out
    assert "finds no difference" in out and "do not differ in format, size, JPEG quality or metadata" in out


def test_photos_of_a_second_source_do_not_count_as_the_split_itself(tmp_path, capsys):
    inside, outside = folders(tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    for path in sorted(inside.glob("1*")):
        path.rename(half / path.name)
    assert check("--members", inside, "--nonmembers", half, "--second", outside) == 0
    assert "no difference found" in capsys.readouterr().out


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Path]:
    return folders(tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nonmembers", "OUT", "--fix", "FULL"], "is not empty: give a new folder"),
        (["--nonmembers", "OUT", "--fix", "IN/new"], "give a folder outside of both"),
        (["--nonmembers", "OUT", "--fix", "OUT"], "give a folder outside of both"),
        (["--nonmembers", "OUT", "--fix", "FULL/file"], "is not a folder"),
        (["--nonmembers", "IN"], "is given twice"),
        (["--nonmembers", "OUT/../in"], "is given twice"),
        (["--nonmembers", "OUT", "--second", "OUT", "--fix", "NEW"], "leave out --second and --tuned"),
        (["--nonmembers", "nowhere", "--fix", "NEW"], "not a folder of images"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(two, tmp_path, capsys, words, says):
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    places = {"IN": str(two[0]), "OUT": str(two[1]), "FULL": str(full), "NEW": str(tmp_path / "new")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    assert check("--members", two[0], *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1 and says in err
    assert list(tmp_path.rglob("*")) == [full, full / "file"]


def test_the_lower_quality_and_the_smallest_photo_decide(two):
    assert smallest_side(two) == 64
    assert recipe_for(512, 30) == Recipe(512, 256, 30, "") and recipe_for(40, 95) == Recipe(40, 32, 40, "")
    picture = decode(next(two[1].rglob("*.jpg"))).image
    assert recipe_for(64, 60)(picture) == recipe_for(64, 60)(picture)


def test_the_detail_that_is_left_is_measured():
    """Of photos that are only made smaller all of it, of blurred and compressed ones much less, and it is printed."""
    images = [Image.fromarray(photo.pixels(64)) for photo in shipped_lab("fresh").person("Mira Solwyn").held_out(6)]
    recipe = recipe_for(64, 95)
    left = detail_left(images, recipe)
    assert 0.2 < left < 0.6 and "45 % of the fine detail is left" in replace(recipe, detail=0.45).words
    flat = Image.new("RGB", (64, 64), "gray")
    assert detail_left([flat], recipe) == 1 and "detail" not in recipe.words
