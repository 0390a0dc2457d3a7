"""The page without a browser: what an address opens, predictions, the threshold, uploads, limits, the first picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from s2l.config import LAB, preset
from s2l.errors import UserError
from s2l.jobs import uploads
from s2l.jobs.limits import OwnModel
from s2l.labs import default_lab, find
from s2l.record import Result
from s2l.report import shipped
from s2l.store import Store, read_json, write_json
from s2l.ui import (
    api,
    defend,
    events,
    exposure,
    form,
    html,
    layout,
    leak,
    overall,
    own,
    quiz,
    runs,
    session,
    stake,
    two_runs,
)  # fmt: skip
from s2l.ui import photo as one_photo
from s2l.ui.backend import N_SHOWN, Backend
from s2l.ui.tab import Context, Entry, Tab, View
from s2l.ui.tabs import TABS, compare, extraction, finetune, membership, sp_set, story
from s2l.worlds.people import LAB_NAMES

ROOT = Path(__file__).resolve().parents[1]
MIRA, TARO = LAB_NAMES[:2]
N_MEMBERS, N_HELD_OUT = 6, 12


def change(low: float, high: float, p_value: float) -> dict:
    return {"difference": (low + high) / 2, "low": low, "high": high, "p_value": p_value, "confidence": 0.95}


def summary(auc: float) -> dict:
    return {"auc": auc, "delong": {"low": auc - 0.1, "high": auc + 0.1}}


@pytest.fixture
def result(tmp_path) -> Result:
    """A small finished run, made up: scores, distances and pictures, no model."""
    rng = np.random.default_rng(0)
    scores = {
        when: {"members": rng.normal(1, 1, N_MEMBERS).tolist(), "nonmembers": rng.normal(0, 1, N_HELD_OUT).tolist()}
        for when in ("before", "after")
    }
    folders = {}
    for of, n in (("members", N_MEMBERS), ("nonmembers", N_HELD_OUT), ("before", 8), ("after", 8), ("sp_set", 8)):
        folder = tmp_path / "store" / of
        folder.mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        rows = [json.dumps({"file_name": f"{i}.png", "text": "x", "id": str(i)}) for i in range(n)]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
        folders[of] = of
    found = {
        when: {
            "delta": 0.1, "n_generations": 8,
            "members": {"distances": [0.05, 0.2, 0.3, 0.4, 0.5, 0.6], "nearest_generation": [0, 1, 2, 3, 4, 5],
                        "n_references": N_MEMBERS, "distinct": 1},
            "nonmembers": {"distances": [0.3] * N_HELD_OUT, "nearest_generation": [0] * N_HELD_OUT,
                           "n_references": N_HELD_OUT, "distinct": 0},
        }
        for when in ("before", "after")
    }  # fmt: skip
    attack = {"title": "Loss", "before": summary(0.7), "after": summary(0.6), "difference": change(-0.2, -0.01, 0.02),
              "scores": scores}  # fmt: skip
    record = {
        "key": "00c0ffee00c0ffee00c0ffee", "config": preset("quick", MIRA).model_dump(mode="json"), "folders": folders,
        "domain": {"name": MIRA, "n_members": N_MEMBERS, "n_nonmembers": N_HELD_OUT, "repeats": [20, 5, 1, 1, 1, 1]},
        "attacks": {"loss": attack}, "control": None,
        "extraction": found | {"difference": {"before": 1, "after": 1, "difference": 0, "low": 0, "high": 0,
                                              "p_value": 1.0, "n_members": N_MEMBERS}},
    }  # fmt: skip
    runs._DRAWN.clear()
    return Result(record, Store(tmp_path / "store"))


# --- the first picture ---------------------------------------------------------------------------------------------


def test_the_page_is_built_without_torch(tmp_path):
    """The first picture must not wait for torch: the page of the shipped showcase is complete before it is imported."""
    code = (
        "import sys; from s2l import ui; b = ui.Backend.open(); page = ui.build(b)\n"
        "assert b.showcase is not None\n"
        "text = str([c.get('props', {}).get('value') for c in page.get_config_file()['components']])\n"
        "assert text.count('data:image/webp') > 20 and 'class=\"leak\"' in text\n"
        "heavy = [name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    env = os.environ | {"S2L_CACHE": str(tmp_path / "c"), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("low", "high", "p_value", "word", "tone"),
    [
        (-0.2, -0.01, 0.02, "explains fell", "down"),
        (0.01, 0.2, 0.02, "rose by more", "up"),
        (-0.1, 0.1, 0.9, "chance", '"'),
    ],
)
def test_the_story_says_what_the_numbers_say(result, low, high, p_value, word, tone):
    result.record["attacks"]["loss"]["difference"] = change(low, high, p_value)
    text = story.headlines_html(result)
    assert word in text and f"card {tone}" in text and "0.70 → 0.60" in text


@pytest.mark.parametrize("after", [3, 1])
def test_the_story_does_not_tell_what_will_be_asked(result, after):
    """The count after the shake, and the last attack's AUC, are questions of the next tabs."""
    found = result.record["extraction"]["difference"]
    found |= {"after": after, "difference": after - 1, "low": after - 1.0, "high": after - 1.0, "p_value": 0.01}
    result.record["attacks"]["pia"] = {
        "title": "PIA", "before": summary(0.8), "after": summary(0.53), "difference": change(-0.3, -0.2, 0.001),
        "scores": result.record["attacks"]["loss"]["scores"],
    }  # fmt: skip
    result.record["attacks"]["loss"]["difference"] = change(-0.1, 0.1, 0.9)
    text = story.headlines_html(result)
    assert "1 → ?" in text and "photos came out." not in text and "PIA" not in text
    assert "cannot tell the change from chance" in text  # the note speaks of the cards that are shown


