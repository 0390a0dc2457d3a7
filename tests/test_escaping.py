"""A text is never obeyed: whatever a person, a method, a table or an error is called, the page shows it as text.

Every function that makes HTML is given a plain name and a hostile one. The two pages must have the same tags and
attributes, and must differ in that name only.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import gradio as gr
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

import s2l.ui
from s2l import figures
from s2l.config import preset
from s2l.finetune import FINETUNERS
from s2l.jobs import Job
from s2l.jobs.classroom import Class, Group
from s2l.jobs.limits import OwnModel
from s2l.pipeline import one_photo
from s2l.pipeline.one_photo import OnePhoto, Standing
from s2l.record import Result
from s2l.report import shipped
from s2l.report.frames import export_frames
from s2l.store import Store, read_json, write_json
from s2l.tables import view as table_view
from s2l.ui import (
    ask,
    defend,
    effects,
    exposure,
    first,
    html,
    layout,
    leak,
    live,
    overall,
    own,
    photo,
    quiz,
    runs,
    stake,
    two_runs,
    words,
)
from s2l.ui.backend import Backend, Shown
from s2l.ui.tabs import classroom, compare, extraction, finetune, membership, report, running, sp_set, story, target

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "s2l" / "ui").rglob("*.py"))
# Both have three words, none of which the lab knows.
PLAIN, HOSTILE = "zyx wvu tsr", "<img src=x onerror=alert(1)>\"'&"
NAMED = {"name", "title", "source", "note", "template", "suffix", "negative_prompt", "message", "command", "role"}
ANSWERS = {"rounds": [[1, 1], [0, 2], [3, 3]], "auc": 0.6, "extracted": 4.0}


class Tokens(HTMLParser):
    """HTML as a browser reads it: tags with their attributes, and the text between them."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.read: list[tuple] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.read.append(("start", tag, *attrs))

    def handle_endtag(self, tag: str) -> None:
        self.read.append(("end", tag))

    def handle_data(self, data: str) -> None:
        self.read.append(("text", data))


def renamed(value: object) -> object:
    """Tokens with the plain words in place of the hostile ones; an error quotes them as Python does."""
    if isinstance(value, str):
        for hostile, plain in zip(HOSTILE.split(), PLAIN.split(), strict=True):
            value = value.replace(hostile.replace("'", "\\'"), plain).replace(hostile, plain)
        return value
    return [renamed(part) for part in value] if isinstance(value, (list, tuple)) else value


def called(value: object, text: str) -> object:
    """A record in which everything that has a name is called `text`."""
    if isinstance(value, dict):
        return {
            key: text if key in NAMED and isinstance(part, str) else called(part, text) for key, part in value.items()
        }
    return [called(part, text) for part in value] if isinstance(value, list) else value


# --- what the page is made of ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Everything that a page can show, each called `text`."""

    text: str
    result: Result
    store: Store
    backend: SimpleNamespace
    job: Job
    table: dict
    tables: Path  # a folder of tables
    tabs: SimpleNamespace

    def at(self, **changes: object) -> Job:
        return replace(self.job, **changes)

    @property
    def other(self) -> Result:
        """A run whose settings have other texts."""
        record = deepcopy(self.result.record)
        record["config"]["sp_set"]["suffix"] = "other"
        return Result(record, self.result.store)

    @property
    def short_table(self) -> dict:
        """A table of one row, which has no plot."""
        return called(read_json(ROOT / "results" / "attacks.json"), self.text)

    @property
    def reference(self) -> Result:
        """A run whose photos the model was never trained on."""
        domain = self.result.record["domain"]
        domain = domain | {"repeats": [0] * domain["n_members"]}
        return Result(self.result.record | {"domain": domain}, self.result.store)

    @property
    def unknown(self) -> Result:
        """A run of a model of which nobody knows the members."""
        return Result(self.result.record | {"attacks": {}, "extraction": None}, self.result.store)


