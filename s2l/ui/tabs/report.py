"""The Report tab: the run as files, as a command and as a link."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup, escape

from s2l.errors import UserError
from s2l.record import Result
from s2l.report import findings, verdicts
from s2l.ui import defend, exposure, html, quiz, runs, words
from s2l.ui.backend import Backend
from s2l.ui.events import PRIVATE, QUIET
from s2l.ui.tab import Context, Tab, View

INTRO = """**Step 8: take it with you.** The report is one HTML file that needs no network. The JSON file has every
score and every setting. The command repeats the run on any machine. The link opens this page with this run; only
people who have the link can see it."""

WORDS = ("AUC", "interval", "TPR", "UNet", "extraction")

# The link of this page with another run; a lesson's address stays one.
ABSOLUTE = """(link) => {
  const url = new URL(link, window.location.href.split("?")[0]);
  const lesson = new URL(window.location).searchParams.get("class");
  if (lesson) url.searchParams.set("class", lesson);
  return url.href;
}"""


MORE = Markup("""<p>More: <a href="https://arxiv.org/abs/2403.09450" target="_blank" rel="noopener">the paper</a>. In
the project's folder, docs/lab.md has all measurements, docs/gate.md says what a service can check, docs/threat-model.md
how to audit a model of one's own, and docs/teaching.md is a lesson plan.</p>""")


@dataclass
class Report(Tab):
    headline: gr.HTML
    html_file: gr.DownloadButton
    json_file: gr.DownloadButton
    command: gr.Code
    link: gr.Textbox
    loss: gr.HTML
    closing: gr.HTML

    @property
    def outputs(self) -> list:
        return [self.headline, self.html_file, self.json_file, self.command, self.link, self.loss, self.closing]

    @classmethod
    def build(cls, page: Context) -> Report:
        return build()

    def draw(self, page: Context, view: View) -> dict:
        return draw(self, view.result, view.shown, view.example, view.answers)

    def connect(self, page: Context) -> None:
        self.link.change(None, self.link, self.link, js=ABSOLUTE, **QUIET)

    def follow(self, page: Context, drawn: Dependency) -> None:
        def publish(shown: str, tab: str) -> dict:
            return files(self, page.backend, page.result_of(shown) if tab == "report" else None)

        drawn.then(publish, [page.shown, page.tab], [self.html_file, self.json_file], **PRIVATE)


def loss_html(result: Result) -> Markup:
    from s2l import figures

    rows = result.training.get("log")
    if not rows:
        return Markup()
    curve = runs.drawn(
        result,
        "loss",
        lambda dark, narrow: figures.loss_figure(rows, dark, narrow),
        f"Training loss over {len(rows)} steps",
    )
    return html.block(html.fold("loss", "The training loss", Markup('<div class="narrow">{}</div>').format(curve)))


def closing_html(result: Result, answers: dict) -> Markup:
    """The end of the lesson: what the visitor predicted and what happened, and what protects people."""
    record, rows = result.record, []
    if rounds := answers.get("rounds"):
        mine = sum(chosen == right for chosen, right in rounds)
        rows.append(("Which of four was a training photo?", f"{mine} of {len(rounds)} right", "see step 4"))
    if record["attacks"] and "auc" in answers:
        found = quiz.asked_attack(result)
        asked = f"AUC of the {found['title']} attack after the shake"
        measured = f"{findings.auc_in_words(found['after'])} {verdicts.short_caution(record['control'])}".strip()
        rows.append((asked, f"{answers['auc']:.2f}", measured))
    if record["extraction"] is not None and "extracted" in answers:
        count = record["extraction"]["difference"]["after"]
        rows.append(("Training photos that come out after the shake", f"{answers['extracted']:.0f}", str(count)))
    yours = Markup()
    if rows:
        head = ("", "you said", "measured")
        yours = Markup("<h3>Your predictions, and what happened</h3>{}").format(html.table(head, rows))
    return html.block(yours, defend.protects_html(defend.results()), MORE)


def headline_html(result: Result, example: bool) -> Markup:
    """What the run shows in a few sentences; folded, each finding and the numbers."""
    numbers = html.fold("numbers", "The numbers", runs.outcome_html(result))
    if not result.record["attacks"]:
        return runs.headline_html(result, example) + html.block(numbers)
    return exposure.conclusion_html(result, title=runs.title_of(result, example)) + html.block(
        runs.notes_html(result),
        html.fold("findings", "Finding by finding, with intervals", runs.verdicts_html(result)),
        numbers,
    )


def draw(tab: Report, result: Result | None, run: str, example: bool, answers: dict) -> dict:
    """What the tab shows for a run at once; `files` adds the files later."""
    if result is None:
        hidden = {c: gr.update(visible=False) for c in tab.outputs if c is not tab.headline}
        return hidden | {tab.headline: gr.update(value=runs.headline_html(None), visible=True)}
    return {
        tab.headline: headline_html(result, example),
        tab.html_file: gr.update(value=None, visible=True, interactive=False),
        tab.json_file: gr.update(value=None, visible=True, interactive=False),
        tab.command: gr.update(value=command_of(result), visible=True),
        tab.link: gr.update(value=f"?run={run}&tab=attack", visible=True),
        tab.loss: gr.update(value=loss_html(result), visible=True),
        tab.closing: gr.update(value=closing_html(result, answers), visible=True),
    }


def files(tab: Report, backend: Backend, result: Result | None) -> dict:
    """The files of a run, ready to download: drawing a report takes seconds the first time."""
    if result is None:
        return {tab.html_file: gr.skip()}
    try:
        paths = backend.published(result)
    except UserError as error:
        gr.Warning(escape(error))
        return {component: gr.update(visible=False) for component in (tab.html_file, tab.json_file)}
    return {
        tab.html_file: gr.update(value=str(paths["report.html"]), interactive=True),
        tab.json_file: gr.update(value=str(paths["result.json"]), interactive=True),
    }


def command_of(result: Result) -> str:
    """The command that repeats the run, as README teaches it: no environment has to be activated for it."""
    try:
        command = findings.command_of(result)
    except UserError:
        command = "python -m s2l run --config result.json --out DIR"  # settings of another version
    return command.replace("python -m s2l", "python3 start.py", 1)


def build() -> Report:
    """Add the tab's components to the page."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    headline = gr.HTML(elem_id="report-headline", js_on_load=html.FOLDS)
    closing = gr.HTML(elem_id="closing")
    with gr.Row():
        html_file = gr.DownloadButton("Report (HTML)", visible=False, elem_id="report-html")
        json_file = gr.DownloadButton("result.json", visible=False, elem_id="result-json")
    command = gr.Code(
        label="The command that repeats this run", language=None, interactive=False, visible=False,
        elem_id="command",
    )  # fmt: skip
    link = gr.Textbox(
        label="Share link", info="opens this run; everybody who has the link can see it, but not stop it",
        interactive=False, visible=False, buttons=["copy"], elem_id="share-link",
    )  # fmt: skip
    loss = gr.HTML(elem_id="loss")
    return Report(headline, html_file, json_file, command, link, loss, closing)
