"""The report and its figures: complete, self-contained, honest about what they lack."""

from __future__ import annotations

import copy
import io
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from s2l import figures
from s2l.assets import ASSETS
from s2l.config import preset
from s2l.errors import UserError
from s2l.figures import galleries
from s2l.measure import operating_points
from s2l.model.diffusion import Runtime
from s2l.pipeline import experiment
from s2l.record import Result, RunRecord
from s2l.report import render as report
from s2l.report import showcase
from s2l.report.showcase import export_showcase, load_showcase
from s2l.report.verdicts import findings, headline
from s2l.store import Store, read_json
from s2l.ui import exposure, quiz, runs, two_runs
from s2l.ui.tabs import membership
from s2l.ui.tabs import report as report_tab

CLUSTER = {"generations": [0, 2, 3], "medoid": 2, "size": 3, "mean_distance": 0.05, "max_distance": 0.1}
NO_PICTURES = {"roc.png": b"", "extractions.png": b""}
FINE = {"auc": 0.99, "p_value": 0.0025, "differ": True, "reason": "sharpness", "by_group": {}, "method": "m"}
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def result(tiny_checkpoint, tmp_path_factory):
    """A finished quick run on the random-weight lab."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2L_LAB", str(tiny_checkpoint))
        store = Store(tmp_path_factory.mktemp("report") / "cache")
        return experiment.run(preset("quick", "Mira Solwyn"), store, Runtime(device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def without_split(result):
    """The same run as if nobody knew the members."""
    record = copy.deepcopy(result.record)
    record |= {"attacks": {}, "extraction": None, "control": None}
    for when in ("before", "after"):
        record["blind"][when] = {"clusters": [CLUSTER], "score": None}
    record["domain"] |= {"n_members": 0, "n_nonmembers": 0, "repeats": []}
    del record["folders"]["members"], record["folders"]["nonmembers"]
    return replace(result, record=record)


class Page(HTMLParser):
    """Collects tags, checks that they nest, and keeps what a page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.loads, self.images, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attrs.items() if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
        return image.size


# --- report ------------------------------------------------------------------------------------


def test_report_is_complete_and_loads_nothing(result, tmp_path):
    paths = report.write_report(result, tmp_path / "new" / "folder")
    assert [p.name for p in paths] == list(report.FILES) and all(p.stat().st_size for p in paths)
    text = paths[-1].read_text()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and text.count("<h1>") == 1
    assert page.loads and all(value.startswith("data:image/png;base64,") for value in page.loads)
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert all(image["alt"] for image in page.images)
    assert text.count("<figure") == text.count("<figcaption") == len(page.images)

    said = " ".join(" ".join(page.text).split())
    config = preset("quick", "Mira Solwyn")
    for needed in (
        "Mira Solwyn", "12 training photos (members) and 12 held-out photos", "a random split of one distribution",
        result.key, result.record["model"]["key"], result.record["domain"]["key"], result.record["versions"]["torch"],
        str(config.extraction.seed), "too few held-out photos: needs at least 100, has 12", 
        "Limits", "Responsible use", "blind control",
        "Warning. A quick run: with so few pictures",
        "The most exposed photos", "The photos as one set", "the set stands out", "would flag 0 groups",
    ):  # fmt: skip
        assert needed in said, needed
    assert said.endswith(report.command_of(result))


def test_every_caption_is_one_sentence(result):
    html = report.render_html(result, NO_PICTURES)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions
    for caption in captions:
        assert caption.endswith(".") and ". " not in caption, caption


def test_result_json_is_the_record_and_more(result, tmp_path):
    path = report.write_report(result, tmp_path)[0]
    written = json.loads(path.read_text())
    assert written["schema_version"] == 1 and written["command"].startswith("python -m s2l run --domain")
    assert json.loads(json.dumps(result.record)) == {k: written[k] for k in result.record}
    assert not list(tmp_path.glob("*.tmp"))