def scene(text: str, showcase: Result, folder: Path, tabs: SimpleNamespace) -> Scene:
    record = called(showcase.record, text) | {"key": showcase.key[:8] + text.encode().hex()}
    record["domain"]["role"] = "calibration"
    pixels = np.zeros((8, 8, 3), np.uint8)
    store = Store(folder)
    (folder / "shots").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "shots" / "0.png")
    shown = {
        "done": 0.3, "title": text, "stage": text, "step": 2, "total": 6, "unit": text, "pictures": "shots",
        "stages": [[text, "cached"], ["x", "running", text]], "pictures_of": "sp_set", "pictures_title": text,
        "samples_in": "shots", "samples": [[0, ["0.png"]]], "loss": [[1, 0.5], [2, 0.4]], "log": [text, text],
    }  # fmt: skip
    job = Job("id", "v", "run", preset("quick", text), "running", text, "", shown, 0, 1e9, 1e9 + 9, 0, 0, False)
    table = called(read_json(ROOT / "results" / "tokens.json"), text)
    table["rows"] = {f"{text} {label}": row for label, row in table["rows"].items()}
    (folder / "tables").mkdir()
    write_json(folder / "tables" / "table.json", table)
    photos = [Shown(pixels, 2)]
    backend = SimpleNamespace(
        lab=type("Lab", (), {"record": {}})(),
        names=[text], portrait=lambda name: pixels, photos=lambda name: (photos, photos), facts={"n_members": 3},
        trained_parameters=lambda config: (1, 9), own_model=OwnModel(), store=store,
    )  # fmt: skip
    return Scene(text, Result(record, showcase.store), store, backend, job, table, folder / "tables", tabs)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Iterator[Callable[[str], Scene]]:
    """{text: its scene}, made of the shipped showcase. Figures are pictures by address: an empty one will do."""
    showcase = Backend.open(Store(tmp_path_factory.mktemp("showcase"))).showcase
    with gr.Blocks():
        tabs = SimpleNamespace(membership=membership.build(), extraction=extraction.build(), report=report.build())
    folder = tmp_path_factory.mktemp("scenes")
    made = {text: scene(text, showcase, folder / name, tabs) for text, name in ((PLAIN, "a"), (HOSTILE, "b"))}
    lora, paper = FINETUNERS["lora"], table_view.paper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "_svg", lambda figure: "data:image/svg+xml,")
        for name in (
            "roc_figure",
            "score_histogram_figure",
            "distance_histogram_figure",
            "loss_figure",
            "extraction_curve_figure",
        ):
            patch.setattr(figures, name, lambda *args, **kwargs: None)
        patch.setattr(figures, "axes_frame", lambda figure: (0, 0, 1, 1))
        patch.setattr(table_view, "plot", lambda *args: None)

        def play(text: str) -> Scene:
            patch.setitem(FINETUNERS._items, "lora", replace(lora, title=text, trains=text, source=text))
            patch.setattr(compare, "paper", lambda: paper | {"source": text, "caution": text})
            compare._tables_html.cache_clear()
            return made[text]

        yield play


def shown_by(values: dict) -> str:
    """The HTML that a tab draws."""
    drawn = []
    for component, value in values.items():
        value = value.get("value") if isinstance(value, dict) else getattr(value, "value", value)
        if isinstance(component, gr.HTML) and value:
            assert isinstance(value, Markup), component.elem_id
            drawn.append(value)
    return "".join(drawn)


def own_refused(s: Scene) -> str:
    with gr.Blocks() as page:
        own.build(s.backend)
    taken = next(fn for fn in page.fns.values() if len(fn.inputs) == 5)
    return taken.fn(f"lab:{s.text}", "", [], [], True)[1]


def first_screen(s: Scene, part: str) -> str:
    """The first screen, without the JSON that its script reads."""
    folder = s.store.root / "frames"
    export_frames({-1.0: s.result, 1.0: s.result}, folder)
    with patch.object(leak, "shipped", lambda: {s.text: leak.Frames(folder)}):
        text = leak.screen.__wrapped__(s.text) if part == "screen" else leak.pair_of(s.text)
    return re.sub(r'data-frames="[^"]*"', "", text)  # JSON has a way of its own to write the same text


def of_words(s: Scene, make: Callable[[str], str]) -> str:
    """A piece of words.py, whose glossary says what the scene says."""
    with (
        patch.object(words, "glossary", lambda: {s.text.casefold(): f"**{s.text}** {s.text}"}),
        patch.object(words, "_ids", count(1)),
    ):
        return make(s.text)


def figure_of(text: str) -> str:
    """The figure of the Compare tab, without the JSON that its script reads."""
    return re.sub(r'data-tables-json="[^"]*"', "", text)


def ready_runs(text: str) -> str:
    entry = {"person": text, "role": text, "methods": [text]}
    with patch.object(shipped, "entries", lambda: (entry,)):
        return finetune.ready_html()


def class_code(s: Scene) -> str:
    """Without the QR, whose picture differs with the address."""
    drawn = SimpleNamespace(svg_data_uri=lambda **how: "data:image/svg+xml,")
    with patch.object(classroom.segno, "make", lambda link, **how: drawn):
        return classroom.code_html(s.text, f"http://{s.text}/")