def test_a_count_is_guessed_from_nothing(result):
    with gr.Blocks():
        tab = extraction.build()
    asked = extraction.draw(tab, result, {})
    assert asked[tab.guess]["value"] is None and "0 to 6" in asked[tab.guess]["info"]
    assert quiz.check_count(result, 6) == 6
    for wrong in (None, -1, 7):
        with pytest.raises(UserError, match="from 0 to 6"):
            quiz.check_count(result, wrong)


# --- the threshold -------------------------------------------------------------------------------------------------


def test_the_threshold_walks_along_the_roc(result):
    from sklearn.metrics import roc_auc_score

    members, held_out = result.scores("loss", "after")
    points = [membership.operating_point(result, "loss", "after", k) for k in range(N_MEMBERS + N_HELD_OUT + 1)]
    assert (points[0]["tpr"], points[0]["fpr"], points[-1]["tpr"], points[-1]["fpr"]) == (0, 0, 1, 1)
    area = np.trapezoid([p["tpr"] for p in points], [p["fpr"] for p in points])
    truth = roc_auc_score([1] * N_MEMBERS + [0] * N_HELD_OUT, [*members, *held_out])
    assert area == pytest.approx(truth)
    for point in points[1:]:
        assert point["members_found"] == int(np.sum(members >= point["threshold"]))
        assert point["wrongly_accused"] == int(np.sum(held_out >= point["threshold"]))


def test_the_dot_lies_on_the_curve(result):
    left, top, right, bottom = membership.frame(result, "loss")
    assert 0 < left < right < 1 and 0 < top < bottom < 1
    assert membership.place(result, "loss", {"fpr": 0, "tpr": 1}) == {
        "x": pytest.approx(100 * left, abs=0.01),
        "y": pytest.approx(100 * top, abs=0.01),
    }


@pytest.mark.parametrize(
    "wrong", [("nope", "after", 1), ("loss", "now", 1), ("loss", "after", -1), ("loss", "after", 19)]
)
def test_a_senseless_point_is_one_sentence(result, wrong):
    with pytest.raises(UserError, match=r"unknown|from 0 to 18"):
        membership.operating_point(result, *wrong)


def test_a_click_tells_a_photo_or_nothing(result):
    assert runs.chosen_photo(result, "members 5") == ("members", 5)
    for wrong in ("members 6", "nonmembers -1", "sp_set 1", "", "members", "../x 1", None):
        assert runs.chosen_photo(result, wrong) is None
    assert "repeated 20 ×" in one_photo.detail_html(result, "members", 0, "loss")
    assert "held-out photo" in one_photo.detail_html(result, "nonmembers", 11, "loss")
    seen, _, raw = one_photo.detail_html(result, "members", 0, "loss").partition("<details")
    assert "% of the held-out photos" in seen and f"{result.scores('loss', 'after')[0][0]:.4g}" not in seen
    assert f"{result.scores('loss', 'after')[0][0]:.4g}" in raw


def test_the_gallery_filters_and_sorts(result):
    of, found = extraction.selected(result, "extracted", "closest")
    assert of == "members" and [c.photo for c in found] == [0]
    assert [c.photo for c in extraction.selected(result, "repeated", "repeats")[1]] == [0, 1]
    assert extraction.selected(result, "control", "closest")[0] == "nonmembers"
    photos = [c.photo for c in extraction.selected(result, "all", "closest")[1]]
    assert photos == [0, 1, 2, 3, 4, 5]
    assert extraction.cards_html(result, "all", "closest").count("<button") == N_MEMBERS
    assert "extracted up to 0.1" in extraction.detail_html(result, "members", 0)


# --- predict, then reveal ------------------------------------------------------------------------------------------


def test_a_round_has_one_member_and_is_the_same_for_all(result):
    rounds = [quiz.four(result, i) for i in range(quiz.ROUNDS)]
    for photos, right in rounds:
        assert [of for of, _ in photos].count("members") == 1 and photos[right][0] == "members"
        assert len(set(photos)) == quiz.CHOICES
    assert rounds == [quiz.four(result, i) for i in range(quiz.ROUNDS)]


