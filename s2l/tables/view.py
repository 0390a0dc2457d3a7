"""A finished table over people as sheets of text and as a plot, with the paper's figures beside ours.

Everything that shows `results/NAME.json` uses it: `results/NAME.md` and `.png`, the documents, the app.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from s2l.assets import ASSETS
from s2l.figures import Effect, effects_figure, png
from s2l.store import read_json
from s2l.tables import blind_view, by_lab, defences_view, gate_view, mitigations_view, split_view
from s2l.tables.sheet import Sheet, change, ends, in_words, interval, markdown, mean, titles

PAPER = ASSETS / "paper.json"
BASE = "base model"  # the row before fine-tuning
TPR_AT = 0.01


@lru_cache(maxsize=1)
def paper() -> dict:
    """The paper's own figures (s2l/assets/paper.json)."""
    return read_json(PAPER)


# --- numbers as text ------------------------------------------------------------------------------------------------


def _count(estimate: dict) -> str:
    """The mean of a count per person. The interval, Student's t over few people, is cut off at 0."""
    return mean(estimate if estimate["low"] is None else estimate | {"low": max(0.0, estimate["low"])}, 1)


def _tpr(outcome: dict, when: str) -> str:
    """The TPR at a threshold frozen on other people, with the FPR that was actually reached."""
    for entry in (outcome["frozen"] or {}).get(when, ()):
        if entry["target_fpr"] == TPR_AT and (point := entry["point"]):
            return f"{point['tpr']:.3f} {interval(point['tpr_exact'])} (FPR {point['realised_fpr']:.3f})"
    return ""


def _precision(flags: list[int]) -> str:
    """How many of the blind flags are right."""
    n_flags, n_right = flags
    return f"{n_right} of {n_flags}" if n_flags else "none raised"


# --- the paper's figures ----------------------------------------------------------------------------------------------


def paper_values(name: str, label: str) -> dict[str, str]:
    """{column: text} of the paper's row that corresponds to ours; empty if there is none."""
    table = paper()["tables"].get(name, {})
    if label not in table.get("ours", ()):
        return {}
    return dict(zip(table["head"], table["rows"][table["ours"].index(label)], strict=True))


