"""From a click on Run to a finished job: a click validates and enqueues; `poll` shows what the worker wrote."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import gradio as gr

from s2l.errors import UserError
from s2l.jobs import Job
from s2l.jobs.store import RESUMABLE
from s2l.pipeline.stages import SP_SET
from s2l.ui import form, heavy, html, live
from s2l.ui.events import QUIET

if TYPE_CHECKING:
    from s2l.ui.layout import Page


def show_job(page: Page, job: Job | None, visitor: str) -> list:
    """Values of `page.panel` for a job; only its own visitor may stop and resume it."""
    own, store = job if job is not None and job.visitor == visitor else None, page.backend.store
    return [
        live.status_html(job),
        live.pictures_html(job, store),
        live.loss_html(job),
        live.samples_html(job, store),
        live.log_html(job),
        gr.update(visible=own is not None and own.active, interactive=own is not None and not own.stopping),
        gr.update(visible=own is not None and own.state in RESUMABLE),
        gr.update(visible=job is not None and job.state == "done"),
    ]


def signature(job: Job | None) -> str:
    """What the panel shows, as one text: as long as it stays the same, nothing is sent."""
    return "" if job is None else f"{job.state}{job.ahead}{job.waiting}{job.stopping}{job.message}{job.live}"


def connect(page: Page) -> None:
    """Run, stop, resume, and the poll."""
    jobs, fields = page.backend.jobs, page.fields

    def poll(state: dict, seen: str, shown: str, tab: str):
        job = jobs.job(state["job"]) if state["job"] else None
        if signature(job) == seen and job is not None:
            return [gr.skip()] * (len(page.panel) + 4)
        active = job is not None and job.active
        drawing, finished = gr.skip(), gr.skip()
        if job is not None and job.state == "done":
            finished = job.id
        if job is not None and job.active and tab == "sp-set" and job.live.get("pictures_of") == SP_SET.id:
            drawing = live.pictures_html(job, page.backend.store)
        return [
            *show_job(page, job, state["visitor"]), signature(job), finished,
            gr.Timer(active=active), drawing,
        ]  # fmt: skip

    page.timer.tick(
        poll, [page.session, page.seen, page.shown, page.tab],
        [*page.panel, page.seen, page.shown, page.timer, page.sp_set.pictures], **QUIET,
    )  # fmt: skip

    def run(data: dict):
        state = data[page.session]
        try:
            values = {name: data[component] for name, component in fields.items()}
            own, prompts = data[page.target.own], page.backend.own_model.allow_prompts
            job = jobs.enqueue(form.config_of(values, page.backend.names, own, prompts), state["visitor"])
        except UserError as error:
            gr.Warning(escape(str(error)), title="Not started")
            text = html.block(f'<p role="alert">{escape(str(error))}</p>')
            return {page.finetune.error: gr.update(value=text, visible=True)}
        state = state | {"job": job.id}
        return {
            page.finetune.error: gr.update(value="", visible=False), page.session: state,
            page.browser: data[page.browser] | {"job": job.id, "form": values},
            page.seen: signature(job), page.timer: gr.Timer(active=job.active),
            **dict(zip(page.panel, show_job(page, job, state["visitor"]), strict=True)),
        } | ({page.shown: job.id} if job.state == "done" else {})  # fmt: skip

    after_click = [
        page.finetune.error, page.session, page.browser, page.seen, page.shown, page.timer, *page.panel,
    ]  # fmt: skip
    page.finetune.run.click(
        run, {page.session, page.browser, page.target.own, *fields.values()}, after_click, **QUIET
    ).then(None, page.browser, None, js="(kept) => window.s2l.address({run: kept.job})", **QUIET)

    def stop(state: dict):
        try:
            jobs.cancel(state["job"], state["visitor"])
        except UserError as error:
            gr.Warning(escape(str(error)))
        return [gr.update(interactive=False), gr.Timer(active=True)]

    page.finetune.cancel.click(stop, page.session, [page.finetune.cancel, page.timer], **QUIET)

    def resume(state: dict):
        heavy.ready()
        try:
            job = jobs.resume(state["job"], state["visitor"])
        except UserError as error:
            gr.Warning(escape(str(error)))
            return [gr.skip()] * (len(page.panel) + 2)
        return [*show_job(page, job, state["visitor"]), signature(job), gr.Timer(active=True)]

    page.finetune.resume.click(resume, page.session, [*page.panel, page.seen, page.timer], **QUIET)