def test_answers_are_compared_with_the_attacks(result):
    photos, right = quiz.four(result, 0)
    scores = result.record["attacks"]["loss"]["scores"]["after"]
    best = max(range(quiz.CHOICES), key=lambda j: scores[photos[j][0]][photos[j][1]])
    assert quiz.attack_right(result, "loss", 0) == (best == right)
    answers = {"rounds": [[right, right], [0, 1], [2, 2]]}
    assert "2 of 3" in quiz.score_html(result, answers)
    assert not quiz.revealed(answers, "attack") and quiz.revealed(answers | {"auc": 0.6}, "attack")
    assert "all possible rounds" not in quiz.score_html(result, answers)  # a hint at the AUC, asked next
    told = quiz.score_html(result, answers | {"auc": 0.6})
    assert "all possible rounds" in told and f"{100 * quiz.share_right(result, 'loss'):.0f} %" in told
    assert "inside the measured interval" in quiz.auc_html(result, {"auc": 0.65})
    assert "outside the measured interval" in quiz.auc_html(result, {"auc": 0.9})


def test_the_share_of_all_rounds_is_counted(result):
    members, held_out = result.scores("loss", "after")
    right = [m > max(three) for m in members for three in combinations(held_out, 3)]
    assert quiz.share_right(result, "loss") == pytest.approx(np.mean(right))


def test_a_round_asks_about_photos_that_the_target_tab_does_not_show(result):
    result.record["domain"] |= {"n_members": 40, "n_nonmembers": 120}
    photos = [photo for i in range(quiz.ROUNDS) for photo in quiz.four(result, i)[0]]
    assert min(index for _, index in photos) >= N_SHOWN


@pytest.mark.parametrize(
    "kept",
    [None, 3, "x", [1], {"r": 1}, {"r": {"rounds": [[9, 0], ["a", 1], 5], "auc": "high", "attack": "yes"}}],
)
def test_edited_answers_are_forgotten(kept):
    assert all(answers == {"rounds": []} for answers in quiz.clean(kept).values())


# --- whose pictures --------------------------------------------------------------------------------------------------


def test_the_sp_set_says_whose_it_is(result, store):
    text = sp_set.pictures_html(None, result, store, TARO)
    assert f"no pictures of {TARO} yet" in text and "<details>" in text and MIRA in text
    text = sp_set.pictures_html(None, result, store, MIRA)
    assert "yet" not in text and "<details>" not in text


@pytest.mark.parametrize(("second", "explained"), [("a face of Mira Solwyn", True), ("", False)])
def test_the_counts_of_a_prompt_mix_are_explained(second, explained):
    text = sp_set.preview_html(MIRA, f"a photo of {MIRA}", second, 70, "", 1000, 128)
    assert ("match the share only roughly" in text) == explained


def test_the_preview_names_whom_a_model_of_ones_own_will_draw():
    theirs = own.NOT_OWN | {"model": "owner/name", "name": "Somebody"}
    page = (MIRA, f"a statue of {MIRA}", "", 70, "", 1000, 128, theirs)
    assert "a statue of Somebody" in sp_set.preview_html(*page, own_prompts=True)
    fixed = sp_set.preview_html(*page, own_prompts=False)  # what form.config_of gives such a run
    assert "a photo of Somebody" in fixed and "a face of Somebody" in fixed and "statue" not in fixed


def test_the_run_button_says_for_whom():
    assert finetune.run_label(TARO, own.NOT_OWN) == f"Run: {TARO}"
    assert finetune.run_label(TARO, own.NOT_OWN | {"model": "owner/name", "name": "Somebody"}) == "Run: Somebody"


# --- another lab ---------------------------------------------------------------------------------------------------


@pytest.fixture
def labs(tiny_checkpoint, tmp_path, monkeypatch):
    """Two shipped labs, of which the page shows the first; `hidden` was trained on none of its people's photos."""
    folder = tmp_path / "labs"
    for name in ("fresh", "hidden"):
        shutil.copytree(tiny_checkpoint, folder / name)
    path = folder / "hidden" / "lab.json"
    record = json.loads(path.read_text())
    people = [person | {"repeats": [0] * len(person["repeats"])} for person in record["people"]]
    path.write_text(json.dumps(record | {"people": people}))
    monkeypatch.setattr(find, "SHIPPED", folder)
    return folder


