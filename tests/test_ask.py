"""Was this one in there? One photo of a visitor's own on the base model of a finished run."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from s2l.config import preset
from s2l.errors import UserError
from s2l.model.diffusion import Runtime
from s2l.pipeline import one_photo
from s2l.pipeline.experiment import run
from s2l.store import Store
from s2l.ui import ask
from s2l.worlds.people import LAB_NAMES

CPU = Runtime(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def result(tiny_checkpoint, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("S2L_LAB", str(tiny_checkpoint))
    yield run(preset("quick", LAB_NAMES[0]), Store(tmp_path_factory.mktemp("asked")), CPU)
    patch.undo()


def sent(pixels: np.ndarray, **how) -> dict:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **{"format": "PNG"} | how)
    return {"pixels": ask.PREFIX + base64.b64encode(file.getvalue()).decode()}


def test_a_photo_of_the_run_gets_the_score_and_the_place_that_the_run_gave_it(result):
    photo = one_photo.example(result, "once", 3)
    found = one_photo.judge(photo, result, CPU)
    part, at = found.nearest
    assert part == "members" and found.distance == 0 and found.copy and found.alike
    assert found.repeats == result.record["domain"]["repeats"][at] == 1
    members, held_out = result.scores("loss", "before")
    standing = found.standings["loss"]
    # Same noise, same model: only the caption is the attacker's guess.
    assert abs(standing.score - members[at]) < 0.1 * abs(members[at])
    assert standing.beaten == np.mean(held_out < standing.score)


def test_a_photo_that_was_saved_again_is_known_and_a_new_one_was_never_trained_on(result):
    saved = one_photo.judge(one_photo.example(result, "saved", 3), result, CPU)
    assert saved.copy and saved.distance > 0 and saved.repeats > 1
    new = one_photo.judge(one_photo.example(result, "new", 3), result, CPU)
    assert not new.copy and new.alike
    for found, word in ((saved, "Yes"), (new, "never trained")):
        assert word in ask.verdict_html(result, one_photo.example(result, "new", 3), found)


def test_of_a_picture_of_another_kind_the_page_says_that_there_is_no_answer(result):
    side = one_photo.side_of(result)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    answer = ask.answer_html(result, sent(noise))
    assert "No answer" in answer and "would say" not in answer


@pytest.mark.parametrize("wrong", [
    None, [], {}, {"pixels": 3}, {"pixels": "data:image/svg+xml;base64,AAAA"}, {"pixels": ask.PREFIX + "%%%"},
    {"pixels": ask.PREFIX + "A" * ask.MAX_CHARACTERS}, {"take": "every", "number": 1}, {"take": "new"},
    {"take": "new", "number": -1}, {"take": "new", "number": True}, {"take": ["new"], "number": 1},
    sent(np.zeros((8, 8, 3), np.uint8)), sent(np.zeros((64, 64, 3), np.uint8), format="JPEG"),
])  # fmt: skip
def test_anything_else_is_one_sentence(result, wrong):
    with pytest.raises(UserError):
        ask.answer_html(result, wrong)


def test_only_a_labs_run_can_be_asked(result, monkeypatch):
    monkeypatch.setattr(one_photo, "find_lab", lambda model: None)
    with pytest.raises(UserError, match="only a lab's run"):
        one_photo.side_of(result)
    monkeypatch.setattr(ask, "find_lab", lambda model: None)
    assert "data-take" not in ask.question_html(result)
