"""Options of the command line that leave something open, contradict another or cannot be met: one sentence, code 2."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from s2l.cli import main
from s2l.errors import UserError
from s2l.options import run_config

NAME = "Mira Solwyn"
ATTACK = ["attack", "--domain", NAME, "--attacks", "loss", "--preset", "quick"]
GATE = ["gate", "--upload", "x", "--out", "{}/out"]


@pytest.fixture
def refused(tiny_lab, tmp_path, capsys):
    """The sentence that refuses a command; `{}` in a word is an empty folder."""

    def run(words) -> str:
        assert main([word.replace("{}", str(tmp_path)) for word in words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("Error: ") and said.count("\n") == 1 and "Traceback" not in said
        return said

    return run


@pytest.mark.brings(
    "Folders",
    "An output file or folder with too long a name, or where nothing can be stored (`/proc`)",
    "refused before any work",
)
@pytest.mark.parametrize(
    "words, reason",
    [
        ([*ATTACK, "--out", "{}/" + "n" * 252], "251 bytes for a name"),
        ([*ATTACK, "--out", "{}/" + "n" * 300], "251 bytes for a name"),
        ([*ATTACK, "--out", "{}/" + "n" * 300 + "/x.json"], "251 bytes for a name"),
        ([*ATTACK, "--out", "/proc/x.json"], "/proc cannot be written to: nothing can be stored there"),
        (["sp-gen", "--domain", NAME, "--out", "{}/" + "n" * 300], "251 bytes for a name"),
        (["sp-gen", "--domain", NAME, "--out", "/proc/x"], "/proc/x cannot be written to"),
        (
            [*ATTACK, "--out", "{}/x.json", "--members", "{}/" + "n" * 300, "--nonmembers", "{}"],
            "name too long|no folder",
        ),
    ],
)
def test_a_place_that_takes_no_file_is_a_sentence(refused, words, reason):
    assert re.search(reason, refused(words), re.IGNORECASE)


@pytest.mark.brings("Models", "The name of a lab in capitals, or with a typing error", "refused: what is meant")
@pytest.mark.parametrize("model, meant", [("LAB", "'lab'"), ("Lab:fresh", "'lab:fresh'"), ("lab:fresj", "'fresh'")])
def test_a_misspelt_lab_is_a_sentence(refused, model, meant):
    assert f"id you mean {meant}?" in refused([*ATTACK, "--model", model, "--out", "{}/x.json"])


@pytest.mark.parametrize("alpha", ["0", "0.5", "-1", "nan"])
def test_the_ends_of_alpha_are_named(refused, alpha):
    assert "--alpha: should be above 0 and below 0.5" in refused([*GATE, "--alpha", alpha])


# --- finetune on photos of one's own -----------------------------------------------------------------


def photos(folder, captions=True):
    """Four pictures, each with its caption in a file beside it, and the pictures as a list."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows = []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"path": str(folder / f"{i}.png"), "caption": f"a photo of {NAME}, {i}"})
        if captions:
            (folder / f"{i}.txt").write_text(rows[-1]["caption"])
    path = folder.with_suffix(".jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def captions_of(monkeypatch, words) -> list[str]:
    """The captions that a `finetune` command trains on; nothing is trained."""
    seen = []

    def stop(model, images, fingerprint, config, logdir, name, progress):
        seen.extend(images.captions)
        raise UserError("seen")

    monkeypatch.setattr("s2l.cli.folders.finetune_folder", stop)
    assert main(["finetune", "--preset", "quick", *words]) == 2
    return seen


@pytest.mark.brings(
    "Captions",
    "Photos of one's own for `finetune --sp-set`: a folder with captions, or a list",
    "read; without --caption, every photo needs a caption of its own",
)
def test_photos_with_captions_are_trained_on(tiny_lab, tmp_path, monkeypatch, capsys):
    table = photos(tmp_path / "mine")
    out = ["--logdir", str(tmp_path / "out")]
    wanted = [f"a photo of {NAME}, {i}" for i in range(4)]
    assert captions_of(monkeypatch, [*out, "--sp-set", str(tmp_path / "mine")]) == wanted
    assert captions_of(monkeypatch, [*out, "--sp-set", str(table)]) == wanted
    (tmp_path / "mine" / "2.txt").unlink()
    capsys.readouterr()
    assert captions_of(monkeypatch, [*out, "--sp-set", str(tmp_path / "mine")]) == []
    assert "1 of 4 photos in" in (said := capsys.readouterr().err) and "such as 2.png: give --caption" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.brings("Captions", "`finetune --caption` with `{name}`", "the name of --domain; without it, refused")
def test_the_name_in_a_caption_is_filled_in(tiny_lab, tmp_path, monkeypatch, capsys):
    photos(tmp_path / "mine", captions=False)
    words = ["--logdir", str(tmp_path / "out"), "--sp-set", str(tmp_path / "mine"), "--caption", "a photo of {name}"]
    assert captions_of(monkeypatch, words) == []
    assert "--caption: {name} stands for the person's name, so --domain is needed" in capsys.readouterr().err
    assert captions_of(monkeypatch, [*words, "--domain", NAME]) == [f"a photo of {NAME}"] * 4


# --- results that are there already ------------------------------------------------------------------


@pytest.mark.brings(
    "Folders",
    "An output folder with the result of another run or audit",
    "refused before any work; nothing is replaced",
)
def test_a_result_of_other_settings_is_not_written_over(refused, tmp_path, monkeypatch):
    def result(config, **_):
        raise UserError("computed")

    monkeypatch.setattr("s2l.pipeline.experiment.run", result)
    monkeypatch.setattr("s2l.pipeline.experiment.run_audit", result)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "result.json"
    config = run_config("quick", NAME, {})
    path.write_text(json.dumps({"kind": "run", "config": config.model_dump(mode="json")}))
    words = ["--domain", NAME, "--preset", "quick", "--out", "{}/out"]
    assert "computed" in refused(["run", *words])  # the same run is resumed
    assert "result.json is the result of other settings" in refused(["run", *words, "--seed", "3"])
    assert "result.json is the result of other settings" in refused(["audit", *words, "--tuned", "{}"])
    path.write_text("{")
    assert "result.json is the result of other settings" in refused(["run", *words])
    assert path.read_text() == "{"


@pytest.mark.brings(
    "Pictures",
    "Another picture in the place of one that was generated (an SP set, generations)",
    "refused: which one; deleted, it is made again",
)
def test_a_replaced_picture_of_an_sp_set_is_seen(tiny_lab, tmp_path, capsys):
    out = tmp_path / "sp"
    words = ["sp-gen", "--domain", NAME, "--preset", "quick", "--set-size", "2", "--out", str(out)]
    assert main(words) == 0 == main(words)
    first = sorted(out.glob("*.png"))[0]
    own = first.read_bytes()
    with Image.open(first) as picture:
        Image.new("RGB", picture.size, "red").save(first)
    capsys.readouterr()
    train = ["finetune", "--preset", "quick", "--sp-set", str(out), "--logdir", str(tmp_path / "tuned")]
    for command in (words, train):
        assert main(command) == 2
        assert f"{first} is not what was generated there: delete" in capsys.readouterr().err
    first.unlink()
    assert main(words) == 0 and first.read_bytes() == own


@pytest.mark.brings("Pictures", "An SP set of another size in the folder of `sp-gen --out`", "refused: which sizes")
def test_another_set_size_is_a_sentence(tiny_lab, tmp_path, capsys):
    words = ["sp-gen", "--domain", NAME, "--preset", "quick", "--out", str(tmp_path / "sp"), "--set-size"]
    assert main([*words, "2"]) == 0
    capsys.readouterr()
    assert main([*words, "3"]) == 2
    said = capsys.readouterr().err
    assert "holds a set of 2 images and 3 are asked for: choose an empty folder, or the same size" in said
