"""Photos stay apart from everything else: results, caches, and what other programs put into a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from PIL import Image

from s2l.cli import base, main
from s2l.data.photos import read_photos
from s2l.errors import UserError

SIDE = 32
PHOTOS = {"members", "nonmembers", "second", "upload", "private", "held_out", "honest", "generations"}
OUTPUTS = {"out", "fix", "logdir"}
SPLIT = ("--members", "MINE", "--nonmembers", "OTHERS")
COMMANDS = {
    "run": ("--domain", "Mira", *SPLIT, "--out", "MINE/a/b"),
    "audit": ("--tuned", "OTHERS", "--domain", "Mira", *SPLIT, "--out", "MINE/a"),
    "attack": (*SPLIT, "--out", "MINE/a.json"),
    "extract": ("--generations", "MINE", "--members", "OTHERS", "--nonmembers", "OTHERS", "--out", "MINE"),
    "split-check": (*SPLIT, "--out", "MINE/a.json"),
    "gate": ("--upload", "OTHERS", "--private", "MINE", "--out", "MINE/a"),
    "finetune": ("--sp-set", "MINE", "--caption", "Mira", "--logdir", "MINE"),
}


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 48), (number * 20, 90, 30)).save(path, "PNG")
    return path


# --- what this program writes ------------------------------------------------------------------


def test_every_command_that_reads_photos_is_tried():
    group = typer.main.get_command(base.app)
    both = {
        name
        for name, command in group.commands.items()
        if (names := {p.name for p in command.params}) & PHOTOS and names & OUTPUTS
    }
    assert both | {"finetune"} == set(COMMANDS)


@pytest.mark.brings("Folders", "`--out` within a folder of photos that the command reads", "refused before any work")
@pytest.mark.parametrize("command", COMMANDS)
def test_results_are_never_written_among_the_photos(command, tmp_path, capsys):
    """They would be photos of the next audit."""
    mine = picture(tmp_path / "mine" / "0.png", 0).parent
    (tmp_path / "link").symlink_to(mine)
    others = picture(tmp_path / "others" / "1.png", 1).parent
    places = {"MINE": str(mine), "OTHERS": str(others)}
    for out in (mine, tmp_path / "link"):
        words = [w.replace("MINE", str(out)) if "MINE/" in w else places.get(w, w) for w in COMMANDS[command]]
        assert main([command, *words]) == 2
        assert "lies in" in capsys.readouterr().err and os.listdir(mine) == ["0.png"]


@pytest.mark.brings("Folders", "The cache within a folder of photos", "passed over; a note says so")
def test_the_cache_holds_no_photos(tmp_path, monkeypatch):
    picture(tmp_path / "0.png", 0)
    picture(tmp_path / "cache" / "sp" / "1.png", 1)
    monkeypatch.setenv("S2L_CACHE", str(tmp_path / "cache"))
    photos = read_photos(tmp_path, SIDE, "")
    assert photos.names == ("0.png",) and "passed over, such as cache" in photos.notes[0]
    assert len(read_photos(tmp_path / "cache" / "sp", SIDE, "").names) == 1  # where the page keeps uploads


# --- what other programs write -----------------------------------------------------------------


@pytest.mark.brings(
    "Folders",
    "Thumbnails and deleted files of other programs (`@eaDir`, `#recycle`, `.AppleDouble`, `thumbs`)",
    "passed over; a note says so",
)
@pytest.mark.parametrize("name", ["@eaDir", "#recycle", "$RECYCLE.BIN", ".AppleDouble", "__MACOSX", "Thumbs"])
def test_pictures_of_other_programs_are_passed_over(name, tmp_path):
    picture(tmp_path / "0.png", 0)
    picture(tmp_path / "below" / "1.png", 1)
    picture(tmp_path / "below" / name / "1.png" / "SYNOFILE_THUMB_M.jpg", 2)
    photos = read_photos(tmp_path, SIDE, "")
    assert photos.names == ("0.png", "below/1.png")
    assert photos.notes[0].endswith(f"were passed over, such as below/{name}")


@pytest.mark.brings(
    "Folders", "A repository of a Hugging Face cache (`blobs`, `snapshots`)", "its current revision is read"
)
def test_a_hub_cache_keeps_its_captions(tmp_path):
    """The same files lie in it under their hashes, which no caption names."""
    repository = tmp_path / "datasets--me--mira"
    for revision in ("one", "two"):
        for i in range(2):
            blob = picture(repository / "blobs" / f"{revision}{i}", i)
            link = repository / "snapshots" / revision / f"{i}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("..", "..", "blobs", blob.name))
        (link.parent / "metadata.csv").write_text(f"file_name,text\n0.png,Mira {revision}\n1.png,Zoë\n", "utf-8")
    with pytest.raises(UserError, match=r"holds 2 revisions: name the one that is meant, such as .*/one"):
        read_photos(tmp_path, SIDE, "none")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("two")
    for source, names in ((tmp_path, "datasets--me--mira/snapshots/two/"), (repository, "snapshots/two/")):
        photos = read_photos(source, SIDE, "none")
        assert photos.names == (f"{names}0.png", f"{names}1.png") and photos.captions == ("Mira two", "Zoë")
        assert "passed over" in photos.notes[0]


# --- options that would be ignored -------------------------------------------------------------


@pytest.mark.brings(
    "Folders", "`extract --generations` with options that say how to generate", "refused; they are named"
)
@pytest.mark.parametrize(
    "options",
    [["-n", "3"], ["--guidance", "3"], ["--seed", "1"], ["--tuned", "x"], ["--guidance-w", "1"], ["--unshake", "1"]],
)
def test_options_that_generations_would_ignore_are_refused(options, tmp_path, capsys):
    mine = picture(tmp_path / "mine" / "0.png", 0).parent
    words = ["extract", "--generations", str(mine), "--domain", "Mira Solwyn", "--out", str(tmp_path / "out")]
    assert main([*words, *options]) == 2
    assert "say how to generate, so leave them out with --generations" in capsys.readouterr().err
