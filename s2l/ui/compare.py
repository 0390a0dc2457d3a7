"""Tab 7, Compare: committed tables beside the paper's, and the visitor's own runs side by side."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

import gradio as gr

from s2l.findings import change_in_words
from s2l.result import Result
from s2l.store import read_json
from s2l.ui import html, runs
from s2l.ui.backend import ASSETS
from s2l.ui.heavy import ready

INTRO = """**Step 6: is one run enough?** No: one person and one seed prove little. Put two runs side by side, then look
at runs over many people, whose intervals cover people and photos, and at the paper's numbers on Stable Diffusion."""
RESULTS = ASSETS.parent / "results"
NONE_YET = (
    "<p>No table over people has been committed yet (<code>results/*.json</code>): "
    "<code>python -m s2l table NAME</code> makes one.</p>"
)


@dataclass
class Compare:
    tables: gr.HTML
    first: gr.Dropdown
    second: gr.Dropdown
    sides: gr.HTML
    next: gr.Button

    @property
    def outputs(self) -> list:
        return [self.tables, self.first, self.second, self.sides]


# --- tables over people --------------------------------------------------------------------------


def committed(folder: Path = RESULTS) -> dict[str, dict]:
    """{name: table} of the committed result files that are tables over people; others are passed over."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            table = read_json(path)
            if isinstance(table, dict) and isinstance(table.get("rows"), dict) and "title" in table:
                found[path.stem] = table
    return found


SHOWN = ("secmi", "loss")  # of a table of methods; all attacks are in its file


def _attack_cells(found: dict | None) -> list[str]:
    """AUC before and after, the change, and what both models together gain."""
    if found is None:
        return ["", "", ""]
    before, after = (_mean(found[when]) for when in ("before", "after"))
    reference = found.get("reference")
    return [
        f"{before:.3f} → {after:.3f}",
        change_in_words(found["difference"]),
        change_in_words(reference["difference"]) if reference else "",
    ]


def _extraction_cells(out: dict) -> list[str]:
    if "before" not in out:
        return ["", ""]
    return [
        f"{out['before'][what]:.1f} → {out['after'][what]:.1f}" for what in ("mean_distinct", "mean_nonmembers_scaled")
    ]


def our_table(table: dict) -> str:
    """One committed table: a row a method with its paired differences and what came out, or a row an attack."""
    ready()
    from s2l.attacks import ATTACKS

    def title(name: str) -> str:
        return ATTACKS[name].title if name in ATTACKS else name

    first = next(iter(table["rows"].values()))
    if len(table["rows"]) == 1:
        head = ["attack", "AUC before → after", "change [95 %]", "both models together"]
        rows = [[title(name), *_attack_cells(found)] for name, found in first["attacks"].items()]
        extracted = _extraction_cells(first.get("extraction") or {})
        out = f" Extracted a person: {extracted[0]}; control: {extracted[1]}." if extracted[0] else ""
    else:
        names = [name for name in SHOWN if name in first["attacks"]]
        head = ["", "trained parameters"]
        for name in names:
            head += [f"{title(name)}: AUC before → after", "change [95 %]", "both models together"]
        head += ["extracted a person, before → after", "control"]
        rows, out = [], ""
        for label, row in table["rows"].items():
            parameters = row.get("trained_parameters")
            cells = [label, f"{parameters:,}" if parameters is not None else ""]
            for name in names:
                cells += _attack_cells(row["attacks"].get(name))
            rows.append(cells + _extraction_cells(row.get("extraction") or {}))
    people = f"{table['n_people']} {table.get('role', '')} people" if "n_people" in table else ""
    note = ", ".join(filter(None, (people, f"preset {table['preset']}" if "preset" in table else "")))
    return (
        f"<h3>{escape(table['title'])}</h3>{html.table(head, rows)}<p class=quiet>{escape(out)} Our lab: "
        f"{escape(note)}. Made by <code>{escape(table.get('command', ''))}</code>.</p>"
    )


def _mean(found: dict) -> float:
    if found.get("per_domain"):
        return sum(found["per_domain"]) / len(found["per_domain"])
    return found["mean"]


@lru_cache(maxsize=1)
def paper() -> dict:
    """The paper's own figures (assets/paper.json)."""
    return read_json(ASSETS / "paper.json")


def tables_html(folder: Path = RESULTS) -> str:
    """Every committed table, and all of the paper's."""
    ours = []
    for table in committed(folder).values():
        with suppress(KeyError, TypeError):  # of another version of the program
            ours.append(our_table(table))
    theirs = [
        f"<h3>{escape(table['title'])}</h3>{html.table(table['head'], table['rows'])}"
        for table in paper()["tables"].values()
    ]
    return html.block(
        "<h2>Measured on our lab</h2>", *(ours or [NONE_YET]), "<h2>Reported by the paper</h2>",
        f"<p class=quiet>{escape(paper()['source'])}.</p><p>{escape(paper()['caution'])}</p>",
        f'<div class="sides">{"".join(f"<div>{t}</div>" for t in theirs)}</div>',
    )  # fmt: skip


# --- two runs ------------------------------------------------------------------------------------


def _settings(values: dict, prefix: str = "") -> dict[str, str]:
    """{"finetune.rank": "8", ...} of a nested configuration."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _side(result: Result, title: str, own: set[str]) -> str:
    settings = _settings(result.record["config"])
    differing = "".join(f"<li><code>{escape(n)}</code> = {escape(settings[n][:80])}</li>" for n in sorted(own))
    parts = [f"<h3>{escape(title)}: {escape(runs.what(result))}</h3>"]
    parts += [f'<p class="verdict {tone}"><b>{escape(verdict)}.</b></p>' for verdict, _, tone in runs.verdicts(result)]
    parts.append(runs.outcome_html(result))
    if differing:
        parts.append(f"<p>Only here:</p><ul>{differing}</ul>")
    return f'<div class="card">{"".join(parts)}</div>'


def sides_html(first: Result | None, second: Result | None) -> str:
    """Two runs beside each other, with the settings in which they differ."""
    if first is None or second is None:
        return html.block("<p class=quiet>Choose two runs. Your own finished runs appear in both lists.</p>")
    a, b = (_settings(r.record["config"]) for r in (first, second))
    differ = {name for name in a.keys() & b.keys() if a[name] != b[name]}
    note = "<p class=quiet>The two runs have the same settings.</p>" if not differ else ""
    return html.block(note, '<div class="sides">', _side(first, "A", differ), _side(second, "B", differ), "</div>")


def build() -> Compare:
    """Add the tab's components to the page."""
    gr.Markdown(INTRO, elem_classes="s2l-lead")
    with gr.Row():
        first = gr.Dropdown([], label="Run A", min_width=300, elem_id="run-a")
        second = gr.Dropdown([], label="Run B", min_width=300, elem_id="run-b")
    sides = gr.HTML(elem_id="sides")
    tables = gr.HTML(elem_id="tables")
    following = gr.Button("Next: the report →", variant="primary", elem_id="next-report")
    return Compare(tables, first, second, sides, following)