def class_board(s: Scene) -> str:
    """A class of one group with one run and one prediction."""
    classroom._facts.cache_clear()
    backend = type("Hashable", (), {"result_of": lambda self, shown: s.result, "showcase": None})()
    rooms = SimpleNamespace(
        groups=lambda code: [Group("v", s.text)], runs=lambda group: [s.job],
        predictions=lambda code: {s.result.key: [ANSWERS]},
    )  # fmt: skip
    classroom._figure.cache_clear()
    with patch.object(figures, "changes_figure", lambda *args: None):
        return classroom.board_html(backend, rooms, Class("ABC234", "v", True), "")


def judged(text: str) -> OnePhoto:
    standings = {text: Standing(text, 0.5, 0.99, 0.5)}
    return OnePhoto(standings, ("members", 0), 0.01, 0.2, 5)


def asked(s: Scene) -> str:
    with (
        patch.object(one_photo, "judge", lambda *args: judged(s.text)),
        patch.object(one_photo, "example", lambda *args: np.zeros((4, 4, 3), np.uint8)),
    ):
        return ask.answer_html(s.result, {"take": "new", "number": 1})


def about_a_lab(s: Scene) -> str:
    with patch.object(ask, "find_lab", lambda model: SimpleNamespace(resolution=64)):
        return ask.question_html(s.result)


def about_baselines(s: Scene) -> str:
    measured = {"name": s.text, "auc": {"loss": 0.8}, "auc_by_repeats": {"loss": {"1": 0.7, "10": 1.0}}}
    found = {"people": [measured], "auc": {"loss": {"mean": 0.8, "low": 0.7, "high": 0.9}}}
    with patch.object(stake, "baselines", lambda lab: found):
        return stake.stake_html(s.backend.lab, s.text)


def about_defences(s: Scene) -> dict[str, dict]:
    """Results in which whatever has a name is called as in the scene."""
    rate, auc = {"rate": 0.9, "low": 0.8, "high": 1.0}, {"mean": 0.6, "low": 0.55, "high": 0.65}
    change = {"difference": -0.1, "low": -0.2, "high": -0.05}
    attack = {"before": auc, "after": auc, "reference": {"auc": auc}}
    row = {"attacks": {s.text: attack}, "change": {s.text: change}}
    gate = {
        "rows": {s.text: {defend.SIZE: {"tpr": rate}}}, "negatives": {"held-out photos": {defend.SIZE: {"fpr": rate}}},
        "gates": {"g": s.text}, "thresholds": {"64": {"g": {"value": 0.5}}},
        "example": {"person": s.text, "size": 64, "rows": {s.text: {"scores": {"g": 0.6}, "refused": True}}},
    }  # fmt: skip
    return {"gate": gate, "defences": {"rows": dict.fromkeys(("none", "none, un-shaken", "DP, epsilon 8"), row)}}


def steps_of_somebody(s: Scene) -> str:
    with patch.object(leak, "steps_of", lambda person: (["data:,"], ["data:,"], ["data:,"])):
        return story.flow_html(s.text)


def of_game(text: str) -> str:
    """The Defend tab, without the JSON that its script reads."""
    return re.sub(r'data-game="[^"]*"', "", text)