def test_records_have_exactly_the_declared_fields(result, without_split):
    """What runs write is what record.py declares, of the declared types: the page is made from it."""
    check = TypeAdapter(RunRecord)
    check.validate_python(report.result_json(result), strict=True, extra="forbid")
    check.validate_python(without_split.record, strict=True, extra="forbid")
    foreign = report.result_json(result) | {"surprise": 1}
    with pytest.raises(ValidationError, match="surprise"):
        check.validate_python(foreign, strict=True, extra="forbid")
    changed = copy.deepcopy(result.record)
    changed["attacks"]["secmi"]["before"]["auc"] = "0.6"
    with pytest.raises(ValidationError, match="auc"):
        check.validate_python(changed, strict=True, extra="forbid")


def test_the_showcase_of_an_older_version_has_declared_fields_only():
    record = read_json(ASSETS / "showcase" / "result.json")
    TypeAdapter(RunRecord).validate_python(record, strict=True, extra="forbid")


def test_without_a_split_there_is_no_roc_and_the_report_says_why(without_split, tmp_path):
    paths = report.write_report(without_split, tmp_path)
    assert [p.name for p in paths] == ["result.json", "extractions.png", "report.html"]
    page = Page(paths[-1].read_text())
    said = " ".join(" ".join(page.text).split())
    assert "Why there is no ROC curve" in said and "--members" in said
    assert [row.group for row in report.outcome(without_split)] == ["Without the training photos"]
    why, flagged = report.headline(without_split)
    assert "cannot be measured" in why
    assert "1 groups of near-duplicates before fine-tuning and 1 after" in flagged and "cannot be checked" in flagged


def test_names_are_escaped(result, tmp_path):
    record = copy.deepcopy(result.record)
    record["domain"]["name"] = "<script>alert('x')</script>"
    record["domain"]["notes"] = ["<img src='http://example.org/x.png'>.png: unreadable"]
    text = report.render_html(replace(result, record=record), NO_PICTURES)
    assert "<script" not in text and "<img src='http" not in text
    Page(text)


def test_a_change_needs_its_interval_and_its_p_value(result):
    record = copy.deepcopy(result.record)
    change = record["attacks"]["secmi"]["difference"]

    def verdict(**values) -> str:
        change.update(values)
        return report.headline(replace(result, record=record))[0].partition(":")[0]

    assert "no clear change" in verdict(difference=0.1, low=-0.1, high=0.3, p_value=0.3)
    assert "no clear change" in verdict(difference=0.1, low=0.01, high=0.2, p_value=0.06)
    assert "stronger" in verdict(difference=0.1, low=0.01, high=0.2, p_value=0.01)
    assert "weaker" in verdict(difference=-0.1, low=-0.2, high=-0.01, p_value=0.01)


@pytest.mark.brings(
    "Numbers", "Folders that were swapped: every AUC is below .5", "said; no gain or loss is read from the change"
)
def test_below_chance_before_and_after_is_no_gain(result):
    record = copy.deepcopy(result.record)
    loss = record["attacks"]["loss"]
    for when, auc in (("before", 0.208), ("after", 0.245)):
        loss[when] |= {"auc": auc, "delong": loss[when]["delong"] | {"low": auc - 0.08, "high": auc + 0.08}}
    loss["difference"] |= {"difference": 0.037, "low": 0.01, "high": 0.06, "p_value": 0.001}
    found = next(f for f in findings(replace(result, record=record)) if f.about == "loss" and f.question == "attack")
    assert found.direction == 0 and "stronger" not in found.sentence
    assert "below 0.5 in both" in found.sentence and "may be swapped" in found.sentence


def test_a_split_that_differs_is_said_in_every_sentence_of_an_attack(result, tmp_path):
    record = copy.deepcopy(result.record)
    record["control"] |= {"fine": FINE, "confounded": False}
    found = replace(result, record=record)
    for finding in findings(found):
        if finding.question == "attack":
            assert "no evidence of a leak" in finding.sentence and "differ by themselves" in finding.verdict
    assert "most clearly in sharpness" in headline(found)[0]
    page = report.render_html(found, NO_PICTURES)
    assert page.index("most clearly in sharpness") < page.index("differ by themselves, so this is no evidence")
    assert "differ by themselves" not in " ".join(headline(result))


