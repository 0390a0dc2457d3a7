"""The figure of the Compare tab: what the shake changes, by method and attack, beside the paper's figures.

Everything is on the page at once: the choice of table, attack, models and quantity redraws it in the browser
(effects.js), without the server. The numbers are those of the committed tables (results/*.json).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from s2l.assets import ASSETS
from s2l.tables import split_view
from s2l.tables import view as table_view
from s2l.tables.sheet import in_words, titles, value_of
from s2l.ui import html

SCRIPT = Path(__file__).with_name("effects.js")
RESULTS = ASSETS.parents[1] / "results"  # the committed tables and baselines
# The tables that the figure can show, in this order: (name of the file, what the choice says, what its rows are).
TABLES = (
    (
        "labs",
        "Labs",
        "Each row is a model and how it is used: its private photos came last in training (fresh), or public ones came "
        "after them (buried); swapped is buried with the two halves of the photos exchanged: effects must follow them",
    ),
    ("main", "Methods", "Each row is a way to fine-tune the model on its own pictures"),
    (
        "split",
        "Fair split or not",
        "Each row is a share of held-out photos that come from another source than the members",
    ),
    ("rank", "LoRA's rank", "Each row is a rank of LoRA's matrices, with DreamBooth"),
    ("tokens", "New words", "Each row is a number of new tokens of Textual Inversion"),
    ("sp-size", "SP set size", "Each row is a number of pictures in the SP set"),
    ("noise", "Noise on weights", "Each row is the size of random noise on the weights, without any training"),
)
EXTRACTED = "extraction"  # the place of the extracted photos beside the attacks
PAPER = "The paper has {before} and {after} on Stable Diffusion, without an interval."
Ends = list[float | None]  # value, low, high


def _ends(estimate: dict, digits: int = 6) -> Ends:
    """[value, low, high]; no interval (None) for a single person."""
    value = estimate["mean"] if "mean" in estimate else value_of(estimate)
    return [None if x is None else round(x, digits) for x in (value, estimate["low"], estimate["high"])]


def signed(ends: Ends, digits: int = 3) -> str:
    """A change with its interval, in words."""
    value, low, high = ends
    if low is None or high is None:
        return f"{value:+.{digits}f} (one person: no interval over people)"
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def direction(change: Ends) -> int:
    """+1 or -1 where the whole interval of a change lies on one side of 0, else 0."""
    _, low, high = change
    if low is None or high is None:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def _verdict(change: Ends) -> str:
    return {1: "gets stronger", -1: "gets weaker", 0: "shows no clear change"}[direction(change)]


def _attack_cell(title: str, outcome: dict, label: str, model: str, theirs: tuple[float, float] | None) -> dict:
    """One row's numbers for one attack; `theirs` is the paper's AUC before and after."""
    before, after, change = _ends(outcome["before"]), _ends(outcome["after"]), _ends(outcome["difference"])
    says = (
        f"{label}: the {title} attack {_verdict(change)} on the {model} model. Its AUC is {before[0]:.3f} on the base "
        f"model and {after[0]:.3f} on this one, a change of {signed(change)}."
    )
    cell: dict = {"before": before, "after": after, "change": change, "says": says, "paper": None, "both": None}
    if theirs is not None:
        cell["paper"] = {"change": round(theirs[1] - theirs[0], 4), "auc": theirs[1]}
        cell["says"] += " " + PAPER.format(before=f"{theirs[0]:.3f}", after=f"{theirs[1]:.3f}")
    if (reference := outcome.get("reference")) is not None:
        both, auc = _ends(reference["difference"]), _ends(reference["auc"])
        cell["both"] = {
            "change": both,
            "after": auc,
            "says": f"{label}: with both models together, the {title} attack {_verdict(both)}. Its AUC is "
            f"{before[0]:.3f} on the base model alone and {auc[0]:.3f} with both, a change of {signed(both)}.",
        }
    return cell


def _extraction_cell(row: dict, label: str, theirs: float | None) -> dict:
    """Members that come out, per person; `theirs` is the paper's count after the fine-tuning, and it has 0 before."""
    found = row["extraction"]
    before, after = (_ends(found[when]["distinct_over_people"]) for when in ("before", "after"))
    change = _ends(found["difference"])
    verdict = {1: "more photos come out", -1: "fewer photos come out", 0: "no clear change in what comes out"}
    says = (
        f"{label}: {verdict[direction(change)]}. Per person, {before[0]:.1f} of {row['n_members']} photos come out of "
        f"the base model and {after[0]:.1f} of this one, a change of {signed(change, 1)}; among photos that cannot "
        f"leak, the same search finds {found['after']['mean_nonmembers_scaled']:.1f}."
    )
    cell: dict = {"before": before, "after": after, "change": change, "says": says, "paper": None, "both": None}
    if theirs is not None:
        cell["paper"] = {"change": theirs, "auc": theirs}
        cell["says"] += f" The paper has 0 and {theirs:g} on Stable Diffusion."
    return cell


def _papers(name: str, label: str) -> tuple[tuple[float, float] | None, float | None]:
    """((AUC before, after) or None, extracted photos or None) of the paper's row that corresponds to ours."""
    values = table_view.paper_values(name, label)
    before = table_view.number_in(table_view.paper_values("main", table_view.BASE).get("AUC"))
    after = table_view.number_in(values.get("AUC"))
    aucs = None if before is None or after is None else (before, after)
    return aucs, table_view.number_in(values.get("extracted per person"))


