"""The page put together: eight tabs, one session, one poll.

A session is one open page; `session.py` says what survives a refresh. A click validates and enqueues; `poll` shows
what the worker wrote. A tab draws itself when it is opened, so opening the page costs no more than its first tab.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from html import escape

import gradio as gr

from s2l.config import UserError
from s2l.jobs import Job
from s2l.jobs.store import RESUMABLE
from s2l.result import Result
from s2l.ui import (
    api,
    compare,
    extraction,
    finetune,
    first,
    form,
    heavy,
    html,
    live,
    membership,
    quiz,
    report,
    runs,
    session,
    sp_set,
    story,
    target,
)
from s2l.ui.backend import ASSETS, SHOWCASE, Backend
from s2l.ui.own import whom
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
ABSOLUTE = "(link) => new URL(link, window.location.href.split('?')[0]).href"
# Events of the page itself are no API; many visitors may have one at the same time.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
QUIET = PRIVATE | {"show_progress": "hidden"}
LATEST = QUIET | {"trigger_mode": "always_last"}  # of a slider that moves, only the last position counts


def address(**changes: str) -> str:
    """Script that puts something into the address."""
    return "() => window.s2l.address({" + ", ".join(f'"{n}": "{v}"' for n, v in changes.items()) + "})"


def glossary() -> str:
    """The glossary of docs/teaching.md, as Markdown; empty if the file is not shipped."""
    path = ASSETS.parent / "docs" / "teaching.md"
    if not path.exists():
        return ""
    found = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


class Page:
    """The components and the events between them."""

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
            # What a tab is drawn from: the arguments of `_draw` after its name.
            self.drawn_from = [self.shown, self.quizzes, self.session, self.fields["person"], self.target.own]
            self._moving_about()
            self._fields_that_follow()
            self._running()
            self._results()
            self._predictions()
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
                partial(self._draw, name), self.drawn_from, [self.tab, *self._outputs(name)],
                **PRIVATE | {"show_progress": "minimal"},
            )  # fmt: skip
            if name == "report":
                self._files_follow(drawn)

    def _files_follow(self, drawn) -> None:
        """The report's files after what the tab shows at once."""

        def publish(shown: str, tab: str) -> dict:
            return report.files(self.report, self.backend, self._result(shown) if tab == "report" else None)

        drawn.then(publish, [self.shown, self.tab], [self.report.html_file, self.report.json_file], **PRIVATE)

    def _outputs(self, name: str) -> list:
        """What opening a tab draws."""
        return {
            "sp-set": [self.sp_set.pictures, self.sp_set.zip_file],
            "attack": self.attack.outputs,
            "extraction": self.extraction.outputs,
            "compare": self.compare.outputs,
            "report": self.report.outputs,
        }.get(name, [])

    def _draw(self, name: str, shown: str, quizzes: dict, state: dict, person: str, own: dict) -> dict:
        """A tab, for the run that is shown. `person` and `own` say whom the next run is about."""
        drawn = {self.tab: name}
        if not self._outputs(name):
            return drawn
        result, answers = self._result(shown), quizzes.get(shown, {})
        if name == "sp-set":
            return drawn | self._draw_sp_set(result, state, whom(person, own))
        if name == "attack":
            return drawn | membership.draw(self.attack, result, answers, shown == SHOWCASE)
        if name == "extraction":
            return drawn | extraction.draw(self.extraction, result, answers)
        if name == "report":
            return drawn | report.draw(self.report, result, shown, shown == SHOWCASE)
        return drawn | self._draw_compare(shown, state)

    def _draw_sp_set(self, result: Result | None, state: dict, person: str) -> dict:
        job = self.backend.jobs.job(state["job"]) if state["job"] else None
        path = str(self.backend.sp_set_zip(result)) if result is not None else None
        return {
            self.sp_set.pictures: sp_set.pictures_html(job, result, self.backend.store, person),
            self.sp_set.zip_file: gr.update(value=path, visible=path is not None),
        }

    def _draw_compare(self, shown: str, state: dict) -> dict:
        choices = self._choices(state, shown)
        values = [value for _, value in choices]
        first, second = (values[0] if values else None), (values[1] if len(values) > 1 else None)
        return {
            self.compare.tables: compare.tables_html(),
            self.compare.first: gr.update(choices=choices, value=first),
            self.compare.second: gr.update(choices=choices, value=second),
            self.compare.sides: compare.sides_html(self._result(first), self._result(second)),
        }

    def _result(self, shown: str | None) -> Result | None:
        try:
            return self.backend.result_of(shown or "")
        except UserError as error:
            gr.Warning(escape(str(error)))
            return None

    # --- fields that follow others ---

    def _fields_that_follow(self) -> None:
        fields, backend = self.fields, self.backend
        fields["person"].change(
            partial(target.person_changed, backend), [fields["person"], fields["prompt"], fields["prompt2"]],
            [self.target.people, fields["prompt"], fields["prompt2"], self.target.words, self.target.photos], **QUIET,
        )  # fmt: skip
        for component in (fields["person"], self.target.own):
            component.change(finetune.run_label, [fields["person"], self.target.own], self.finetune.run, **QUIET)
        to_draw = partial(sp_set.preview_html, own_prompts=backend.own_model.prompts)
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

    # --- jobs ---

    def _show_job(self, job: Job | None, visitor: str) -> list:
        mine, store = job is not None and job.visitor == visitor, self.backend.store
        return [
            live.status_html(job),
            live.pictures_html(job, store),
            live.loss_html(job),
            live.samples_html(job, store),
            live.log_html(job),
            gr.update(visible=mine and job.active, interactive=mine and not job.stopping),
            gr.update(visible=mine and job.state in RESUMABLE),
            gr.update(visible=job is not None and job.state == "done"),
        ]

    @staticmethod
    def _signature(job: Job | None) -> str:
        return "" if job is None else f"{job.state}{job.ahead}{job.waiting}{job.stopping}{job.message}{job.live}"

    def _running(self) -> None:
        jobs, fields = self.backend.jobs, self.fields

        def poll(state: dict, seen: str, shown: str, tab: str):
            job = jobs.job(state["job"]) if state["job"] else None
            if self._signature(job) == seen and job is not None:
                return [gr.skip()] * (len(self.panel) + 4)
            finished = job is not None and job.state == "done"
            active = job is not None and job.active
            drawing = gr.skip()
            if tab == "sp-set" and active and job.live.get("pictures_of") == "sp_set":
                drawing = live.pictures_html(job, self.backend.store)
            return [
                *self._show_job(job, state["visitor"]), self._signature(job), job.id if finished else gr.skip(),
                gr.Timer(active=active), drawing,
            ]  # fmt: skip

        self.timer.tick(
            poll, [self.session, self.seen, self.shown, self.tab],
            [*self.panel, self.seen, self.shown, self.timer, self.sp_set.pictures], **QUIET,
        )  # fmt: skip

        def run(data: dict):
            state = data[self.session]
            try:
                values = {name: data[component] for name, component in fields.items()}
                own, prompts = data[self.target.own], self.backend.own_model.prompts
                job = jobs.enqueue(form.config_of(values, self.backend.names, own, prompts), state["visitor"])
            except UserError as error:
                gr.Warning(escape(str(error)), title="Not started")
                text = html.block(f'<p role="alert">{escape(str(error))}</p>')
                return {self.finetune.error: gr.update(value=text, visible=True)}
            state = state | {"job": job.id}
            return {
                self.finetune.error: gr.update(value="", visible=False), self.session: state,
                self.browser: data[self.browser] | {"job": job.id, "form": values},
                self.seen: self._signature(job), self.timer: gr.Timer(active=job.active),
                **dict(zip(self.panel, self._show_job(job, state["visitor"]), strict=True)),
            } | ({self.shown: job.id} if job.state == "done" else {})  # fmt: skip

        after_click = [
            self.finetune.error, self.session, self.browser, self.seen, self.shown, self.timer, *self.panel,
        ]  # fmt: skip
        self.finetune.run.click(
            run, {self.session, self.browser, self.target.own, *fields.values()}, after_click, **QUIET
        ).then(None, self.browser, None, js="(kept) => window.s2l.address({run: kept.job})", **QUIET)

        def stop(state: dict):
            try:
                jobs.cancel(state["job"], state["visitor"])
            except UserError as error:
                gr.Warning(escape(str(error)))
            return [gr.update(interactive=False), gr.Timer(active=True)]

        self.finetune.cancel.click(stop, self.session, [self.finetune.cancel, self.timer], **QUIET)

        def resume(state: dict):
            heavy.ready()
            try:
                job = jobs.resume(state["job"], state["visitor"])
            except UserError as error:
                gr.Warning(escape(str(error)))
                return [gr.skip()] * (len(self.panel) + 2)
            return [*self._show_job(job, state["visitor"]), self._signature(job), gr.Timer(active=True)]

        self.finetune.resume.click(resume, self.session, [*self.panel, self.seen, self.timer], **QUIET)

    # --- results ---

    def _choices(self, state: dict, shown: str) -> list[tuple[str, str]]:
        """(name, id) of the runs that this visitor may choose among."""
        choices = [("Example: " + runs.what(self.backend.showcase), SHOWCASE)] if self.backend.showcase else []
        for job in self.backend.finished(state["visitor"]):
            config = job.config
            choices.append((runs.name_of(config.domain.name, config.finetune.methods, config.preset), job.id))
        if shown and shown not in [value for _, value in choices]:
            choices.append(("Shared run", shown))
        return choices

    def _results(self) -> None:
        drawable = {c: None for name in TABS for c in self._outputs(name)}

        def changed(tab: str, shown: str, quizzes: dict, state: dict, *whose) -> dict:
            choices = self._choices(state, shown)
            listed = gr.update(choices=choices, value=shown or None, visible=len(choices) > 1)
            return self._draw(tab, shown, quizzes, state, *whose) | {self.run_list: listed}

        drawn = self.shown.change(
            changed, [self.tab, *self.drawn_from], [self.tab, self.run_list, *drawable], **PRIVATE
        )
        self._files_follow(drawn)
        self.run_list.input(lambda run: run, self.run_list, self.shown, **QUIET).then(
            None, self.run_list, None, js="(run) => window.s2l.address({run})", **QUIET
        )

        tab = self.attack
        choice = [self.shown, tab.attack, tab.when, tab.accused]

        def move(shown: str, attack: str, when: str, accused: float) -> dict:
            if (result := self._result(shown)) is None:
                return {tab.point: gr.skip()}
            words, dot, spared = membership.follow(result, attack, when, int(accused))
            return {tab.point: words, tab.roc: gr.HTML(**dot), tab.ranked: gr.HTML(spared=spared)}

        def other(shown: str, attack: str, when: str, accused: float) -> dict:
            result = self._result(shown)
            return membership.redraw(tab, result, attack, when, int(accused)) if result else {tab.point: gr.skip()}

        tab.accused.input(move, choice, [tab.point, tab.roc, tab.ranked], **LATEST)
        for component in (tab.attack, tab.when):
            component.input(other, choice, [tab.point, tab.roc, tab.log, tab.ranked, tab.scores], **QUIET)

        def photo(shown: str, event: gr.EventData):
            result = self._result(shown)
            chosen = runs.chosen_photo(result, _data(event, "pick")) if result else None
            return membership.detail_html(result, *chosen) if chosen else gr.skip()

        tab.ranked.click(photo, self.shown, tab.detail, **QUIET)

        out = self.extraction

        def gallery(shown: str, show: str, sort: str):
            result = self._result(shown)
            return extraction.cards_html(result, show, sort) if result else gr.skip()

        for component in (out.show, out.sort):
            component.input(gallery, [self.shown, out.show, out.sort], out.cards, **QUIET)

        def card(shown: str, event: gr.EventData):
            result = self._result(shown)
            chosen = runs.chosen_photo(result, _data(event, "pick")) if result else None
            return extraction.detail_html(result, *chosen) if chosen else gr.skip()

        out.cards.click(card, self.shown, out.detail, **QUIET)
        pair = [self.compare.first, self.compare.second]
        for component in pair:
            component.input(
                lambda a, b: compare.sides_html(self._result(a), self._result(b)), pair, self.compare.sides, **QUIET
            )
        self.report.link.change(None, self.report.link, self.report.link, js=ABSOLUTE, **QUIET)

    # --- predict, then reveal ---

    def _predictions(self) -> None:
        attack, out = self.attack, self.extraction

        def answered(tab: str, data: dict, **more) -> dict:
            """The answers with one more, kept here and in the browser, and what the tab now shows."""
            shown, quizzes = data[self.shown], data[self.quizzes]
            quizzes = quizzes | {shown: quizzes.get(shown, {}) | more}
            kept = data[self.browser] | {"quiz": quizzes}
            person, own = data[self.fields["person"]], data[self.target.own]
            drawn = self._draw(tab, shown, quizzes, data[self.session], person, own)
            return drawn | {self.quizzes: quizzes, self.browser: kept}

        common = {*self.drawn_from, self.browser}
        to = [self.tab, self.quizzes, self.browser]

        def chose(data: dict, event: gr.EventData):
            result, answers = self._result(data[self.shown]), data[self.quizzes].get(data[self.shown], {})
            rounds, picked = answers.get("rounds", []), _data(event, "pick")
            if result is None or len(rounds) >= quiz.ROUNDS or picked not in [str(i) for i in range(quiz.CHOICES)]:
                return {self.tab: gr.skip()}
            _, right = quiz.four(result, len(rounds))
            return answered("attack", data, rounds=[*rounds, [int(picked), right]])

        attack.question.click(chose, common, [*to, *attack.outputs], **QUIET)
        attack.answer.click(
            lambda data: answered("attack", data, auc=float(data[attack.auc])), common | {attack.auc},
            [*to, *attack.outputs], **QUIET,
        )  # fmt: skip
        attack.skip.click(lambda data: answered("attack", data, attack=True), common, [*to, *attack.outputs], **QUIET)

        def guessed(data: dict) -> dict:
            if (result := self._result(data[self.shown])) is None:
                return {self.tab: gr.skip()}
            try:
                return answered("extraction", data, extracted=quiz.check_count(result, data[out.guess]))
            except UserError as error:
                gr.Warning(escape(str(error)))
                return {self.tab: gr.skip()}

        out.answer.click(guessed, common | {out.guess}, [*to, *out.outputs], **QUIET)
        out.skip.click(lambda data: answered("extraction", data, extraction=True), common, [*to, *out.outputs], **QUIET)

    # --- opening the page ---

    def _opening(self, page: gr.Blocks) -> None:
        advanced = [self.finetune.advanced, self.sp_set.advanced]

        def opened(kept: dict, request: gr.Request) -> dict:
            asked = dict(request.query_params)
            found = session.opening(kept, asked, self.backend, tuple(TABS), self.first)
            if found.gone:
                gr.Warning("There is no run at this address any more.")
            job, state = found.job, {"visitor": found.visitor, "job": found.job.id if found.job else ""}
            on_the_lab = job is not None and job.config.domain.name in self.backend.names
            fields = form.values_of(job.config) if on_the_lab else found.form
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
                updates |= {self.seen: self._signature(job), self.timer: gr.Timer(active=job.active)}
                updates |= dict(zip(self.panel, self._show_job(job, found.visitor), strict=True))
            return updates

        outputs = [
            self.session, self.browser, self.quizzes, self.seen, self.shown, self.timer, self.tabs, *advanced,
            *self.panel, *self.fields.values(),
        ]  # fmt: skip
        page.load(opened, self.browser, outputs, **QUIET).then(None, None, None, js=READY, **QUIET).then(
            lambda: finetune.choices(self.fields), None, [self.fields["methods"], self.fields["attacks"]], **QUIET
        )


def _data(event: gr.EventData, name: str) -> str:
    """What a click on a gr.HTML told; "" for anything strange."""
    return str(event._data.get(name, "")) if isinstance(event._data, dict) else ""


def build(backend: Backend) -> gr.Blocks:
    """The page over a backend."""
    return Page(backend).build()


def launch(page: gr.Blocks, backend: Backend) -> None:
    """Serve the page, and return; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where. `page.block_thread()` waits."""
    backend.public.mkdir(parents=True, exist_ok=True)
    page.queue(api_open=False).launch(
        theme=theme(), css_paths=[STYLE], head=first.head(backend.showcase),
        allowed_paths=[str(backend.public)], blocked_paths=[str(backend.jobs.folder)], ssr_mode=False,
        run_history=False, show_error=True, max_file_size="5mb", footer_links=["api", "settings"],
        prevent_thread_lock=True,
    )  # fmt: skip

    def draw_what_all_will_see() -> None:
        if (result := backend.showcase) is not None:
            membership.warm(result)
            extraction.warm(result)
            with suppress(UserError):  # an old showcase; the Report tab says so
                backend.published(result)
        compare.tables_html()

    heavy.begin(draw_what_all_will_see)