@pytest.mark.parametrize("control", [{"fine": FINE}, {"confounded": True, "p_value": 0.0025}], ids=["fine", "coarse"])
def test_no_sentence_gives_an_auc_or_a_p_value_of_such_folders_without_the_warning(result, control):
    """Headlines, findings, sections of the report, the tables and guesses of the page's tabs."""
    record = copy.deepcopy(result.record)
    record["unshake"] = {"loss_curve": [{"w": -1.0, "auc": 0.9, "low": 0.8, "high": 0.95}]}
    record["control"] |= control
    found = replace(result, record=record)
    answers = findings(found)
    assert {"attack", "together"} <= {answer.question for answer in answers}
    told = [text for section in report._sections(found, NO_PICTURES) for text in section.sentences]
    sentences = [text for text in told if re.search(r"AUC of|with p", text)]
    assert len(sentences) > 2
    sentences += [answer.sentence for answer in answers if "AUC" in answer.sentence]
    sentences += map(str, [*_on_the_page(found), membership.roc_html(found, "loss", False)])
    for text in sentences:
        assert "no evidence of a leak" in text, text
    assert "already leaks" not in str(exposure.conclusion_html(found))
    clean = replace(result, record=copy.deepcopy(result.record))
    assert "no evidence" not in " ".join(map(str, [*_on_the_page(clean), *headline(clean)]))


def _on_the_page(shown: Result) -> list[str]:
    """Every piece of the page that has an AUC of a run in it."""
    answers = {"auc": 0.7, "rounds": [[0, 0]] * quiz.ROUNDS}
    question = next(
        update["label"]
        for update in membership.draw(Mock(), shown, {"rounds": answers["rounds"]}, False).values()
        if "Guess: the AUC" in str(update.get("label"))
    )
    other = replace(shown, record=copy.deepcopy(shown.record) | {"key": "of another run"})
    return [
        runs.outcome_html(shown), quiz.auc_html(shown, answers), report_tab.closing_html(shown, answers), question,
        exposure.conclusion_html(shown), two_runs.sides_html(shown, other).partition("<h3>")[0],
    ]  # fmt: skip


def test_both_models_together_are_judged_by_their_own_interval(result):
    record = copy.deepcopy(result.record)
    loss = record["attacks"].setdefault("loss", copy.deepcopy(record["attacks"]["secmi"]))
    loss["shake_reference"]["difference"].update(difference=0.2, low=0.1, high=0.3, p_value=0.001)
    said = report.headline(replace(result, record=record))[-1]
    title = loss["title"]
    assert said.startswith(
        f"The {title} attack with both models together is stronger than on the base model alone: with"
    )
    assert "+0.200" in said
    loss["shake_reference"] = None  # scores that are no distances
    assert "together" not in " ".join(report.headline(replace(result, record=record)))


def test_confounded_photos_are_named_as_such(result):
    record = copy.deepcopy(result.record)
    record["control"] |= {"auc": 0.9, "low": 0.8, "high": 0.95, "confounded": True}
    html = report.render_html(replace(result, record=record), NO_PICTURES)
    text = " ".join(html.split())
    assert "This split is confounded" in text and "AUC of 0.90 (interval 0.80 to 0.95" in text
    assert text.index("This split is confounded") < text.index("The numbers")
    assert "confounded" not in report.render_html(result, NO_PICTURES)


def test_the_set_as_a_whole_gets_one_sentence(result):
    attack = copy.deepcopy(result.record["attacks"]["secmi"])

    def said(before: float, after: float) -> str:
        for when, p in (("before", before), ("after", after)):
            attack["set_evidence"][when]["p_value"] = p
        return report.set_sentence(attack, 0.95)

    assert "under neither model" in said(0.4, 0.3) and "p = 0.400 before" in said(0.4, 0.3)
    assert "under the fine-tuned model only" in said(0.4, 0.0001) and "p < 0.001 after" in said(0.4, 0.0001)
    assert "under both models" in said(0.01, 0.02) and "under the model before fine-tuning only" in said(0.01, 0.2)
    assert said(0.4, 0.3).count(". ") == 0


