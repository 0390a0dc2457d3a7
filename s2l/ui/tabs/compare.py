"""The Compare tab: committed tables beside the paper's, and the visitor's own runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from s2l.pipeline import identity
from s2l.record import Result
from s2l.report.findings import config_of
from s2l.store import read_json
from s2l.tables import view as table_view
from s2l.tables.sheet import Sheet
from s2l.tables.view import paper
from s2l.ui import form, html, runs
from s2l.ui.backend import ASSETS
from s2l.ui.events import QUIET
from s2l.ui.heavy import ready
from s2l.ui.tab import Context, Tab, View

INTRO = """**Step 6: is one run enough?** No: one person and one seed prove little. Put two runs side by side, then look
at runs over many people, whose intervals cover people and photos, and at the paper's numbers on Stable Diffusion."""
RESULTS = ASSETS.parents[1] / "results"
NONE_YET = Markup(
    "<p>No table over people has been committed yet (<code>results/*.json</code>): "
    "<code>python -m s2l table NAME</code> makes one.</p>"
)


@dataclass
class Compare(Tab):
    tables: gr.HTML
    first: gr.Dropdown
    second: gr.Dropdown
    sides: gr.HTML
    next: gr.Button

    @property
    def outputs(self) -> list:
        return [self.tables, self.first, self.second, self.sides]

    @classmethod
    def build(cls, page: Context) -> Compare:
        return build()

    def draw(self, page: Context, view: View) -> dict:
        choices = page.choices_of(view.state, view.shown)
        first, second, *_ = [*(value for _, value in choices), None, None]
        return {
            self.tables: tables_html(),
            self.first: gr.update(choices=choices, value=first),
            self.second: gr.update(choices=choices, value=second),
            self.sides: sides_html(page.result_of(first), page.result_of(second)),
        }

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "report")
        pair = [self.first, self.second]
        for component in pair:
            component.input(
                lambda a, b: sides_html(page.result_of(a), page.result_of(b)), pair, self.sides, **QUIET
            )  # fmt: skip


# --- tables over people --------------------------------------------------------------------------


def committed(folder: Path = RESULTS) -> dict[str, dict]:
    """{name: table} of the committed result files that are tables over people; others are passed over."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            table = read_json(path)
            if isinstance(table, dict) and isinstance(table.get("rows"), dict) and "title" in table:
                found[path.stem] = table
    # Tables over reporting people come first, and of those the main table.
    return dict(sorted(found.items(), key=lambda item: (item[1].get("role") != "reporting", item[0] != "main")))


def _sheet(sheet: Sheet) -> Markup:
    return Markup("<h4>{}</h4>{}").format(sheet.title, html.table(sheet.head, sheet.rows))


def our_table(name: str, table: dict) -> Markup:
    """One committed table: its plot where there is something to compare, then its numbers."""
    ready()
    sheets = Markup("").join(map(_sheet, table_view.sheets(name, table)))
    note = Markup("<p class=quiet>{} Made by <code>{}</code>.</p>").format(table_view.how(table), table["command"])
    if not table_view.plottable(table):
        return Markup("<h3>{}</h3>{}{}").format(table["title"], sheets, note)
    words = f"{table['title']}: the change of each row, with intervals; the numbers stand below"
    numbers = Markup("<details><summary>The numbers</summary>{}{}</details>").format(sheets, note)
    return Markup("<h3>{}</h3>{}{}").format(
        table["title"], html.drawing(lambda dark, _: table_view.plot(name, table, dark), words), numbers
    )


def tables_html(folder: Path = RESULTS) -> Markup:
    """Every committed table, and all of the paper's."""
    return _tables_html(folder, max((path.stat().st_mtime for path in folder.glob("*.json")), default=0))


@lru_cache(maxsize=2)
def _tables_html(folder: Path, changed: float) -> Markup:
    """The same, drawn once for all visitors, because it takes a second; `changed` makes it new when a file changes."""
    ours = []
    for name, table in committed(folder).items():
        with suppress(KeyError, TypeError):  # of another version of the program
            ours.append(our_table(name, table))
    theirs = [_sheet(sheet) for name in paper()["tables"] if (sheet := table_view.paper_sheet(name)) is not None]
    return html.block(
        Markup("<h2>Measured on our lab</h2>"), *(ours or [NONE_YET]), Markup("<h2>Reported by the paper</h2>"),
        Markup("<p class=quiet>{source}.</p><p>{caution}</p>").format(**paper()),
        _beside(Markup("<div>{}</div>").format(sheet) for sheet in theirs),
    )  # fmt: skip


def _beside(parts: Iterable[Markup]) -> Markup:
    return Markup('<div class="sides">{}</div>').format(Markup("").join(parts))


# --- two runs ------------------------------------------------------------------------------------


def _settings(values: dict, prefix: str = "") -> dict[str, str]:
    """{"finetune.max_train_steps": "300", ...} of a nested configuration."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = form.value_in_words(value)
    return flat


def settings_of(result: Result) -> dict[str, str]:
    """Every setting of a run and of its methods and attacks, defaults included, whatever version recorded it."""
    ready()
    return _settings(identity.spelled_out(config_of(result.record)).model_dump(mode="json"))


def _side(result: Result, title: str, own: set[str]) -> Markup:
    settings = settings_of(result)
    differing = Markup("").join(
        Markup("<li>{}: {}</li>").format(form.setting_in_words(name), settings[name][:80])
        for name in sorted(own & settings.keys())
    )
    parts = [Markup("<h3>{}: {}</h3>").format(title, runs.what(result))]
    parts += [
        Markup('<p class="verdict {}"><b>{}.</b></p>').format(tone, verdict)
        for verdict, _, tone in runs.verdicts(result)
    ]
    parts.append(runs.outcome_html(result))
    if differing:
        parts.append(Markup("<p>Settings that differ from the other run:</p><ul>{}</ul>").format(differing))
    return Markup('<div class="card">{}</div>').format(Markup("").join(parts))


def sides_html(first: Result | None, second: Result | None) -> Markup:
    """Two runs beside each other, with the settings in which they differ."""
    if first is None or second is None:
        return html.block(Markup("<p class=quiet>Choose two runs. Your own finished runs appear in both lists.</p>"))
    a, b = settings_of(first), settings_of(second)
    differ = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}
    note = Markup() if differ else Markup("<p class=quiet>The two runs have the same settings.</p>")
    return html.block(note, _beside([_side(first, "A", differ), _side(second, "B", differ)]))


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