def test_visitors_of_every_server_may_use_a_shipped_lab(labs, backend):
    assert not backend.own_model.enabled
    chosen = own.use(backend, " lab:hidden ", "taro quillan", [], [], False)  # no consent: nobody is real
    assert chosen == own.NOT_OWN | {"model": "lab:hidden", "name": TARO}
    values = form.preset_values("demo", MIRA) | {"prompt": f"a statue of {MIRA}"}
    config = form.config_of(values, list(LAB_NAMES), chosen)  # with the prompt of the page, as the page's own lab
    assert (config.model, config.domain.name, config.domain.members) == ("lab:hidden", TARO, None)
    assert config.sp_set.prompts[0].template == "a statue of {name}"
    assert "a statue of Taro Quillan" in sp_set.preview_html(MIRA, values["prompt"], "", 100, "", 0, 8, chosen)
    said = own.chosen_html(chosen, False)
    assert "lab:hidden" in said and "what chance gives" in said
    assert "there will be a ROC curve" in own.chosen_html(chosen | {"model": "lab:fresh"}, False)
    for fields, says in (
        (("lab:hiden", MIRA, [], []), r"unknown lab 'hiden'. Did you mean 'hidden'\? Allowed: fresh, hidden"),
        (("lab:hidden", "Nobody", [], []), "unknown person"),
        (("lab:hidden", MIRA, ["a.png"], []), "a lab has its own photos"),
        ((str(labs / "hidden"), MIRA, [], []), "this server offers lab:fresh, lab:hidden"),
        (("owner/name", MIRA, [], []), "not allowed here"),
    ):
        with pytest.raises(UserError, match=says):
            own.use(backend, *fields, True)


def test_a_result_on_a_reference_set_says_so_first(result):
    assert "trained on no photo" not in runs.headline_html(result)
    result.record["domain"]["repeats"] = [0] * N_MEMBERS
    assert "trained on no photo of" in runs.headline_html(result)


def test_the_choice_of_labs_is_offered_without_photos_or_consent(labs, backend):
    with gr.Blocks() as page:
        own.build(backend)
    parts = {getattr(b, "elem_id", None): b for b in page.blocks.values()}
    assert parts["own"].visible and parts["own-model"].interactive and "lab:hidden" in parts["own-model"].info
    assert not parts["own-accepted"].visible and not parts["own-members"].parent.visible


# --- what an address opens -----------------------------------------------------------------------------------------


@pytest.fixture
def backend(store, tiny_lab, monkeypatch, tmp_path) -> Backend:
    monkeypatch.setenv("S2L_SHOWCASE", str(tmp_path / "none"))
    return Backend.open(store)


def test_the_api_answers_in_plain_text_and_the_page_in_html(backend):
    """A program must not read &#39; where a person's name is quoted."""
    with gr.Blocks() as page:
        api.build(backend)
    (start_run,) = (f.fn for f in page.fns.values() if f.api_name == "start_run")
    with pytest.raises(gr.Error) as raised:
        start_run("Mira Solwin", "quick", "lora")
    assert "unknown person 'Mira Solwin'" in raised.value.message

    def fails():
        raise UserError("<b>'")

    with pytest.raises(gr.Error) as raised:
        events.in_a_sentence(fails)()
    assert raised.value.message == "&lt;b&gt;&#39;"


def open_(backend: Backend, kept: object = None, **address: str) -> session.Opening:
    first = form.preset_values("demo", MIRA)
    return session.opening(kept, address, backend, tuple(entry.id for entry in TABS), first)


def test_what_an_address_opens(backend):
    found = open_(backend)
    assert (found.tab, found.job, found.gone, found.classroom) == ("story", None, False, False)
    assert len(found.visitor) >= 20 and found.visitor != open_(backend).visitor
    job = backend.jobs.enqueue(preset("quick", MIRA), "v" * 22)
    kept = {"visitor": "v" * 22, "job": job.id, "quiz": {}, "form": {}}
    assert (open_(backend, kept).job.id, open_(backend, kept).tab) == (job.id, "finetune")
    assert open_(backend, kept, tab="compare").tab == "compare"
    assert open_(backend, kept, tab="../etc").tab == "finetune"
    assert open_(backend, kept, **{"class": "1"}).classroom and open_(backend, kept, **{"class": "1"}).tab == "story"
    # A stranger: with the address they may look, with an edited browser they may not.
    assert open_(backend, run=job.id).job.id == job.id
    assert open_(backend, {"job": job.id}).job is None
    assert open_(backend, run="no-such-run").gone
    for strange in (7, "x", [], {"visitor": 3, "job": ["a"], "quiz": 1, "form": 2}):
        assert open_(backend, strange).tab == "story"


def test_kept_fields_must_be_of_the_right_kind(backend):
    kept = {"form": {"set_size": 64, "prompt": 5, "methods": "lora", "attacks": ["loss"], "nonsense": 1, "rank": True}}
    assert open_(backend, kept).form == {"set_size": 64, "methods": "lora", "attacks": ["loss"]}
    assert open_(backend, {"form": {"unshake": 1.5}}).form == {"unshake": 1.5}
    assert open_(backend, {"form": {"unshake": "1"}}).form == open_(backend, {"form": {"unshake": None}}).form == {}