def test_flags_are_held_against_the_truth(result):
    record = copy.deepcopy(result.record)
    score = record["blind"]["after"]["score"] | {
        "n_flags": 2, "true_flags": 1, "precision": 0.5, "precision_low": 0.01, "precision_high": 0.99,
        "nonmember_flags": 1, "flags": [2, 5], "member_distances": [0.05, 0.3],
    }  # fmt: skip
    record["blind"]["after"] = {"clusters": [CLUSTER, CLUSTER | {"medoid": 5}], "score": score}
    flagged = replace(result, record=record)
    rows = {row.what: row for row in report.outcome(flagged) if row.group == "Without the training photos"}
    assert rows["flags that show a training photo"].after == "1 (precision 0.50 [0.01, 0.99])"
    assert rows["flags that show a training photo"].before == "nothing flagged"
    assert rows["flags that show a held-out photo"].after == "1"
    text = " ".join(report.render_html(flagged, NO_PICTURES).split())
    assert "which is true of 0 and 1 of them" in text and "One picture of each group" in text
    cells = figures.blind_figure(flagged).axes
    assert [ax.spines["left"].get_linewidth() > 1 for ax in cells] == [True, False]  # thick: within delta of a member


def test_attacks_with_frozen_thresholds_and_fitted_weights_say_so(result):
    record = copy.deepcopy(result.record)
    attack = record["attacks"]["loss"]
    nobody = np.random.default_rng(0).normal(size=150)
    members, held_out = [nobody[:20] + 3], [nobody[50:90]]
    points = [asdict(operating_points.frozen_tpr(nobody, members, held_out, fpr)) for fpr in (0.1, 0.001)]
    attack["frozen"] = {"before": points, "after": points}
    attack["calibration"] = {"alpha": 0.7, "scales": [], "fitted_on": 7, "auc": 0.6}
    record["domain"]["n_calibration"] = [5, 150]
    changed = replace(result, record=record)
    rows = {row.what: row.after for row in report.outcome(changed) if row.group == "Loss"}
    found = rows["TPR at the threshold frozen for 10 % FPR"]
    assert found.startswith(f"{points[0]['point']['tpr']:.3f} [") and ", FPR " in found
    assert (
        rows["TPR at the threshold frozen for 0.1 % FPR"] == "too few calibration photos: needs at least 1000, has 150"
    )
    text = " ".join(report.render_html(changed, NO_PICTURES).split())
    assert "weighs its two scaled components 0.7 to 0.3" in text and "7 calibration people" in text
    assert "besides 5 and 150 that were set aside" in text and "A frozen threshold was set" in text
    attack["calibration"]["fitted_on"] = 0
    assert "is not calibrated" in report.render_html(changed, NO_PICTURES)


# --- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_figures_draw_in_both_styles(result, dark):
    log = result.record["finetune"]["log"]
    drawn = {
        "roc": figures.roc_figure(result, "secmi", dark=dark),
        "log": figures.roc_figure(result, "loss", log=True, dark=dark),
        "both": figures.roc_both(result, "loss", dark=dark),
        "all": figures.roc_all(result, dark=dark),
        "scores": figures.score_histogram_figure(result, "loss", dark=dark),
        "loss": figures.loss_figure(log, dark=dark),
        "one step": figures.loss_figure(log[:1], dark=dark),
        "no step": figures.loss_figure([], dark=dark),
        "distances": figures.distance_histogram_figure(result, dark=dark),
        "extraction": figures.extraction_figure(result, top=3, dark=dark),
        "control": figures.extraction_figure(result, top=3, of="nonmembers", dark=dark),
        "sp set": figures.sp_set_figure(result, dark=dark),
        "curve": figures.extraction_curve_figure(result, dark=dark),
        "histograms": figures.histograms_all(result, dark=dark),
        "exposed": figures.most_exposed_figure(result, "loss", dark=dark),
    }
    paper = (figures.DARK if dark else figures.LIGHT).paper
    for name, figure in drawn.items():
        png = figures.png(figure, dpi=30)
        width, height = size(png)
        assert min(width, height) > 50, name
        with Image.open(io.BytesIO(png)) as image:
            corner = image.convert("RGB").getpixel((0, 0))
        assert corner == tuple(int(paper[i : i + 2], 16) for i in (1, 3, 5)), name