# {function: pieces of HTML it makes}; several for one function are told apart by a word.
PIECES: dict[str, Callable[[Scene], str]] = {
    "html.picture": lambda s: html.picture(s.text, s.text, f"{s.text}\n{s.text}", True) + html.picture("", "", s.text),
    "html.choice": lambda s: html.choice(s.text, s.text, s.text, pick=s.text),
    "html.pictures": lambda s: html.pictures([s.text]),
    "html.block": lambda s: html.block(s.text, s.text),
    "html.drawing": lambda s: html.drawing(lambda dark, narrow: None, s.text),
    "html.progress_bar": lambda s: html.progress_bar(0.5, s.text),
    "html.loss_curve": lambda s: html.loss_curve([[1, 0.5], [2, 0.4]], 9),
    "html.before_after": lambda s: html.before_after([(s.text, s.text, s.text)], s.text),
    "html.strips": lambda s: html.strips([html.Strip(s.text, [1], [0], 0.5, "members")], s.text, (0.2, s.text)),
    "html.table": lambda s: html.table((s.text, s.text), [(s.text, s.text)], s.text),
    "live.status_html": lambda s: live.status_html(s.job),
    "live.status_html done": lambda s: live.status_html(s.at(state="done")),
    "live.status_html queued": lambda s: live.status_html(s.at(state="queued", live={}, ahead=2, waiting=3)),
    "live.pictures_html": lambda s: live.pictures_html(s.job, s.store),
    "live.samples_html": lambda s: live.samples_html(s.job, s.store),
    "live.loss_html": lambda s: live.loss_html(s.job),
    "live.log_html": lambda s: live.log_html(s.job),
    "running.show_job": lambda s: "".join(running.show_job(s.store, s.job, "v")[:5]),
    "runs.drawn": lambda s: runs.drawn(s.result, "alone", lambda dark, narrow: None, s.text),
    "runs.seeds_html": lambda s: runs.seeds_html(s.result, s.text),
    "finetune.example_seeds": lambda s: finetune.example_seeds(s.result),
    "html.waiting": lambda s: html.waiting(s.text),
    "words.explained": lambda s: of_words(s, lambda text: words.explained(f"{text} AUC", ("AUC", text))),
    "story.flow_html": steps_of_somebody,
    "runs.verdicts_html": lambda s: runs.verdicts_html(s.result),
    "runs.notes_html": lambda s: html.block(runs.notes_html(s.result)),
    "runs.headline_html": lambda s: runs.headline_html(s.result, True),
    "runs.headline_html of a reference set": lambda s: runs.headline_html(s.reference),
    "runs.outcome_html": lambda s: runs.outcome_html(s.result, detail=True),
    "quiz.question_html": lambda s: quiz.question_html(s.result, {"rounds": [[1, 2]]}),
    "quiz.question_html answered": lambda s: quiz.question_html(s.result, ANSWERS),
    "quiz.answered_html": lambda s: quiz.answered_html(s.result, 0, 1),
    "quiz.score_html": lambda s: quiz.score_html(s.result, ANSWERS),
    "quiz.auc_html": lambda s: quiz.auc_html(s.result, ANSWERS),
    "quiz.extracted_html": lambda s: quiz.extracted_html(s.result, ANSWERS),
    "own.chosen_html": lambda s: own.chosen_html(own.NOT_OWN | {"model": s.text, "name": s.text}, True),
    "own.build refused": own_refused,
    "leak.screen": lambda s: first_screen(s, "screen"),
    "leak.pair_of": lambda s: first_screen(s, "pair"),
    "story.first_picture": lambda s: story.first_picture(SimpleNamespace(shows_ours=False, showcase=s.result)),
    "story.slider": lambda s: story.slider(s.result),
    "story.headlines_html": lambda s: story.headlines_html(s.result),
    "story.story_html": lambda s: story.story_html(s.result),
    "words.marked": lambda s: words.marked(f"**{s.text}** *{s.text}* {s.text}"),
    "words.term": lambda s: of_words(s, words.term),
    "words.lead": lambda s: of_words(s, lambda text: words.lead(f"{text} [[{text}]]", [text])),
    "words.line": lambda s: of_words(s, lambda text: words.line([text])),
    "target.words_html": lambda s: target.words_html(f"a photo of {s.text}", "somebody"),
    "target.words_html of nobody": lambda s: target.words_html("a photo", s.text),
    "stake.stake_html": about_baselines,
    "overall.overall_html": lambda s: overall.overall_html(overall.committed()),
    "target.people_html": lambda s: target.people_html(s.backend),
    "target.photos_html": lambda s: target.photos_html(s.backend, s.text),
    "sp_set.preview_html": lambda s: sp_set.preview_html(s.text, f"a photo of {s.text}", s.text, 50, s.text, 0, 9),
    "sp_set.preview_html refused": lambda s: sp_set.preview_html(s.text, s.text, "", 50, "", s.text, 9),
    "sp_set.pictures_html": lambda s: sp_set.pictures_html(None, s.result, s.store, s.text),
    "sp_set.pictures_html live": lambda s: sp_set.pictures_html(s.at(live={}), s.result, s.store, s.text),
    "finetune.example_html": lambda s: finetune.example_html(s.result),
    "finetune.ready_html": lambda s: ready_runs(s.text),
    "finetune.card_html": lambda s: finetune.card_html(s.backend, "lora", 8, 4, False),
    "finetune.card_html refused": lambda s: finetune.card_html(s.backend, s.text, 8, 4, False),
    "membership.point_html": lambda s: membership.point_html(
        membership.operating_point(s.result, "loss", "after", 9)
    ),
    "membership.roc_html": lambda s: membership.roc_html(s.result, "loss", False),
    "membership.ranked_html": lambda s: membership.ranked_html(s.result, "loss", "after"),
    "ask.question_html": about_a_lab,
    "ask.question_html of no lab": lambda s: ask.question_html(s.unknown),
    "ask.answer_html": asked,
    "ask.verdict_html": lambda s: ask.verdict_html(s.result, np.zeros((4, 4, 3), np.uint8), judged(s.text)),
    "photo.detail_html": lambda s: photo.detail_html(s.result, "members", 0, "loss"),
    "membership.scores_html": lambda s: membership.scores_html(s.result, "loss"),
    "membership.draw": lambda s: shown_by(membership.draw(s.tabs.membership, s.result, ANSWERS, True)),
    "membership.draw question": lambda s: shown_by(membership.draw(s.tabs.membership, s.result, {}, True)),
    "membership.draw unknown": lambda s: shown_by(membership.draw(s.tabs.membership, s.unknown, {}, False)),
    "membership.redraw": lambda s: shown_by(membership.redraw(s.tabs.membership, s.result, "loss", "before", 9)),
    "extraction.cards_html": lambda s: extraction.cards_html(s.result, "all", "closest"),
    "extraction.detail_html": lambda s: extraction.detail_html(s.result, "members", 0),
    "extraction.histogram_html": lambda s: extraction.histogram_html(s.result),
    "extraction.draw": lambda s: shown_by(extraction.draw(s.tabs.extraction, s.result, ANSWERS)),
    "extraction.draw question": lambda s: shown_by(extraction.draw(s.tabs.extraction, s.result, {})),
    "extraction.draw unknown": lambda s: shown_by(extraction.draw(s.tabs.extraction, s.unknown, {})),
    "compare.our_table": lambda s: compare.our_table("tokens", s.table),
    "compare.our_table of one row": lambda s: compare.our_table("attacks", s.short_table),
    "compare.tables_html": lambda s: compare.tables_html(s.tables),
    "compare.figure_html": lambda s: figure_of(compare.figure_html()),
    "effects.screen": lambda s: figure_of(effects.screen({"tokens": s.table})),
    "exposure.conclusion_html": lambda s: exposure.conclusion_html(s.result, "loss"),
    "exposure.exposed_html": lambda s: exposure.exposed_html(s.result, "loss"),
    "exposure.set_html": lambda s: exposure.set_html(s.result, "loss"),
    "exposure.headline_html": lambda s: exposure.headline_html(s.result, True),
    "quiz.said_html": lambda s: quiz.said_html(s.result, ANSWERS),
    "html.fold": lambda s: html.fold(s.text, s.text, s.text),
    "extraction.headline_html": lambda s: extraction.headline_html(s.result),
    "exposure.growth_html": lambda s: exposure.growth_html(s.result),
    "exposure.blind_html": lambda s: exposure.blind_html(s.result),
    "defend.bars_html": lambda s: defend.bars_html(defend.Defence("x", "", "", "", (defend.Bar(s.text, 0, 0, 1),))),
    "defend.card_html": lambda s: defend.card_html(defend.Defence("x", s.text, s.text, s.text)),
    "defend.game_html": lambda s: of_game(defend.game_html(about_defences(s)["gate"])),
    "defend.game_html of nothing": lambda s: of_game(defend.game_html(None)) + s.text[:0],
    "defend.screen": lambda s: of_game(defend.screen(about_defences(s))),
    "defend.protects_html": lambda s: defend.protects_html(about_defences(s)),
    "two_runs.sides_html": lambda s: two_runs.sides_html(s.result, s.other),
    "classroom.board_html": class_board,
    "classroom.code_html": class_code,
    "classroom.bars": lambda s: classroom.bars(s.text, [(s.text, 1), ("1", 2)], 0, 0.5),
    "report.loss_html": lambda s: report.loss_html(s.result),
    "report.headline_html": lambda s: report.headline_html(s.result, True),
    "report.headline_html of unknown": lambda s: report.headline_html(s.unknown, True),
    "report.closing_html": lambda s: report.closing_html(s.result, ANSWERS),
    "report.draw": lambda s: shown_by(report.draw(s.tabs.report, s.result, "run", True, ANSWERS)),
}  # fmt: skip
# Nothing in these has a name.
NUMBERS = {
    "html.loss_curve", "live.loss_html", "live.samples_html", "quiz.extracted_html", "membership.point_html",
    "membership.ranked_html", "extraction.cards_html", "extraction.detail_html", "extraction.histogram_html",
    "extraction.draw question", "extraction.draw unknown", "report.loss_html", "compare.figure_html", "effects.screen",
    "exposure.growth_html", "exposure.blind_html", "overall.overall_html", "defend.game_html of nothing",
    "runs.notes_html", "finetune.example_seeds",
}  # fmt: skip