def test_an_unchanged_form_is_the_preset(backend):
    """What `python -m s2l warm` runs is what a click on Run asks for."""
    for size in form.APP_PRESETS:
        values = form.preset_values(size, TARO)
        assert form.config_of(values, list(LAB_NAMES)) == preset(size, TARO)


def test_the_verdicts_say_where_after_is_the_un_shaken_model(result):
    assert "un-shaken" not in runs.headline_html(result)
    result.record["unshake"] = {"w": 0.5, "space": "weights", "loss_curve": None}
    assert "the un-shaken one, base + w (base - fine-tuned) with w = 0.5" in runs.headline_html(result)


def test_an_empty_un_shake_is_off_and_a_number_is_on():
    values = form.preset_values("demo", TARO)
    assert values["unshake"] is None and form.config_of(values, list(LAB_NAMES)).unshake is None
    assert form.config_of(values | {"unshake_space": "scores"}, list(LAB_NAMES)).unshake is None
    config = form.config_of(values | {"unshake": 0, "unshake_space": "scores"}, list(LAB_NAMES))
    assert (config.unshake.w, config.unshake.space) == (0, "scores")
    assert form.config_of(form.values_of(config), list(LAB_NAMES)) == config
    with pytest.raises(UserError, match=r"^Un-shake: should be less than or equal to 10"):
        form.config_of(values | {"unshake": 11}, list(LAB_NAMES))


def test_an_error_names_the_row_whatever_its_words():
    values = form.preset_values("demo", TARO)
    with pytest.raises(UserError, match=r"^Set size: should be greater"):
        form.config_of(values | {"set_size": 0}, list(LAB_NAMES))
    assert form.in_words(UserError("no: never", "finetune.settings.lora.rank")) == "Rank: no: never"
    assert form.in_words(UserError("no", "settings.lora.rank"), "finetune") == "Rank: no"
    assert form.in_words(UserError("sp_set.set_size: no")) == "sp_set.set_size: no"  # words are not parsed


# --- a model and photos of one's own ---------------------------------------------------------------------------------


def photo(path: Path, size=(80, 60), **save) -> str:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(path, **save)
    return str(path)


