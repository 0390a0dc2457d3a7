"""The page put together: eight tabs and one session.

A session is one open page; `session.py` says what survives a refresh, `running.py` follows a run, `results.py` draws
what came out. A tab draws itself when it is opened, so opening the page costs no more than its first tab.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial

import gradio as gr

from s2l.errors import UserError
from s2l.ui import (
    api,
    compare,
    extraction,
    finetune,
    first,
    form,
    heavy,
    membership,
    report,
    results,
    running,
    session,
    sp_set,
    story,
    target,
)
from s2l.ui.backend import ASSETS, SHOWCASE, Backend
from s2l.ui.events import LATEST, PRIVATE, QUIET, address
from s2l.ui.theme import STYLE, theme

HEAD = """<h1>Shake-to-Leak Lab</h1>
<p class="s2l-note">A teaching tool: the people here are <b>invented</b> and drawn by our own code. New words are
explained in the glossary at the end of the page.</p>"""
TABS = {
    "story": "Story", "target": "1 Target", "sp-set": "2 SP set", "finetune": "3 Fine-tune",
    "attack": "4 Attack: membership", "extraction": "5 Attack: extraction", "compare": "6 Compare",
    "report": "7 Report",
}  # fmt: skip
POLL_SECONDS = 1.0
READY = "() => window.s2l.ready()"


def glossary() -> str:
    """The glossary of docs/teaching.md, as Markdown; empty if the file is not shipped."""
    path = ASSETS.parents[1] / "docs" / "teaching.md"
    if not path.exists():
        return ""
    found = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


class Page:
    """The components, and the events that belong to no single part of the lesson."""

    story: story.Story
    target: target.Target
    sp_set: sp_set.SPSet
    finetune: finetune.FineTune
    attack: membership.Membership
    extraction: extraction.Extraction
    compare: compare.Compare
    report: report.Report

    def __init__(self, backend: Backend):
        self.backend = backend
        person = backend.showcase.record["config"]["domain"]["name"] if backend.showcase else ""
        self.first = form.preset_values(form.FIRST_PRESET, person if person in backend.names else backend.names[0])
        self.fields: dict[str, gr.components.Component] = {}

    # --- the components ---

    def build(self) -> gr.Blocks:
        showcase = SHOWCASE if self.backend.showcase is not None else ""
        with gr.Blocks(title="Shake-to-Leak Lab", delete_cache=(3600, 86400)) as page:
            # The browser's own copy; the secret only has to stay the same over a restart.
            self.browser = gr.BrowserState(session.EMPTY, storage_key="s2l", secret="s2l-lab")
            self.session = gr.State({"visitor": "", "job": ""})
            self.quizzes, self.seen = gr.State({}), gr.State("")
            self.shown, self.tab = gr.State(showcase), gr.State("story")
            self.timer = gr.Timer(POLL_SECONDS, active=False)
            gr.HTML(f'<div class="s2l-head">{HEAD}</div>')
            self.run_list = gr.Dropdown([], label="Results of the run", visible=False, elem_id="runs")
            with gr.Tabs(elem_id="tabs") as self.tabs:
                self.tab_of = {}
                for name, build in self._builders().items():
                    with gr.Tab(TABS[name], id=name) as self.tab_of[name]:
                        setattr(self, name.replace("-", "_"), build())
            words = glossary()
            with gr.Accordion("Glossary: what the words mean", open=False, elem_id="glossary", visible=bool(words)):
                gr.Markdown(words)
            self.panel = [
                self.finetune.status, self.finetune.pictures, self.finetune.loss, self.finetune.samples,
                self.finetune.log, self.finetune.cancel, self.finetune.resume, self.finetune.see,
            ]  # fmt: skip
            # What a tab is drawn from: the arguments of `results.draw` after the name.
            self.drawn_from = [self.shown, self.quizzes, self.session, self.fields["person"], self.target.own]
            self._moving_about()
            self._fields_that_follow()
            running.connect(self)
            results.connect(self)
            results.predictions(self)
            self._opening(page)
            api.build(self.backend)
        return page

    def _builders(self) -> dict:
        return {
            "story": partial(story.build, self.backend),
            "target": partial(target.build, self.backend, self.fields, self.first),
            "sp-set": partial(sp_set.build, self.fields, self.first),
            "finetune": partial(finetune.build, self.fields, self.first),
            "attack": membership.build,
            "extraction": extraction.build,
            "compare": compare.build,
            "report": report.build,
        }

    # --- moving about ---

    def _moving_about(self) -> None:
        ways = (
            (self.story.next, "target"), (self.story.attack, "attack"), (self.target.next, "sp-set"),
            (self.sp_set.next, "finetune"), (self.finetune.see, "attack"), (self.attack.next, "extraction"),
            (self.extraction.next, "compare"), (self.compare.next, "report"),
        )  # fmt: skip
        for button, name in ways:
            button.click(lambda name=name: gr.Tabs(selected=name), None, self.tabs, **QUIET)
        for name, tab in self.tab_of.items():
            tab.select(None, None, None, js=address(tab=name), **QUIET)
            drawn = tab.select(
                partial(results.draw, self, name), self.drawn_from, [self.tab, *results.outputs(self, name)],
                **PRIVATE | {"show_progress": "minimal"},
            )  # fmt: skip
            if name == "report":
                results.files_follow(self, drawn)

    # --- fields that follow others ---

    def _fields_that_follow(self) -> None:
        fields, backend = self.fields, self.backend
        fields["person"].change(
            partial(target.person_changed, backend), [fields["person"], fields["prompt"], fields["prompt2"]],
            [self.target.people, fields["prompt"], fields["prompt2"], self.target.words, self.target.photos], **QUIET,
        )  # fmt: skip
        for component in (fields["person"], self.target.own):
            component.change(finetune.run_label, [fields["person"], self.target.own], self.finetune.run, **QUIET)
        to_draw = partial(sp_set.preview_html, own_prompts=backend.own_model.allow_prompts)
        inputs, preview = [*self.sp_set.inputs, self.target.own], self.sp_set.preview
        for component in inputs:
            component.change(to_draw, inputs, preview, **LATEST)
        self.tab_of["sp-set"].select(to_draw, inputs, preview, **QUIET)
        self.card_inputs = [fields[n] for n in ("methods", "rank", "num_vectors", "train_text_encoder")]
        for component in self.card_inputs:
            component.change(partial(finetune.card_html, backend), self.card_inputs, self.finetune.card, **LATEST)
        self.tab_of["finetune"].select(
            partial(finetune.card_html, backend), self.card_inputs, self.finetune.card, **QUIET
        )
        of_method = self.finetune.of_method
        fields["methods"].change(
            lambda m: [gr.update(visible=finetune.visible_fields(m).get(n, False)) for n in of_method],
            fields["methods"], [fields[n] for n in of_method], **QUIET,
        )  # fmt: skip

        def choose_size(data: dict) -> dict:
            keep = ("person", "prompt", "methods", "preset")
            values = form.preset_values(data[fields["preset"]], data[fields["person"]])
            return {fields[name]: value for name, value in values.items() if name not in keep}

        fields["preset"].input(choose_size, {fields["preset"], fields["person"]}, list(fields.values()), **QUIET)

        def keep_fields(data: dict) -> dict:
            return data[self.browser] | {"form": {n: data[component] for n, component in fields.items()}}

        for name in ("sp-set", "finetune"):  # a refresh gives them back
            self.tab_of[name].select(keep_fields, {self.browser, *fields.values()}, self.browser, **QUIET)

    # --- opening the page ---

    def _opening(self, page: gr.Blocks) -> None:
        advanced = [self.finetune.advanced, self.sp_set.advanced]

        def opened(kept: dict, request: gr.Request) -> dict:
            asked = dict(request.query_params)
            found = session.opening(kept, asked, self.backend, tuple(TABS), self.first)
            if found.gone:
                gr.Warning("There is no run at this address any more.")
            job, state, fields = found.job, {"visitor": found.visitor, "job": ""}, found.form
            if job is not None:
                state["job"] = job.id
                if job.config.domain.name in self.backend.names:  # a person of the lab
                    fields = form.values_of(job.config)
            updates = {
                self.session: state, self.quizzes: found.quiz, self.shown: found.shown,
                self.browser: state | {"quiz": found.quiz, "form": found.form},
                **{self.fields[name]: value for name, value in fields.items()},
            }  # fmt: skip
            if found.tab != "story":
                updates |= {self.tabs: gr.Tabs(selected=found.tab)}
            if found.classroom:
                updates |= {component: gr.update(visible=False) for component in advanced}
            if job is not None:
                updates |= {self.seen: running.signature(job), self.timer: gr.Timer(active=job.active)}
                updates |= dict(zip(self.panel, running.show_job(self, job, found.visitor), strict=True))
            return updates

        outputs = [
            self.session, self.browser, self.quizzes, self.seen, self.shown, self.timer, self.tabs, *advanced,
            *self.panel, *self.fields.values(),
        ]  # fmt: skip
        page.load(opened, self.browser, outputs, **QUIET).then(None, None, None, js=READY, **QUIET).then(
            lambda: finetune.choices(self.fields), None, [self.fields["methods"], self.fields["attacks"]], **QUIET
        )


def build(backend: Backend) -> gr.Blocks:
    """The page over a backend."""
    return Page(backend).build()


def launch(page: gr.Blocks, backend: Backend, host: str | None = None, port: int | None = None) -> None:
    """Serve the page, and return; `page.block_thread()` waits. Where: `server.serve` says."""
    backend.public.mkdir(parents=True, exist_ok=True)
    page.queue(api_open=False).launch(
        theme=theme(), css_paths=[STYLE], head=first.head(backend.showcase),
        allowed_paths=[str(backend.public)], blocked_paths=[str(backend.jobs.folder)], ssr_mode=False,
        run_history=False, show_error=True, max_file_size="5mb", footer_links=["api", "settings"],
        prevent_thread_lock=True, server_name=host, server_port=port,
    )  # fmt: skip

    def draw_what_all_will_see() -> None:
        if (result := backend.showcase) is not None:
            membership.warm(result)
            extraction.warm(result)
            with suppress(UserError):  # an old showcase; the Report tab says so
                backend.published(result)
        compare.tables_html()

    heavy.begin(draw_what_all_will_see)