def number_in(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def paper_change_of(name: str, label: str) -> float | None:
    """The paper's AUC of a row, minus that of its base model."""
    theirs = number_in(paper_values(name, label).get("AUC"))
    base = number_in(paper()["tables"]["main"]["rows"][0][paper()["tables"]["main"]["head"].index("AUC")])
    return None if theirs is None or base is None else theirs - base


# --- sheets -----------------------------------------------------------------------------------------------------------


def _without_empty_columns(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Sheet:
    columns = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    return Sheet(title, tuple(head[i] for i in columns), tuple(tuple(row[i] for i in columns) for row in rows))


SHOWN = ("secmi", "loss")  # the attacks of the first sheet and of the plot


def plottable(table: dict) -> bool:
    """Whether a table has rows to compare and the attacks that the plot shows."""
    if own := _own_view(table):
        return hasattr(own, "plot")
    attacks = next(iter(table["rows"].values()))["attacks"]
    return len(table["rows"]) > 1 and all(name in attacks for name in SHOWN)


def _both(outcome: dict) -> str:
    """The change of an attack on the base model with the fine-tuned one as its reference; "" without a reference."""
    return change(outcome["reference"]["difference"]) if outcome["reference"] else ""


def _membership(name: str, table: dict) -> Sheet:
    """The primary attack, and the Loss attack alone and with the fine-tuned model as its reference."""
    head = (
        "", "trained parameters", "SecMI AUC", "SecMI, change", "SecMI, both models together", "SecMI, TPR at 1 % FPR",
        "Loss AUC", "Loss, change", "Loss, both models together", "paper: AUC", "paper: change",
    )  # fmt: skip
    first = next(iter(table["rows"].values()))["attacks"]

    def cells(label: str, outcomes: dict, when: str, parameters: str) -> tuple[str, ...]:
        secmi, loss = outcomes["secmi"], outcomes["loss"]
        after = when == "after"
        theirs, paper_change = paper_values(name, label).get("AUC", ""), paper_change_of(name, label)
        return (
            in_words(label), parameters, mean(secmi[when]), change(secmi["difference"]) if after else "",
            _both(secmi) if after else "", _tpr(secmi, when), mean(loss[when]),
            change(loss["difference"]) if after else "", _both(loss) if after else "", theirs,
            f"{paper_change:+.3f}" if after and paper_change is not None else "",
        )  # fmt: skip

    rows = [cells(BASE, first, "before", "")]
    for label, row in table["rows"].items():
        rows.append(cells(label, row["attacks"], "after", f"{row['trained_parameters']:,}"))
    return _without_empty_columns("Membership inference", head, rows)


def _others(table: dict, besides: tuple[str, ...]) -> Sheet | None:
    """The attacks besides those of the first sheet: before, how each changed, and both models together."""
    names = {name: title for name, title in titles(table).items() if name not in besides}
    if not names:
        return None
    head = [""] + [f"{t}{what}" for t in names.values() for what in (" AUC", ", change", ", both models together")]
    first = next(iter(table["rows"].values()))["attacks"]
    rows = [(BASE, *(text for name in names for text in (mean(first[name]["before"]), "", "")))]
    for label, row in table["rows"].items():
        outcomes = [row["attacks"][name] for name in names]
        cells = [text for x in outcomes for text in (mean(x["after"]), change(x["difference"]), _both(x))]
        rows.append((in_words(label), *cells))
    return _without_empty_columns("Other attacks", tuple(head), rows)


def _secondary(table: dict) -> Sheet:
    """The AUC of the change alone, and the members within distances other than delta."""
    names, first = titles(table), next(iter(table["rows"].values()))
    distances = list(first["extraction"]["before"]["within"])
    head = [""] + [f"{t}: AUC of its change alone" for t in names.values()]
    head += [f"within {d} (control)" for d in distances]

    def near(outcome: dict) -> list[str]:
        scale = first["n_members"] / first["n_nonmembers"]
        return [f"{members:.1f} ({scale * control:.1f})" for members, control in outcome["within"].values()]

    rows = [(BASE, *("" for _ in names), *near(first["extraction"]["before"]))]
    for label, row in table["rows"].items():
        changes = [f"{row['attacks'][name]['shake_auc']:.3f}" for name in names]
        rows.append((in_words(label), *changes, *near(row["extraction"]["after"])))
    title = (
        "Means without intervals: the change alone (below .5: members' scores fell more), and members (held-out "
        "photos, scaled) within other distances"
    )
    return _without_empty_columns(title, tuple(head), rows)


def _extraction(name: str, table: dict) -> Sheet:
    """What was extracted, its control, and what an attacker without the photos would flag."""
    head = (
        "", "distinct members", "change", "control: held-out photos, scaled", "blind flags that are right",
        "paper: extracted", "paper: precision of flags, %",
    )  # fmt: skip
    first = next(iter(table["rows"].values()))["extraction"]

    def cells(label: str, outcome: dict, difference: str) -> tuple[str, ...]:
        theirs = paper_values(name, label)
        return (
            in_words(label), _count(outcome["distinct_over_people"]), difference,
            f"{outcome['mean_nonmembers_scaled']:.1f}", _precision(outcome["flags"]),
            theirs.get("extracted per person", ""), theirs.get("precision %", ""),
        )  # fmt: skip

    rows = [cells(BASE, first["before"], "")]
    for label, row in table["rows"].items():
        rows.append(cells(label, row["extraction"]["after"], change(row["extraction"]["difference"], 1)))
    return _without_empty_columns("Extraction within l2 = .1, per person", head, rows)


def _by_attack(table: dict) -> list[Sheet]:
    """A table of one row, such as a comparison of attacks: one line per attack."""
    (row,) = table["rows"].values()
    rows = []
    for name, title in titles(table).items():
        outcome = row["attacks"][name]
        aucs = (mean(outcome[when]) for when in ("before", "after"))
        rows.append((title, *aucs, change(outcome["difference"]), _both(outcome)))
    head = ("attack", "AUC before", "AUC after", "change", "both models together")
    return [_without_empty_columns("Membership inference", head, rows)]


OWN_VIEWS: dict[str, ModuleType] = {
    "split": split_view,
    "blind": blind_view,
    "gate-study": gate_view,
    "defences": defences_view,
    "sampler": mitigations_view,
}


def _own_view(table: dict) -> ModuleType | None:
    """The module that shows a table of another kind, or None: `sheets` and `how`, and perhaps `plot` and `ALT`."""
    if own := OWN_VIEWS.get(table.get("kind", "")):
        return own
    return by_lab if by_lab.is_by_lab(table) else None


def sheets(name: str, table: dict) -> list[Sheet]:
    """Everything in a table, as text. Raises KeyError for a file from another version of the program."""
    if own := _own_view(table):
        return own.sheets(table)
    if len(table["rows"]) == 1:
        return _by_attack(table)
    if not plottable(table):
        return [sheet for sheet in (_extraction(name, table), _others(table, ())) if sheet]
    parts = (_membership(name, table), _extraction(name, table), _others(table, SHOWN), _secondary(table))
    return [sheet for sheet in parts if sheet]


def paper_sheet(name: str) -> Sheet | None:
    """The paper's own table of that name."""
    theirs = paper()["tables"].get(name)
    if not theirs:
        return None
    return Sheet(theirs["title"], tuple(theirs["head"]), tuple(map(tuple, theirs["rows"])))


def how(table: dict) -> str:
    """Who was measured and what the intervals cover: one paragraph."""
    if own := _own_view(table):
        return own.how(table)
    row, several = next(iter(table["rows"].values())), table["n_people"] > 1
    people = f"{table['n_people']} {table['role']} {'people, each' if several else 'person'} with {row['n_members']} "
    covers = "people and photos (for counts: over people)" if several else "the photos of one person only"
    alone = ", ".join(f"{title} {row['attacks'][name]['before']['mean']:.3f}" for name, title in titles(table).items())
    return (
        f"{people}members and {row['n_nonmembers']} held-out photos; preset {table['preset']}. "
        f"Brackets: 95 % intervals over {covers}, not over another pre-training of the model. Every change is paired: "
        f"the same photos, noise and seeds before and after. Both models together are compared with the same attack on "
        f"the base model alone, whose AUC is {alone}. "
        f"Blind control: mean AUC {mean(row['control_auc'])}."
    )


def short(name: str, table: dict) -> Sheet:
    """The primary outcomes and both models together, with the paper's figures: what README shows."""
    if own := _own_view(table):
        return own.sheets(table)[0]
    head = ("", "SecMI, change", "Loss, both models together", "members extracted", "change", "paper: SecMI, change",
            "paper: extracted")  # fmt: skip
    first = next(iter(table["rows"].values()))["extraction"]["before"]
    theirs = paper_values(name, BASE).get("extracted per person", "")
    rows = [(BASE, "", "", _count(first["distinct_over_people"]), "", "", theirs)]
    for label, row in table["rows"].items():
        secmi, loss, extraction = row["attacks"]["secmi"], row["attacks"]["loss"], row["extraction"]
        paper_change = paper_change_of(name, label)
        rows.append((
            in_words(label), change(secmi["difference"]), _both(loss),
            _count(extraction["after"]["distinct_over_people"]), change(extraction["difference"], 1),
            "" if paper_change is None else f"{paper_change:+.3f}",
            paper_values(name, label).get("extracted per person", ""),
        ))  # fmt: skip
    return _without_empty_columns(table["title"], head, rows)


# --- plot and files ---------------------------------------------------------------------------------------------------


def plot(name: str, table: dict, dark: bool = False):
    """The change of the AUC and of the extractions, one line per row, with 95 % intervals and the paper's figures."""
    if own := _own_view(table):
        return own.plot(table, dark)
    effects = []
    for label, row in table["rows"].items():
        secmi, loss, extraction = row["attacks"]["secmi"], row["attacks"]["loss"], row["extraction"]
        theirs = number_in(paper_values(name, label).get("extracted per person"))
        effects.append(
            Effect(in_words(label), ends(secmi["difference"]), ends(loss["reference"]["difference"]),
                   ends(extraction["difference"]), paper_change_of(name, label), theirs)
        )  # fmt: skip
    return effects_figure(effects, table["n_people"], dark)


def document(name: str, table: dict) -> str:
    """`results/NAME.md`."""
    lines = [f"# {table['title']}", "", how(table), "", f"Command: `{table['command']}`.", ""]
    for sheet in sheets(name, table):
        lines += [f"## {sheet.title}", "", *markdown(sheet), ""]
    if plottable(table):
        own = _own_view(table)
        words = own.ALT if own else "Changes with 95 % intervals, with the paper's figures"
        lines += [f"![{words}]({name}.png)", ""]
    if theirs := paper_sheet(name):
        lines += [f"## The paper: {theirs.title}", "", *markdown(theirs), ""]
        lines += [f"{paper()['source']}. {paper()['caution']}", ""]
    return "\n".join(lines)


def write(name: str, table: dict, results: Path) -> None:
    """Write `NAME.md`, and `NAME.png` if there is something to plot."""
    (results / f"{name}.md").write_text(document(name, table), encoding="utf-8")
    if plottable(table):
        (results / f"{name}.png").write_bytes(png(plot(name, table)))