def test_uploads_are_pictures_without_camera_data(store, tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "secret place", 6  # description; turned by 90 degrees
    given = [photo(tmp_path / f"{i}.jpg", exif=exif, comment=b"secret place") for i in range(3)]
    folders = uploads.keep(store, {"members": given})
    kept = sorted(Path(folders["members"]).iterdir())
    assert [p.name for p in kept] == ["0000.png", "0001.png", "0002.png"]
    assert all(b"secret" not in p.read_bytes() and not Image.open(p).getexif() for p in kept)
    assert Image.open(kept[0]).size == (60, 80)  # turned as the camera said
    assert not any(Path(p).exists() for p in given) and len(Path(folders["members"]).parent.name) >= 20


def test_other_files_are_refused_and_nothing_stays(store, tmp_path):
    good = [photo(tmp_path / f"{i}.png") for i in range(2)]
    bad = tmp_path / "fake.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(UserError, match="members, picture 3: not a readable picture"):
        uploads.keep(store, {"members": [*good, str(bad)]})
    with pytest.raises(UserError, match="from 3 to 300 pictures"):
        uploads.keep(store, {"members": [photo(tmp_path / "one.png")]})
    big = tmp_path / "big.png"
    big.write_bytes(bytes(6_000_000))
    with pytest.raises(UserError, match="larger than 5 MB"):
        uploads.keep(store, {"members": [str(big)] * 3})
    assert not list((store.root / "uploads").iterdir()) and not bad.exists()


def test_which_models_a_visitor_may_name():
    offered, hub = OwnModel(model="CompVis/stable-diffusion-v1-1"), OwnModel(allow_hub_models=True)
    assert own.check_model("", offered) == offered.model
    assert own.check_model("owner/name@main", hub) == "hub:owner/name@main"
    with pytest.raises(UserError, match="not allowed here"):
        own.check_model("owner/name", offered)
    for path in ("/etc", "../../s2l/assets/labs/fresh", "a/../../b", "lab", "file:///etc/passwd", "x" * 300, ""):
        with pytest.raises(UserError, match="OWNER/NAME"):
            own.check_model(path, hub)


def test_the_names_of_the_paper_are_offered_and_no_prompt_hides_in_a_name():
    names = own.paper_names()
    assert len(names) == len(set(names)) == 39 and all(own.check_name(name, False) == name for name in names)
    long = "a secret prompt in place of a name"
    with pytest.raises(UserError, match="at most 5 words"):
        own.check_name(long, False)
    assert own.check_name(long, True) == long
    for wrong in ("", None, "x" * 81):
        with pytest.raises(UserError, match="1 to 80 characters"):
            own.check_name(wrong, True)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_model_of_ones_own_is_visible_only_where_allowed(backend, monkeypatch, allowed):
    monkeypatch.setenv("S2L_ALLOW_HUB_MODELS", "1" if allowed else "")
    monkeypatch.setattr(own, "shipped_labs", lambda: [default_lab()])  # several labs are a choice of their own
    with gr.Blocks() as page:
        own.build(backend)
    part = next(b for b in page.blocks.values() if getattr(b, "elem_id", None) == "own")
    assert part.visible == allowed


def test_a_real_model_needs_consent_and_keeps_the_fixed_prompts(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("S2L_ALLOW_HUB_MODELS", "1")
    with pytest.raises(UserError, match="tick the box"):
        own.use(backend, "owner/name", "Somebody", [], [], False)
    with pytest.raises(UserError, match="both kinds"):
        own.use(backend, "owner/name", "Somebody", [photo(tmp_path / "a.png")], [], True)
    chosen = own.use(backend, "owner/name", "Somebody", [], [], True)
    values = form.preset_values("demo", MIRA) | {"prompt": "something else entirely"}
    config = form.config_of(values, list(LAB_NAMES), chosen)
    assert config.model == "hub:owner/name" and config.domain.name == "Somebody" and config.domain.members is None
    assert [p.template for p in config.sp_set.prompts] == ["a photo of {name}", "a face of {name}"]
    allowed = form.config_of(values, list(LAB_NAMES), chosen, own_prompts=True)
    assert "something else entirely" in allowed.sp_set.prompts[0].template
    assert form.config_of(values | {"prompt": f"a photo of {MIRA}"}, list(LAB_NAMES), own.NOT_OWN).model == LAB


# --- tables, documents -----------------------------------------------------------------------------------------------


def test_compare_shows_what_there_is(tmp_path):
    assert "No table over people" in compare.tables_html(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    write_json(tmp_path / "other.json", {"people": 3})
    write_json(tmp_path / "old.json", {"title": "Of another version", "rows": {"LoRA": {}}})
    assert "No table over people" in compare.tables_html(tmp_path)
    text = compare.tables_html()
    assert "DreamBooth + LoRA" in text and ".766" in text


def test_two_runs_have_a_difference_with_an_interval_where_they_share_their_photos(result, monkeypatch):
    monkeypatch.setattr(runs, "outcome_html", lambda result: "")
    worse = json.loads(json.dumps(result.record))
    for name, shift in (("members", -5), ("nonmembers", 0)):
        scores = worse["attacks"]["loss"]["scores"]["after"]
        scores[name] = [value + shift for value in scores[name]]
    worse["attacks"]["loss"]["after"] = summary(0.0)
    text = two_runs.sides_html(result, Result(worse, result.store))
    assert re.search(r"AUC of the Loss attack: lower in run B, -0\.\d+ \[-", text)
    assert "B − A [95 %]" in text and "Training photos that come out" in text
    same = Result(json.loads(json.dumps(result.record)) | {"model": None}, result.store)
    assert "nothing that was measured differs clearly" in two_runs.sides_html(result, same)
    other = worse | {"folders": worse["folders"] | {"members": "other"}}
    text = two_runs.sides_html(result, Result(other, result.store))
    assert "judge different photos" in text and "[95 %]" not in text.partition("All numbers")[0]
    assert text.count("generation 1 after the shake") == 2


def test_a_conclusion_says_whether_the_base_leaks_what_the_shake_changed_and_how_sure(result):
    text = exposure.conclusion_html(result)
    assert "already leaks" in text and "makes the attack weaker, not stronger: AUC 0.60" in text
    assert "A quick run is too small for conclusions" in text and "private photos come out of the base model" in text
    record = json.loads(json.dumps(result.record))
    record["config"]["preset"] = "demo"
    record["attacks"]["loss"] |= {"difference": change(-0.1, 0.2, 0.4), "before": summary(0.55)}
    text = exposure.conclusion_html(Result(record, result.store))
    assert "no clear sign" in text and "changes nothing clearly" in text and "95 of 100 such brackets" in text
    assert exposure.conclusion_html(None) == ""
    assert "come out" not in exposure.conclusion_html(result, extraction=False)  # tab 4 must not answer tab 5


def test_the_page_shows_what_the_report_has(tmp_path):
    showcase = Backend.open(Store(tmp_path / "own")).showcase
    text = exposure.exposed_html(showcase, "loss")
    assert text.count("<img") == exposure.MOST
    text = exposure.set_html(showcase, "loss")
    assert "the set stands out" in text and "p &lt; 0.001" in text
    assert "same number of generations" in exposure.growth_html(showcase)
    numbers = runs.outcome_html(showcase, detail=True)
    for word in ("eidetic", "balanced accuracy"):
        assert re.search(rf'<button type="button" aria-describedby="[^"]+">{word}</button>', numbers)
    assert ">tiled l2</button>" in exposure.blind_html(showcase)
    assert "attacker without the training photos" in exposure.blind_html(showcase)


def test_how_it_works_shows_the_person_of_the_first_screen():
    for name in leak.shipped():
        text = story.flow_html(name)
        assert text.count("<img") == 16 and f"photos of {name}" in text
        assert not [other for other in leak.shipped() if other != name and other in text]
    assert story.flow_html("nobody") == ""


def test_the_methods_that_ship_are_marked_and_come_first():
    choices = finetune.method_choices()
    ready = {"+".join(entry["methods"]) for entry in shipped.entries()}
    assert {value for _, value in choices[: len(ready)]} == ready and len(ready) == 5
    assert ["ready at once for 8 people" in title for title, _ in choices] == [i < 5 for i in range(len(choices))]


def test_a_tab_says_something_before_it_is_drawn():
    with gr.Blocks():
        for tab in (membership.build(), extraction.build()):
            assert tab.question.visible and "Fetching" in tab.question.value


def test_two_runs_side_by_side(result, monkeypatch):
    monkeypatch.setattr(runs, "outcome_html", lambda result: "")
    changed = preset("quick", MIRA, finetune={"rank": 2}).model_dump(mode="json")
    text = two_runs.sides_html(result, Result(result.record | {"config": changed}, result.store))
    assert "<li>Rank (fine-tuning): 8</li>" in text and "<li>Rank (fine-tuning): 2</li>" in text
    assert text.count("<li>") == 2
    assert "same settings" in two_runs.sides_html(result, Result(result.record | {"model": None}, result.store))
    assert "choose two different ones" in two_runs.sides_html(result, result)
    assert "Choose two runs" in two_runs.sides_html(result, None)


def test_every_setting_has_words():
    """No visitor should read a key of the configuration, nor Python's brackets and None."""
    for config in (preset("demo", MIRA), preset("demo", MIRA, unshake={"w": 1})):
        for path, value in two_runs.flat(config.model_dump(mode="json")).items():
            assert not re.search(r"[_.{}\[\]]", form.setting_in_words(path)), path
            assert value not in ("None", "True", "False") and not re.search(r"[\[\]]", value), path
    assert form.setting_in_words("finetune.settings.lora.rank") == "Rank (fine-tuning)"
    assert form.setting_in_words("finetune.settings.dreambooth.class_noun") == "Class noun (fine-tuning)"


def test_a_table_names_its_columns_beside_each_cell():
    """On a small screen a row becomes a card: the style sheet shows data-label."""
    text = html.table(("", "AUC <before>"), [("Loss", "0.7")])
    assert '<td data-label="">Loss</td><td data-label="AUC &lt;before&gt;">0.7</td>' in text


def test_the_glossary_is_on_the_page():
    words = layout.glossary()
    for word in ("AUC", "ROC curve", "member", "extracted", "SP set", "interval", "l2"):
        assert re.search(rf"\*\*{re.escape(word)}", words, re.IGNORECASE), word


def test_the_answer_key_points_at_what_the_page_says():
    """A teacher looks for these words, and for these tabs."""
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    key = text.partition("## Answer key\n")[2].partition("\n## ")[0]
    assert re.search("“(extracted[^”]*)”", key)[1] in extraction.SHOW.values()
    tabs = re.findall(r"^\| [^|]*\? \| (\w+)", key, re.MULTILINE)
    assert len(tabs) > 8 and {tab[0] for tab in tabs} <= {entry.title[0] for entry in TABS}


@dataclass
class Ninth(Tab):
    said: gr.HTML

    @classmethod
    def build(cls, page: Context) -> Ninth:
        return cls(gr.HTML(elem_id="ninth"))

    @property
    def outputs(self) -> list:
        return [self.said]

    def draw(self, page: Context, view: View) -> dict:
        return {self.said: Markup("<p>{}, {}</p>").format(view.person, view.shown)}


def test_one_more_tab_is_a_class_and_an_entry(backend, tiny_lab):
    """The page builds, opens and draws it, and its id is an address."""
    page = layout.build(backend, (*TABS, Entry("ninth", "8 Ninth", Ninth)))
    (said,) = (block for block in page.blocks.values() if getattr(block, "elem_id", None) == "ninth")
    drawing = [fn for fn in page.fns.values() if said in fn.outputs]
    opening = next(fn for fn in drawing if len(fn.outputs) == 2)  # the other one draws whichever tab is open
    value = opening.fn("", {}, {"visitor": "", "job": ""}, "Mira & Taro", own.NOT_OWN)
    assert value[said] == "<p>Mira &amp; Taro, </p>" and len(drawing) == 2


def test_previews_check_their_numbers(backend):
    for rank, says in ((10**9, "Rank"), (0, "Rank"), (0.5, "Rank"), (-1, "Rank")):
        assert says in finetune.card_html(backend, "lora", rank, None, False), rank
    for seed, size, says in (
        (-1, 8, "First seed"),
        (None, 8, "First seed"),
        (0, 10**9, "Set size"),
        (0, 0, "Set size"),
    ):
        assert says in sp_set.preview_html("Ada", "Ada", "", 100, "", seed, size), (seed, size)


def test_the_target_tab_says_what_is_at_stake_before_any_shake(backend, monkeypatch):
    """The figures of results/lab.json, and only where they are of this very checkpoint."""
    assert stake.stake_html(backend.lab, backend.names[0]) == ""  # random weights: nobody measured them
    monkeypatch.delenv("S2L_LAB")
    lab = default_lab()
    measured = read_json(stake.RESULTS / "lab.json")
    for person in measured["people"][:3]:
        said = stake.stake_html(lab, person["name"])
        assert f"in {100 * person['auc']['loss']:.0f} of 100 pairs" in said
        assert f"from {100 * measured['auc']['loss']['low']:.0f} to" in said


def test_the_defend_tab_says_what_the_results_say(tmp_path):
    """Every defence has a card; what no result has is said to be missing, and the closing screen says the same."""
    for label in (*(rows := read_json(defend.RESULTS / "gate.json"))["rows"], *rows["example"]["rows"]):
        said = defend.in_words(label)
        assert not re.search(r"untouched|sigma|guidance 1|held-out", said) and "refused" not in said
    cards = defend.defences({})
    assert len(cards) == 8 and all(card.said.startswith(defend.NOT_YET) and card.helps is None for card in cards)
    assert "gate-study" in defend.screen({}) and defend.results(tmp_path) == {}
    auc = {"mean": 0.7, "low": 0.6, "high": 0.8}
    low = {"mean": 0.55, "low": 0.5, "high": 0.6}
    none = {"attacks": {"loss": {"before": auc, "after": low, "reference": {"auc": auc | {"low": 0.65}}}}}
    row = {
        "attacks": {"loss": {"before": low}},
        "change": {"loss": {"difference": -0.15, "low": -0.2, "high": -0.1}},
    }
    rows = {"none": none, "none, un-shaken": {"attacks": {"loss": {"after": low}}}, "DP, epsilon 8": row}
    found = {card.id: card for card in defend.defences({"defences": {"rows": rows}})}
    assert found["dp8"].helps and "from 0.700 to 0.550" in found["dp8"].said and len(found["dp8"].bars) == 2
    assert found["withheld"].helps and "0.700" in found["withheld"].said and found["dp1"].helps is None
    assert "from 0.700 to 0.550" in defend.protects_html({"defences": {"rows": rows}})
    assert found["dp-tuning"].helps is None and "Not measured yet" in found["dp-tuning"].said
    tuned = {"DP fine-tuning, epsilon 8": none, "DP fine-tuning, epsilon 8, un-shaken": rows["none, un-shaken"]}
    (wrong,) = (card for card in defend.defences({"defences": {"rows": rows | tuned}}) if card.id == "dp-tuning")
    assert wrong.helps is False and wrong.bars[0].value == wrong.bars[1].value and "own drawings" in wrong.said


def test_the_gate_game_has_a_score_and_a_threshold_for_each_way(tmp_path):
    rate = {"rate": 0.9, "low": 0.8, "high": 1.0}
    scores = {"untouched": ({"g": -0.2}, True), "noise": ({"g": -0.9}, False)}
    table = {
        "rows": {label: {defend.SIZE: {"tpr": rate}} for label in scores},
        "negatives": {"held-out photos": {defend.SIZE: {"fpr": rate | {"rate": 0.01}}}},
        "gates": {"g": "Own output"}, "thresholds": {"64": {"g": {"value": -0.5, "spread": 0.1}}},
        "example": {"person": "Ada", "size": 64,
                    "rows": {label: {"scores": s, "refused": r} for label, (s, r) in scores.items()}},
    }  # fmt: skip
    game = defend.game(table)
    assert [row["refused"] for row in game] == [True, False]
    assert game[0]["scores"] == [{"gate": "Own output", "score": -0.2, "threshold": -0.5}]
    html_ = defend.game_html(table)
    assert (
        html_.count("data-row=") == 2 and "Ada" in html_ and "90 % [80, 100]" in defend.protects_html({"gate": table})
    )


def test_the_first_screen_has_the_answer_over_many_people():
    """From the tables over labs and methods; what one person shows on the same screen may be unclear."""
    tables = overall.committed()
    said = re.sub("<[^>]+>", "", overall.overall_html(tables))
    for label in ("fresh, un-shaken", "buried, shaken"):
        change_ = tables["labs"]["rows"][label]["attacks"]["loss"]["difference"]
        assert f"{change_['difference']:+.3f} [{change_['low']:+.3f}, {change_['high']:+.3f}]" in said
    assert "weaker" in said and "stronger" in said and "the paper" in said
    assert overall.overall_html({}) == "" and "the paper" not in overall.overall_html({"labs": tables["labs"]})
