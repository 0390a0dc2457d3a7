"""The first screen: its frames are those of ordinary runs, and its sentences follow the numbers."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from html import unescape

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from s2l.assets import ASSETS
from s2l.cli import app
from s2l.config import preset
from s2l.record import Result
from s2l.report import frames
from s2l.report.showcase import load_showcase
from s2l.store import Store, read_json
from s2l.ui import leak


@pytest.fixture(scope="module")
def shaken(tmp_path_factory) -> Result:
    return load_showcase(ASSETS / "showcase", Store(tmp_path_factory.mktemp("frames") / "cache"))


@pytest.fixture
def stronger(shaken) -> Result:
    """The same run with other numbers after: the Loss attack stronger, everything else without a clear change."""
    record = deepcopy(shaken.record)
    record["attacks"]["loss"]["difference"] |= {"difference": 0.05, "low": 0.02, "high": 0.08}
    record["attacks"]["secmi"]["difference"] |= {"difference": 0.01, "low": -0.02, "high": 0.04}
    return Result(record, shaken.store)


@pytest.fixture
def shipped(shaken, stronger, tmp_path, monkeypatch):
    """The frames of one person, in the place of those that ship."""
    folder = tmp_path / "frames"
    frames.export_frames({-1.0: shaken, 1.0: stronger}, folder / "mira")
    monkeypatch.setattr(leak, "FOLDER", folder)
    kept = leak.shipped, leak.screen
    for cached in kept:
        cached.cache_clear()
    yield leak.shipped()["Mira Solwyn"]
    for cached in kept:
        cached.cache_clear()


def test_every_weight_is_a_run_but_the_base_model():
    found = frames.configs(preset("demo", "Mira Solwyn"))
    assert set(found) == set(frames.WEIGHTS) - {0.0} and len(frames.WEIGHTS) >= 7
    assert found[-1.0].unshake is None  # the shaken model is the fine-tuned one itself
    assert all(config.unshake.w == w for w, config in found.items() if w != -1.0)


def test_frames_hold_the_numbers_of_their_runs(shipped, shaken):
    data = shipped.data
    assert [frame["w"] for frame in data["frames"]] == [-1, 0, 1]
    assert data["n_members"] == 40 and data["command"].startswith("python -m s2l run --domain 'Mira Solwyn'")
    for frame, when in zip(data["frames"], ("after", "before", "after"), strict=True):
        found = shaken.record["attacks"]["loss"]
        assert frame["attacks"]["loss"]["auc"] == pytest.approx(found[when]["auc"], abs=1e-4)
        scores = np.concatenate(shaken.scores("loss", when))
        assert (
            np.argsort(frame["attacks"]["loss"]["scores"], kind="stable") == np.argsort(scores, kind="stable")
        ).all()
        assert frame["near"]["members"]["copies"] == shaken.extraction[when]["members"]["distinct"]
    both = shaken.record["attacks"]["loss"]["shake_reference"]
    assert data["both"]["auc"] == pytest.approx(both["auc"], abs=1e-4)
    members, held_out = np.split(np.array(data["both"]["scores"]), [40])
    assert (members[:, None] > held_out).mean() == pytest.approx(both["auc"], abs=1e-3)


def test_pictures_are_those_of_the_run(shipped, shaken):
    """Sheets are lossy; the tile of a photo is nearer to that photo than to any other."""
    with Image.open(shipped.folder / "photos.webp") as image:
        sheet = np.asarray(image.convert("RGB"), dtype=float)
    side = sheet.shape[1] // frames.COLUMNS
    photos = shaken.images("members").images.permute(0, 2, 3, 1).numpy().astype(float)
    tile = sheet[side : 2 * side, 3 * side : 4 * side]  # row 1, column 3
    assert np.abs(photos - tile).mean((1, 2, 3)).argmin() == frames.COLUMNS + 3
    assert len(shipped.photos) == 160 and [len(row) for row in shipped.pictures] == [frames.SEEDS + 2] * 3


def test_sentences_follow_the_numbers(shipped):
    data = shipped.data
    weaker, base, away = data["frames"]
    assert leak.sentence(data, weaker, "loss").startswith("The Loss attack gets weaker on the shaken model: AUC 0.76")
    assert leak.sentence(data, base, "loss").startswith(
        "The base model already leaks: 2 of 40 private photos (5 %) come out"
    )
    assert leak.sentence(data, away, "loss").startswith("The Loss attack gets stronger on the un-shaken model")
    assert "no clear change" in leak.sentence(data, away, "secmi")
    assert "is stronger: AUC 0.91" in leak.both_sentence(data)
    silent = deepcopy(base)
    silent["near"]["members"]["copies"], silent["attacks"]["loss"]["low"] = 0, 0.45
    assert leak.sentence(data, silent, "loss").startswith("The base model shows no leak here: 0 of 40")


def test_the_screen_has_everything_at_once(shipped):
    text = leak.screen("Mira Solwyn")
    assert leak.first_person() == "Mira Solwyn" and leak.screen("Nobody Else") == ""
    payload = json.loads(unescape(re.search(r'data-frames="(.*?)"', text)[1]))
    assert [frame["w"] for frame in payload["frames"]] == [-1, 0, 1] and payload["base"] == 1
    assert len(payload["frames"][0]["attacks"]["secmi"]["scores"]) == 160
    assert text.count('<img class="m"') == 40 and text.count('<img class="h"') == 120
    assert "a copy" in text and len(text) < 900_000
    assert leak.pair_of("Mira Solwyn") in text


def test_the_command_writes_frames(tiny_lab, tmp_path):
    words = ["frames", "--people", "mira solwyn", "--preset", "quick", "--out", str(tmp_path / "f"), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    data = read_json(tmp_path / "f" / "mira-solwyn" / frames.FRAMES)
    assert tuple(frame["w"] for frame in data["frames"]) == frames.WEIGHTS
    assert set(data["attacks"]) == {"loss", "secmi", "sima"}


def test_shipped_frames_are_small_and_say_how_they_were_made():
    folders = sorted((ASSETS / "frames").iterdir())
    assert folders, "python -m s2l frames"
    for folder in folders:
        data = read_json(folder / frames.FRAMES)
        assert tuple(frame["w"] for frame in data["frames"]) == frames.WEIGHTS
        assert sum(path.stat().st_size for path in folder.iterdir()) < 500_000
        assert data["person"] in data["command"]


def test_who_leaks_most_comes_first_and_the_title_says_whether_anything_leaks():
    copies = [frames_.data["frames"][2]["near"]["members"]["copies"] for frames_ in leak.shipped().values()]
    assert copies == sorted(copies, reverse=True) and copies[0] > 0
    for person, n in zip(leak.shipped(), copies, strict=True):
        assert ("get a private photo" in leak.screen(person)) == (n > 0)