def _row(name: str, label: str, row: dict, names: dict[str, str], said: str = "") -> dict:
    words = said or in_words(label)
    aucs, extracted = _papers(name, label)
    model = "un-shaken" if row.get("unshaken") else "noisy" if name == "noise" else "fine-tuned"
    cells = {
        attack: _attack_cell(title, row["attacks"][attack], words, model, aucs if attack == "secmi" else None)
        for attack, title in names.items()
    }
    return {"label": words, "cells": cells | {EXTRACTED: _extraction_cell(row, words, extracted)}}


def _rows_of_labs(table: dict, main: dict | None, names: dict[str, str]) -> list[dict]:
    """The labs' rows; the fresh lab's shake stands in the main table, for the same people, photos and base model."""
    rows = dict(table["rows"])
    shaken = main["rows"].get("lora") if main is not None else None
    fresh = rows.get("fresh, un-shaken")
    if shaken is not None and fresh is not None and _same_base(shaken, fresh):
        rows = {"fresh, shaken": shaken} | rows
    order = sorted(rows, key=lambda label: (not label.startswith("fresh"), not label.startswith("buried"), label))
    return [_row("labs", label, rows[label], names) for label in order]


def _same_base(one: dict, other: dict) -> bool:
    """Whether two rows were measured on the same base model: then their scores before are the same."""
    return one["people"] == other["people"] and all(
        one["attacks"][a]["before"]["per_domain"] == other["attacks"][a]["before"]["per_domain"]
        for a in other["attacks"]
    )


def _rows_of_split(table: dict, names: dict[str, str]) -> list[dict]:
    """One row for each share of held-out photos from a second source; the fair split first."""
    (row,) = table["rows"].values()
    rows: list[dict] = []
    for direction_, words in split_view.DIRECTIONS.items():
        blind = row["blind"][direction_]["members"]
        for i, share in enumerate(blind):
            if i == 0 and rows:
                continue  # the fair split is the same for both
            label = f"{100 * share['share']:g} % from the {words}" if share["share"] else "fair split"
            cells = {}
            for attack, title in names.items():
                shares = row["attacks"][attack][direction_]["members"]["shares"]
                cells[attack] = _split_cell(title, shares[i], shares[0], label, share["mean"])
            rows.append({"label": label, "cells": cells})
    return rows


def _split_cell(title: str, here: dict, fair: dict, label: str, blind: float) -> dict:
    before, after, change = _ends(here["before"]), _ends(here["after"]), _ends(here["difference"])
    says = (
        f"{label[:1].upper()}{label[1:]}: a classifier that never sees the model tells the two groups apart with an "
        f"AUC of {blind:.2f}. The {title} attack has {before[0]:.3f} on the base model and {after[0]:.3f} after the "
        f"shake, a change of {signed(change)}; on the fair split it has {fair['before']['mean']:.3f} and "
        f"{fair['after']['mean']:.3f}."
    )
    return {"before": before, "after": after, "change": change, "says": says, "paper": None, "both": None}


def payload(tables: dict[str, dict], titles_of: Callable[[dict], dict[str, str]] = titles) -> list[dict]:
    """What effects.js draws, for the committed `tables` that are there; those of another version are left out.

    `titles_of` gives {name: title} of a table's attacks; the default loads torch.
    """
    found = []
    for name, title, about in TABLES:
        with suppress(KeyError, TypeError, ValueError):
            table = tables[name]
            names = titles_of(table)
            if name == "split":
                rows = _rows_of_split(table, names)
            elif name == "labs":
                rows = _rows_of_labs(table, tables.get("main"), names)
            else:
                rows = [_row(name, label, row, names) for label, row in table["rows"].items()]
            counts = {} if name == "split" else {EXTRACTED: "Extraction"}
            n = table["n_people"]
            people = f"{n} people, 95 % intervals over people and photos" if n > 1 else "one person"
            found.append(
                {"name": name, "title": title, "about": f"{about}; {people}.", "attacks": names | counts, "rows": rows}
            )
    return found


def screen(tables: dict[str, dict]) -> Markup:
    """The figure; empty if no table that it can show has been committed."""
    if not (found := payload(tables)):
        return Markup()
    group = Markup('<div class="pick"><span id="fx-{0}">{1}</span><span role="group" aria-labelledby="fx-{0}" '
                   'class="chips" data-{0}></span></div>')  # fmt: skip
    choices = Markup("").join(
        group.format(name, words)
        for name, words in (("tables", "Compare"), ("attacks", "Attack"), ("models", "It sees"), ("shows", "Show"))
    )
    return html.block(
        Markup(
            '<section class="effects" aria-label="What the shake changes">{}<p class="quiet" data-about></p>'
            '<p class="conclusion" data-says role="status"></p><div data-rows role="group" '
            'aria-label="Rows of the figure"></div><div class="axis" data-axis aria-hidden="true"></div>'
            '<p class="quiet" data-key></p><div hidden data-tables-json="{}"></div></section>'
        ).format(choices, json.dumps(found, separators=(",", ":")))
    )