def read(piece: str, s: Scene) -> list:
    """The tokens of a piece, whose explained words are counted from 1."""
    with patch.object(words, "_ids", count(1)):
        return Tokens(PIECES[piece](s)).read


@pytest.mark.parametrize("piece", PIECES)
def test_a_hostile_name_is_text(scenes, piece):
    plain, hostile = read(piece, scenes(PLAIN)), read(piece, scenes(HOSTILE))
    assert renamed(hostile) == renamed(plain)
    assert (hostile != plain) == (piece not in NUMBERS)
    assert "&lt;" not in str(plain) and any(token[0] == "start" for token in plain)  # our own tags are tags


def modules() -> Iterator[tuple[str, object]]:
    for found in pkgutil.walk_packages(s2l.ui.__path__, "s2l.ui."):
        yield found.name, importlib.import_module(found.name)


def test_every_function_that_makes_html_is_tried():
    made = set()
    for name, module in modules():
        for function, value in inspect.getmembers(module, inspect.isfunction):
            own_one = value.__module__ == name and not function.startswith("_")
            if own_one and value.__annotations__.get("return") == "Markup":
                made.add(f"{name.rpartition('.')[2]}.{function}")
    assert "html.table" in made and made <= {piece.split()[0] for piece in PIECES}


def test_the_first_picture_ends_no_script(scenes):
    """The page's head: the picture is a text of a script."""
    read = {}
    for text in (PLAIN, HOSTILE):
        head = first.head(story.slider(scenes(text).result))
        assert [token[1] for token in Tokens(head).read if token[0] != "text"] == ["style", "style", "script", "script"]
        read[text] = Tokens(json.loads(re.search(r'innerHTML = (".*");$', head, re.MULTILINE)[1])).read
    assert renamed(read[HOSTILE]) == renamed(read[PLAIN]) and read[HOSTILE] != read[PLAIN]


