"""The Compare tab: committed tables beside the paper's, and the visitor's own runs side by side."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from s2l.store import read_json
from s2l.tables import view as table_view
from s2l.tables.sheet import Sheet
from s2l.tables.view import paper
from s2l.ui import effects, html, two_runs, words
from s2l.ui.effects import RESULTS
from s2l.ui.events import QUIET
from s2l.ui.heavy import ready
from s2l.ui.tab import Context, Tab, View

INTRO = """**Step 6: is one run enough?** No: one person and one seed prove little. Here are runs over many people,
whose [[interval|intervals]] cover people and photos, beside the paper's numbers on Stable Diffusion. Below: two runs,
side by side."""
WORDS = (
    "SecMI", "Loss", "PIA", "SimA", "AUC", "both models together", "un-shake", "buried memory",
    "second source", "sigma",
)  # fmt: skip
NONE_YET = Markup(
    "<p>No table over people has been committed yet (<code>results/*.json</code>): "
    "<code>python -m s2l table NAME</code> makes one.</p>"
)


@dataclass
class Compare(Tab):
    figure: gr.HTML
    tables: gr.HTML
    first: gr.Dropdown
    second: gr.Dropdown
    sides: gr.HTML
    next: gr.Button

    @property
    def outputs(self) -> list:
        return [self.figure, self.tables, self.first, self.second, self.sides]

    @classmethod
    def build(cls, page: Context) -> Compare:
        return build()

    def draw(self, page: Context, view: View) -> dict:
        choices = page.choices_of(view.state, view.shown)
        first, second, *_ = [*(value for _, value in choices), None, None]
        return {
            self.figure: figure_html(),
            self.tables: tables_html(),
            self.first: gr.update(choices=choices, value=first),
            self.second: gr.update(choices=choices, value=second),
            self.sides: two_runs.sides_html(page.result_of(first), page.result_of(second)),
        }

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "defend")
        pair = [self.first, self.second]
        for component in pair:
            component.input(
                lambda a, b: two_runs.sides_html(page.result_of(a), page.result_of(b)), pair, self.sides, **QUIET
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
    """One committed table: its numbers, and who was measured."""
    ready()
    sheets = Markup("").join(map(_sheet, table_view.sheets(name, table)))
    note = Markup("<p class=quiet>{} Made by <code>{}</code>.</p>").format(table_view.how(table), table["command"])
    return Markup("<details><summary>{}</summary>{}{}</details>").format(table["title"], sheets, note)


def tables_html(folder: Path = RESULTS) -> Markup:
    """Every committed table, and all of the paper's, each folded."""
    return _tables_html(folder, _changed(folder))


def figure_html(folder: Path = RESULTS) -> Markup:
    """The figure over methods and attacks, from the committed tables."""
    return _figure_html(folder, _changed(folder))


def _changed(folder: Path) -> float:
    """When a result file last changed: what is kept of older files is made again."""
    return max((path.stat().st_mtime for path in folder.glob("*.json")), default=0)


@lru_cache(maxsize=2)
def _figure_html(folder: Path, changed: float) -> Markup:
    ready()
    return effects.screen(committed(folder))


@lru_cache(maxsize=2)
def _tables_html(folder: Path, changed: float) -> Markup:
    """The same, drawn once for all visitors, because it takes a second; `changed` makes it new when a file changes."""
    ours = []
    for name, table in committed(folder).items():
        with suppress(KeyError, TypeError):  # of another version of the program
            ours.append(our_table(name, table))
    theirs = [
        Markup("<details><summary>{}</summary>{}</details>").format(sheet.title, html.table(sheet.head, sheet.rows))
        for name in paper()["tables"]
        if (sheet := table_view.paper_sheet(name)) is not None
    ]
    return html.block(
        Markup("<h3>All tables: measured on our lab</h3>"), *(ours or [NONE_YET]),
        Markup("<h3>All tables: reported by the paper</h3>"),
        Markup("<p class=quiet>{source}.</p><p>{caution}</p>").format(**paper()),
        *theirs,
    )  # fmt: skip


def build() -> Compare:
    """Add the tab's components to the page."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    figure = gr.HTML(elem_id="effects", js_on_load=html.script(effects.SCRIPT))
    gr.HTML(html.block(Markup("<h2>Two runs side by side</h2>")))
    with gr.Row():
        first = gr.Dropdown([], label="Run A", min_width=300, elem_id="run-a")
        second = gr.Dropdown([], label="Run B", min_width=300, elem_id="run-b")
    sides = gr.HTML(elem_id="sides")
    tables = gr.HTML(elem_id="tables")
    following = gr.Button("Next: what protects people? →", variant="primary", elem_id="next-defend")
    return Compare(figure, tables, first, second, sides, following)
