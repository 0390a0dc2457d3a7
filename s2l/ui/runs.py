"""What every result tab needs: a run in one line, its pictures, its figures (cached), and its verdicts in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from markupsafe import Markup

from s2l.record import BOTH, Part, Result
from s2l.report.findings import after_note, warning
from s2l.report.verdicts import findings, short_caution, unchanged_note
from s2l.ui import html, words
from s2l.ui.live import method_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
SEEDS = 4  # as many as a training draws from time to time
IN_ROWS = ("balanced accuracy", "eidetic", "control", "UNet", "TPR", "FPR", "reference", "AUC")  # explained in tables
EMPTY = Markup('<p class="quiet">No result to show yet: go through steps 1 to 3 and press Run.</p>')
UNKNOWN = Markup(
    "<p>It is not known which photos this model was trained on, so nothing can be compared here. The tabs SP set and "
    "Report show all that an attacker without data sees: what the model generates before and after fine-tuning. A ROC "
    "curve needs photos that are known to be members, and others that are known not to be.</p>"
)


def name_of(person: str, methods: Sequence[str], preset: str) -> str:
    """A run in one line."""
    return f"{person}, {method_title(methods)}, {preset}"


def what(result: Result) -> str:
    config = result.record["config"]
    return name_of(config["domain"]["name"], config["finetune"]["methods"], config["preset"])


def picture_uris(result: Result, of: str, indices: Sequence[int]) -> list[str]:
    """Pictures of one of the run's image sets, as data URIs."""
    root = result.store.root / result.record["folders"][of]
    return [_uri(str(root), int(i)) for i in indices]


@lru_cache(maxsize=20_000)
def _uri(folder: str, index: int) -> str:
    from s2l.figures import pictures

    return html.pixels_uri(pictures(folder, [index])[0], 85)


def closest(result: Result, of: Part) -> list[tuple[int, int]]:
    """(photo, its nearest generation before or after) of every photo, the closest pairs first.

    Choosing by "after" alone would suggest a rise even if there is none.
    """
    found = result.extraction
    before, after = found["before"][of], found["after"][of]
    best = []
    for photo, (d0, d1) in enumerate(zip(before["distances"], after["distances"], strict=True)):
        side = after if d1 <= d0 else before
        best.append((min(d0, d1), photo, int(side["nearest_generation"][photo])))
    return [(photo, generation) for _, photo, generation in sorted(best)]


_DRAWN: dict[tuple, Any] = {}


def remembered(result: Result, name: str, make: Callable[[], T]) -> T:
    """The value of `make()` for a finished run, computed once: a finished run does not change."""
    if len(_DRAWN) > 400:
        _DRAWN.clear()
    key = (result.copy, name)
    if key not in _DRAWN:
        _DRAWN[key] = make()
    return _DRAWN[key]


def drawn(result: Result, name: str, draw: Callable[[bool, bool], Figure], alt: str) -> Markup:
    """A figure of a result for both themes and for a telephone; `draw(dark, narrow)`: see html.drawing."""
    return remembered(result, name, lambda: html.drawing(draw, alt))


def seeds_html(result: Result, title: str) -> Markup:
    """The first pictures that each model generated from the same seeds: what the shake changes."""
    if not {"before", "after"} <= set(result.record["folders"]):
        return Markup()
    columns = []
    for seed, pair in enumerate(zip(*(picture_uris(result, when, range(SEEDS)) for when in BOTH), strict=True), 1):
        shots = (
            html.picture(uri, f"seed {seed}, {when} the shake", when) for when, uri in zip(BOTH, pair, strict=True)
        )
        columns.append(Markup("<div class=pair-of>{}</div>").format(Markup("").join(shots)))
    return html.block(
        Markup("<h3>{}</h3>").format(title), Markup("<div class=same-seeds>{}</div>").format(Markup("").join(columns))
    )


def verdicts(result: Result) -> list[tuple[str, str, str]]:
    """(verdict, numbers in words, tone) of each question; the tone is "up", "down" or ""."""
    tones = {1: "up", -1: "down", 0: ""}
    return [
        (finding.verdict, finding.details[:1].upper() + finding.details[1:], tones[finding.direction])
        for finding in findings(result)
    ]


def verdicts_html(result: Result, first: int | None = None) -> Markup:
    """The verdicts in words with their intervals: all of them, or only the first `first` (the attacks come first)."""
    return Markup("").join(
        Markup('<p class="verdict {}"><b>{}.</b> {}</p>').format(tone, verdict, numbers)
        for verdict, numbers, tone in verdicts(result)[:first]
    )


def headline_html(result: Result | None, example: bool = False) -> Markup:
    """Which run this is, what to know before reading its numbers, and all verdicts."""
    if result is None:
        return html.block(EMPTY)
    title = Markup("<h3>{}</h3>").format(title_of(result, example))
    return html.block(title, notes_html(result), verdicts_html(result))


def title_of(result: Result, example: bool = False) -> str:
    """Which run this is."""
    return ("An example, run by us: " if example else "") + what(result)


def notes_html(result: Result) -> Markup:
    """What to know before reading a run's numbers."""
    note = Markup()
    if result.record["config"]["preset"] == "quick":
        note += Markup(
            '<p class="quiet">A <em>quick</em> run: with so few pictures and photos it shows how the lab works, not '
            "what leaks.</p>"
        )
    if caution := warning(result.record):
        note += Markup("<p><b>Warning.</b> {}</p>").format(caution)
    if unchanged := unchanged_note(result.record["attacks"]):
        note += Markup("<p><b>Warning.</b> {}</p>").format(unchanged)
    if after := after_note(result.record):
        note += Markup("<p>{}</p>").format(after)
    return note


def outcome_html(result: Result, group: Callable[[str], bool] = lambda _: True, detail: bool = False) -> Markup:
    """The table of measured numbers with their intervals, of the groups that are asked for."""
    from s2l.report import render as report

    rows = [
        (row.group, words.explained(row.what, IN_ROWS), row.before, row.after, row.difference)
        for row in report.outcome(result)
        if group(row.group) and (detail or not row.detail)
    ]
    table = html.table(("", "measured", "before", "after", "change [95 %]"), rows)
    if caution := short_caution(result.record["control"]):
        return Markup("<p><b>Warning.</b> {}</p>{}").format(caution, table)
    return table


def generator(result: Result, *salt: int) -> np.random.Generator:
    """A random generator that is the same for everybody who looks at this run."""
    return np.random.default_rng([int(result.key[:8], 16), *salt])


def chosen_photo(result: Result, picked: object) -> tuple[Part, int] | None:
    """The photo that a click names ("members 3") as ("members", 3); None if there is no such photo."""
    name, _, number = str(picked).partition(" ")
    domain = result.record["domain"]
    counts: dict[Part, int] = {"members": domain["n_members"], "nonmembers": domain["n_nonmembers"]}
    for of, count in counts.items():
        if of == name and number.isdecimal() and len(number) < 10 and int(number) < count:
            return of, int(number)
    return None
