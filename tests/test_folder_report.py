"""The report of two folders: what was used, what was not and why, captions, near-copies, how the files were saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s2l import cli
from s2l.config import DomainConfig
from s2l.data.decode import decode
from s2l.data.domain import Domain, folder_domain
from s2l.data.files import jpeg_quality, near_copies
from s2l.data.folder_report import alike_line, folder_lines

SIDE = 64


def photo(seed: int, side: int = SIDE) -> Image.Image:
    """A picture of soft blobs, different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def save(folder: Path, numbers, suffix: str = ".png", **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        photo(i).save(folder / f"{i}{suffix}", **options)
    return folder


def domain(inside: Path, outside: Path, **more) -> Domain:
    return folder_domain(DomainConfig(name="Mira", members=str(inside), nonmembers=str(outside), **more), SIDE)


def report(inside: Path, outside: Path, **more) -> dict:
    found = domain(inside, outside, **more).report
    assert found is not None
    return found.record()


@pytest.mark.brings(
    "Folders",
    "Two folders of photos",
    "a report, printed and in the result: used, left out and why, captions, near-copies, formats, sizes, JPEG quality",
)
def test_everything_found_is_used_not_needed_or_left_out_with_its_reason(tmp_path):
    inside, outside = save(tmp_path / "in", range(6)), save(tmp_path / "out", range(10, 14))
    (inside / "cut.png").write_bytes((inside / "0.png").read_bytes()[:-200])
    (inside / "text.png").write_text("no picture")
    Image.new("RGB", (9, 9)).save(inside / "tiny.png")
    photo(0).save(inside / "copy.bmp")
    (inside / "film.MOV").write_bytes(b"film")
    (inside / "0.txt").write_text("Mira")
    for name in ("x", "y"):
        (inside / f"{name}.txt").write_text("lost")
    photo(1).save(outside / "also.png")
    found = report(inside, outside, n_nonmembers=3)
    members, held_out = found["members"], found["nonmembers"]
    assert {x["reason"]: (x["count"], x["names"]) for x in members["left_out"]} == {
        "unreadable: damaged": (1, ("cut.png",)),
        "unreadable: no picture of a known format": (1, ("text.png",)),
        "smaller than 32 pixels": (1, ("tiny.png",)),
        "the same picture as another": (1, ("copy.bmp",)),
    }
    for side in (members, held_out):
        assert side["found"] == side["used"] + side["unread"] + sum(x["count"] for x in side["left_out"])
    assert (members["used"], members["other_files"]) == (6, {".mov": 1})
    assert (members["captioned"], members["unmatched_captions"]) == (1, 2)
    assert held_out["used"] == 3 and members["formats"] == {"PNG": 6} and members["sizes"] == {"64x64": 6}
    lines = folder_lines(found)
    assert lines[0].startswith("Members: 6 of 10 used; 1 left out, ") and "(cut.png)" in lines[0]
    assert any("captions: 1 matched, 5 photos without, 2 match no picture" in line for line in lines)
    json.dumps(found)


@pytest.mark.brings("Folders", "Held-out photos that are near-copies of members", "a note with the first pair")
def test_near_copies_are_found_within_and_between_the_folders(tmp_path):
    inside, outside = save(tmp_path / "in", range(8)), save(tmp_path / "out", range(10, 18))
    photo(3).point(lambda v: min(255, int(v * 1.05))).save(inside / "edited.png")
    photo(5).save(outside / "again.jpg", quality=60)
    found = domain(inside, outside)
    copies = found.report.record()
    assert copies["members"]["near_copies"] == {"count": 2, "pairs": (("3.png", "edited.png"),)}
    assert copies["nonmembers"]["near_copies"]["count"] == 0
    assert copies["near_copies"] == {"count": 1, "pairs": (("again.jpg", "5.png"),)}
    assert "1 held-out photos are near-copies of members, such as again.jpg of 5.png" in found.notes


def test_flat_pictures_and_different_photos_are_no_near_copies():
    flat = torch.stack([torch.full((3, SIDE, SIDE), v, dtype=torch.uint8) for v in (0, 90, 91, 200)])
    different = torch.from_numpy(np.stack([np.asarray(photo(i)) for i in range(200)])).permute(0, 3, 1, 2)
    assert near_copies(flat) == [] and near_copies(different) == []


def test_photos_of_the_lab_are_no_near_copies_and_saving_again_makes_them(tmp_path):
    from s2l.data.lab_domain import lab_domain
    from s2l.labs import default_lab

    lab = default_lab()
    split = lab_domain(lab, DomainConfig(name=lab.people[0].name)).membership
    images = split.members.images[:40]
    assert near_copies(split.all().images) == []
    again = []
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.jpg", quality=75)
        again.append(np.asarray(decode(tmp_path / f"{i}.jpg").image))
    pairs = near_copies(images, torch.from_numpy(np.stack(again)).permute(0, 3, 1, 2))
    assert sorted(pairs) == [(i, i) for i in range(len(images))]


@pytest.mark.brings("Folders", "Folders saved at different JPEG quality, format, size or metadata", "a note says which")
def test_folders_that_were_saved_differently_are_named(tmp_path):
    inside = save(tmp_path / "in", range(20), ".jpg", quality=95)
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    outside = save(tmp_path / "out", range(20, 40), ".jpg", quality=75, exif=exif)
    found = domain(inside, outside)
    assert found.report.members.jpeg_qualities == {"95": 20} and found.report.nonmembers.jpeg_qualities == {"75": 20}
    assert found.report.differences == (
        "JPEG quality 95: 20 of 20 members, 0 of 20 held-out photos",
        "metadata EXIF: 0 of 20 members, 20 of 20 held-out photos",
    )
    assert sum("the folders differ in how files were saved" in note for note in found.notes) == 2
    same = domain(inside, save(tmp_path / "same", range(50, 70), ".jpg", quality=95))
    assert same.report.differences == () and same.notes == domain(inside, tmp_path / "same").notes


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 88, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(tmp_path, quality):
    photo(0).save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(decode(tmp_path / "a.jpg").traits.quantization[0]) == quality


def test_every_command_on_folders_prints_and_stores_the_report(tiny_lab, tmp_path, capsys):
    inside, outside = save(tmp_path / "in", range(8)), save(tmp_path / "out", range(10, 18))
    (outside / "bad.png").write_text("no picture")
    own = ["--members", inside, "--nonmembers", outside, "--preset", "quick", "--device", "cpu", "--dtype", "float32"]
    short = ["--attacks", "loss", "--n-generations", "4"]
    whole = ["run", "--domain", "Mira", "--set-size", "4", "--steps", "4", *short]
    pictures = save(tmp_path / "pictures", range(20, 24))
    for command, file in (
        (["attack", "--attacks", "loss", "--out", tmp_path / "a.json"], "a.json"),
        (["extract", "--generations", pictures, "--out", tmp_path / "e"], "e/extraction.json"),
        ([*whole, "--out", tmp_path / "r"], "r/result.json"),
        ([*whole, "--out", tmp_path / "again"], "again/result.json"),
    ):
        if "again" in file:  # the same photos, so all of it is cached, but the folder holds one more file
            (outside / "worse.png").write_text("no picture")
        assert cli.main([str(word) for word in [*command, *own]]) == 0
        more = 2 if "again" in file else 1
        says = f"Held-out photos: 8 of {8 + more} used; {more} left out, unreadable: no picture of a known format"
        assert says in capsys.readouterr().err
        if file.endswith("result.json"):
            assert says in (tmp_path / file).with_name("report.html").read_text(encoding="utf-8")
        stored = json.loads((tmp_path / file).read_text(encoding="utf-8"))["domain"]["report"]
        assert stored["nonmembers"]["found"] == 8 + more and stored["members"]["formats"] == {"PNG": 8}


@pytest.mark.brings(
    "Folders",
    "Folders that differ, but are too small to show it",
    "said: it may be chance, or they are too few to tell",
)
def test_a_difference_that_may_be_chance_is_not_called_none(tmp_path):
    inside, outside = save(tmp_path / "in", range(4)), save(tmp_path / "out", range(10, 14), ".jpg", quality=50)
    line = alike_line(report(inside, outside))
    assert line.startswith("The folders differ in format, JPEG quality, which may be chance (p at least 0.001 in")
    assert line.endswith(": 4 and 4 photos are too few to tell")
    save(tmp_path / "in", range(20, 40)), save(tmp_path / "out", range(50, 70))
    assert alike_line(report(inside, outside)).endswith("Fisher's exact test)")
    twin = save(tmp_path / "twin", range(80, 92))
    assert alike_line(report(inside, twin)) == "The folders do not differ in format, size, JPEG quality or metadata"