def test_a_warning_shows_what_was_typed(scenes, store, tiny_lab, monkeypatch):
    """Gradio shows the texts of its notices as HTML."""
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text, **more: said.append(text))
    monkeypatch.setenv("S2L_SHOWCASE", str(store.root / "none"))
    page = layout.build(Backend.open(store))
    components = {getattr(block, "elem_id", None): block for block in page.blocks.values()}
    run = next(fn for fn in page.fns.values() if components["run-error"] in fn.outputs)
    values = {component: getattr(component, "value", None) for component in run.inputs}
    shown = run.fn(values | {components["person"]: HOSTILE})[components["run-error"]]["value"]
    for text in (*said, shown):
        read = Tokens(text).read
        assert "<img" in str(read) and not [token for token in read if token[:2] == ("start", "img")]
    assert len(said) == 1


# --- the source -----------------------------------------------------------------------------------------------------


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Calls of a function, by its own name or as an attribute of a module."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if name in (getattr(node.func, "id", None), getattr(node.func, "attr", None))]


def places(tree: ast.AST) -> set[int]:
    return {id(node) for node in ast.walk(tree)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_tags_are_written_as_markup_and_values_are_not(path):
    """`Markup` is for what we wrote ourselves: one literal. What it does not escape is nobody else's text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "html"]
    assert not imported, "escape with markupsafe"
    literals = set()
    for call in calls(tree, "Markup"):
        assert not call.keywords and len(call.args) <= 1
        assert all(isinstance(arg, ast.Constant) for arg in call.args), f"line {call.lineno}: a value in Markup(...)"
        literals |= places(call)
    if path.stem == "first":  # writes the page's head; test_the_first_picture_ends_no_script reads it
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    said = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in literals | said:
            assert not re.search(r"</?[a-z]", node.value), f"line {node.lineno}: a tag outside Markup(...)"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_notices_are_escaped(path):
    """Only the API, for programs that read plain text, raises a gr.Error as it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    errors = [] if path.stem == "api" else calls(tree, "Error")
    for call in [*calls(tree, "Warning"), *calls(tree, "Info"), *errors]:
        assert isinstance(call.args[0], ast.Constant) or call.args[0] in calls(tree, "escape"), call.lineno
