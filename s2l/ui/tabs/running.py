"""Part of the Fine-tune tab: Run, Stop and Resume, and the poll that follows a job until it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup, escape

from s2l.errors import UserError
from s2l.jobs import Job
from s2l.jobs.store import RESUMABLE
from s2l.pipeline.stages import SP_SET as DRAWING
from s2l.report import shipped
from s2l.store import Store
from s2l.ui import form, heavy, html, live, runs, session
from s2l.ui.events import QUIET
from s2l.ui.tab import Context
from s2l.ui.tabs.membership import Membership
from s2l.ui.tabs.sp_set import SPSet
from s2l.ui.tabs.target import Target

if TYPE_CHECKING:
    from s2l.ui.tabs.finetune import FineTune


def show_job(store: Store, job: Job | None, visitor: str) -> list:
    """Values of `FineTune.panel` for a job; only its own visitor may stop and resume it."""
    own = job if job is not None and job.visitor == visitor else None
    return [
        live.status_html(job),
        live.pictures_html(job, store),
        live.loss_html(job),
        _samples(store, job),
        live.log_html(job),
        gr.update(visible=own is not None and own.active, interactive=own is not None and not own.stopping),
        gr.update(visible=own is not None and own.state in RESUMABLE),
        gr.update(visible=own is not None and own.state == "done" and "shipped" in own.live),
        gr.update(visible=job is not None and job.state == "done"),
    ]


def _samples(store: Store, job: Job | None) -> Markup:
    """Pictures of the same seeds: during the training, or, of a run that ships with the program, before and after."""
    if job is None or "shipped" not in job.live or (entry := shipped.named(job.result)) is None:
        return live.samples_html(job, store)
    title = f"The same {runs.SEEDS} seeds before and after the shake (run it here to see them during the training)"
    try:
        return runs.seeds_html(shipped.load(entry, store), title)
    except UserError:  # the result tabs say so
        return Markup()


def signature(job: Job | None) -> str:
    """What the panel shows, as one text. While it stays the same, nothing is sent to the browser."""
    return "" if job is None else f"{job.state}{job.ahead}{job.waiting}{job.stopping}{job.message}{job.live}"


def connect(page: Context, tab: FineTune) -> None:
    """Run, stop, resume, and the poll."""
    jobs, store, fields, panel = page.backend.jobs, page.backend.store, page.fields, tab.panel
    chosen_model, pictures = page.part(Target).own, page.part(SPSet).pictures

    def poll(state: dict, seen: str, shown: str, open_tab: str):
        job = jobs.job(state["job"]) if state["job"] else None
        if signature(job) == seen and job is not None:
            return [gr.skip()] * (len(panel) + 4)
        active = job is not None and job.active
        drawing, finished = gr.skip(), gr.skip()
        if job is not None and job.state == "done":
            finished = job.id
        if job is not None and job.active and open_tab == "sp-set" and job.live.get("pictures_of") == DRAWING.id:
            drawing = live.pictures_html(job, store)
        return [
            *show_job(store, job, state["visitor"]), signature(job), finished, gr.Timer(active=active), drawing,
        ]  # fmt: skip

    page.timer.tick(
        poll, [page.session, page.seen, page.shown, page.tab],
        [*panel, page.seen, page.shown, page.timer, pictures], **QUIET,
    )  # fmt: skip

    def run(data: dict):
        state = data[page.session]
        try:
            values = {name: data[component] for name, component in fields.items()}
            own, prompts = data[chosen_model], page.backend.own_model.allow_prompts
            job = jobs.enqueue(form.config_of(values, page.backend.names, own, prompts), state["visitor"])
        except UserError as error:
            gr.Warning(escape(error), title="Not started")
            text = html.block(Markup('<p role="alert">{}</p>').format(error))
            return {tab.error: gr.update(value=text, visible=True)}
        state = state | {"job": job.id}
        return {
            tab.error: gr.update(value="", visible=False), page.session: state,
            page.browser: session.changed(data[page.browser], job=job.id, form=values),
            page.seen: signature(job), page.timer: gr.Timer(active=job.active),
            **dict(zip(panel, show_job(store, job, state["visitor"]), strict=True)),
        } | ({page.shown: job.id} if job.state == "done" else {})  # fmt: skip

    after_click = [tab.error, page.session, page.browser, page.seen, page.shown, page.timer, *panel]
    for button in filter(None, (tab.run, page.part(Membership).again)):
        button.click(run, {page.session, page.browser, chosen_model, *fields.values()}, after_click, **QUIET).then(
            None, page.browser, None, js="(kept) => window.s2l.address({run: kept.job})", **QUIET
        )

    def stop(state: dict):
        try:
            jobs.cancel(state["job"], state["visitor"])
        except UserError as error:
            gr.Warning(escape(error))
        return [gr.update(interactive=False), gr.Timer(active=True)]

    tab.cancel.click(stop, page.session, [tab.cancel, page.timer], **QUIET)

    def again(act: Callable[[], Job], visitor: str) -> tuple[list, Job | None]:
        """What the panel shows once a run is queued again, and its job; with a warning and None if it cannot be."""
        heavy.ready()
        try:
            job = act()
        except UserError as error:
            gr.Warning(escape(error))
            return [gr.skip()] * (len(panel) + 2), None
        return [*show_job(store, job, visitor), signature(job), gr.Timer(active=True)], job

    def resume(state: dict):
        return again(lambda: jobs.resume(state["job"], state["visitor"]), state["visitor"])[0]

    tab.resume.click(resume, page.session, [*panel, page.seen, page.timer], **QUIET)

    def here(state: dict, kept: dict):
        shown, job = again(lambda: jobs.repeat(state["job"], state["visitor"]), state["visitor"])
        if job is None:
            return [*shown, gr.skip(), gr.skip()]
        return [*shown, state | {"job": job.id}, session.changed(kept, job=job.id)]

    tab.here.click(
        here, [page.session, page.browser], [*panel, page.seen, page.timer, page.session, page.browser], **QUIET
    ).then(None, page.browser, None, js="(kept) => window.s2l.address({run: kept.job})", **QUIET)