def test_figures_without_a_split(without_split):
    size(figures.png(figures.extraction_figure(without_split, top=3), dpi=30))
    size(figures.png(figures.distance_histogram_figure(without_split), dpi=30))
    size(figures.png(figures.sp_set_figure(without_split), dpi=30))
    size(figures.png(figures.blind_figure(without_split), dpi=30))


def test_before_and_after_differ_without_colour(result):
    figure = figures.roc_figure(result, "secmi")
    lines = {line.get_label().split()[0]: line for line in figure.axes[0].lines}
    assert set(lines) == {"before", "after", "chance"}
    assert len({line.get_linestyle() for line in lines.values()}) == 3
    label = lines["before"].get_label()
    assert f"{result.record['attacks']['secmi']['before']['auc']:.3f}" in label and "[" in label


def test_the_gallery_favours_neither_side():
    before = {"distances": [0.1, 0.4, 0.3], "nearest_generation": [5, 6, 7]}
    after = {"distances": [0.2, 0.05, 0.35], "nearest_generation": [8, 9, 10]}
    assert galleries._closest(before, after, 2) == [(1, 9), (0, 5)]


def test_extracted_photos_are_marked_by_frame_and_word():
    photo = np.zeros((1, 8, 8, 3), np.uint8)
    near, far = galleries._l2_cells(np.concatenate([photo, photo + 255]), np.concatenate([photo, photo]), delta=0.1)
    assert near.marked and "extracted" in near.text and not far.marked and "extracted" not in far.text
    figure = figures.match_figure(photo, photo, delta=0.1)
    assert figure.axes[0].spines["left"].get_linewidth() > figure.axes[1].spines["left"].get_linewidth()


def test_pictures_read_only_what_is_asked(result):
    folder = result.store.root / result.record["folders"]["before"]
    all_of_them = result.images("before").images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(figures.pictures(folder, [3, 0]), all_of_them[[3, 0]])


def test_a_finding_is_data_and_its_sentence_is_made_last(result):
    """The direction comes from the interval and the p-value, never from words."""
    record = json.loads(json.dumps(result.record))
    up = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value": 0.001}
    for change, direction in ((up, 1), (up | {"low": -0.15, "high": -0.05}, -1), (up | {"low": -0.01}, 0)):
        record["attacks"]["secmi"]["difference"] |= change
        first = findings(replace(result, record=record))[0]
        assert (first.question, first.about, first.direction) == ("attack", "secmi", direction)
        assert first.numbers["low"] == change["low"] and first.sentence == f"{first.verdict}: {first.details}"
        assert first.sentence == report.headline(replace(result, record=record))[0]
    assert [f.question for f in findings(result)][len(record["attacks"]) :] == ["extraction", "together"]


# --- the showcase ---------------------------------------------------------------------------------


def test_a_showcase_is_the_same_run_again_and_never_replaces_something_else(result, tmp_path):
    folder = tmp_path / "shown"
    for _ in range(2):  # one showcase may take another's place
        assert export_showcase(result, folder) == sum(path.stat().st_size for path in folder.iterdir())
    shown = load_showcase(folder, Store(tmp_path / "cache"))
    assert shown.record["attacks"] == result.record["attacks"]
    np.testing.assert_array_equal(shown.images("after").images, result.images("after").images)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="something other than a showcase"):
        export_showcase(result, photos)
    assert (photos / "mine.txt").read_text() == "mine"


def test_a_showcase_that_is_too_large_leaves_the_old_one(result, tmp_path, monkeypatch):
    export_showcase(result, tmp_path / "shown")
    monkeypatch.setattr(showcase, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="show a smaller run"):
        export_showcase(result, tmp_path / "shown")
    assert load_showcase(tmp_path / "shown", Store(tmp_path / "cache")).key == result.key
