"""The page put together: four tabs, one session, one poll.

A session is one open page. It knows its visitor (a random id kept in the browser) and the job it
watches (also in the address, `?job=`), so a refresh, or another device with that address, finds the
job again. A click validates and enqueues; `poll` shows what the worker wrote.
"""

from __future__ import annotations

import secrets
import threading
from html import escape

import gradio as gr

from s2l.config import RunConfig, UserError, checked, preset
from s2l.experiment import Result
from s2l.finetune import parse
from s2l.jobs import Job
from s2l.jobs.store import RESUMABLE
from s2l.report import RESPONSIBLE_USE, reproduce_command
from s2l.ui import finetune, form, html, live, results, sp_set, target
from s2l.ui.backend import ASSETS, SHOWCASE, Backend
from s2l.ui.theme import CSS, theme

HEAD = """<h1>Shake-to-Leak Lab</h1>
<p>Fine-tuning a text-to-image model on its own pictures of a person can make it leak more about the photos it was
trained on. See how it works, run it, and judge what leaked.</p>
<p class="s2l-note">A teaching tool. The people here are <b>invented</b> and drawn by our own code; nobody real
is shown. {use}</p>"""
TABS = ("target", "sp-set", "finetune", "results")
POLL_SECONDS = 1.0
SET_URL = """(kept) => { const url = new URL(window.location);
  if (kept && kept.job) url.searchParams.set("job", kept.job); else url.searchParams.delete("job");
  window.history.replaceState(null, "", url); }"""
# Events of the page itself are no API; many visitors may have one at the same time.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
QUIET = PRIVATE | {"show_progress": "hidden"}


def build(backend: Backend) -> gr.Blocks:
    """The page over a backend."""
    first_person = backend.showcase.record["config"]["domain"]["name"] if backend.showcase else backend.names[0]
    first = form.preset_values(form.FIRST_PRESET, first_person if first_person in backend.names else backend.names[0])
    fields: dict[str, gr.components.Component] = {}
    with gr.Blocks(title="Shake-to-Leak Lab", delete_cache=(3600, 86400)) as page:
        # The browser's own copy; the secret only has to stay the same over a restart.
        browser = gr.BrowserState({"visitor": "", "job": ""}, storage_key="s2l", secret="s2l-lab")
        session = gr.State({"visitor": "", "job": ""})
        seen, shown = gr.State(""), gr.State("")
        timer = gr.Timer(POLL_SECONDS, active=False)
        gr.HTML(f'<div class="s2l-head">{HEAD.format(use=escape(RESPONSIBLE_USE))}</div>')
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("1 Target", id=TABS[0]):
                one = target.build(backend, fields, first)
            with gr.Tab("2 SP set", id=TABS[1]):
                two = sp_set.build(fields, first)
            with gr.Tab("3 Fine-tune", id=TABS[2]):
                three = finetune.build(backend, fields, first)
            with gr.Tab("4 Results", id=TABS[3]):
                four = results.build()
        panel = [three.status, three.pictures, three.loss, three.log, three.cancel, three.resume, three.see]

        # --- moving about ---
        for button, tab in ((one.next, TABS[1]), (two.next, TABS[2]), (one.example, TABS[3]), (three.see, TABS[3])):
            button.click(lambda tab=tab: gr.Tabs(selected=tab), None, tabs, **QUIET)

        # --- fields that follow others ---
        fields["person"].change(
            lambda *values: target.person_changed(backend, *values),
            [fields["person"], fields["prompt"], fields["prompt2"]],
            [one.people, fields["prompt"], fields["prompt2"], one.words, one.photos],
            **QUIET,
        )
        for component in two.inputs:
            component.change(sp_set.preview_html, two.inputs, two.preview, **QUIET)
        card_inputs = [fields[n] for n in ("methods", "rank", "num_vectors", "train_text_encoder")]
        for component in card_inputs:
            component.change(lambda *v: finetune.card_html(backend, *v), card_inputs, three.card, **QUIET)
        fields["methods"].change(
            lambda m: [gr.update(visible=finetune.visible_fields(m).get(n, False)) for n in three.of_method],
            fields["methods"],
            [fields[n] for n in three.of_method],
            **QUIET,
        )

        def choose_size(data: dict) -> dict:
            keep = ("person", "prompt", "methods")
            values = form.preset_values(data[fields["preset"]], data[fields["person"]])
            return {fields[name]: value for name, value in values.items() if name not in (*keep, "preset")}

        fields["preset"].input(choose_size, {fields["preset"], fields["person"]}, list(fields.values()), **QUIET)

        one.example.click(lambda: SHOWCASE, None, shown, **QUIET)

        # --- jobs ---
        def show_job(job: Job | None, visitor: str) -> list:
            mine = job is not None and job.visitor == visitor
            return [
                live.status_html(job),
                live.pictures_html(job, backend.store),
                live.loss_html(job),
                live.log_html(job),
                gr.update(visible=mine and job.active, interactive=mine and not job.stopping),
                gr.update(visible=mine and job.state in RESUMABLE),
                gr.update(visible=job is not None and job.state == "done"),
            ]

        def signature(job: Job | None) -> str:
            return "" if job is None else f"{job.state}{job.ahead}{job.stopping}{job.message}{job.live}"

        def poll(session: dict, seen: str, shown: str):
            job = backend.jobs.job(session["job"]) if session["job"] else None
            if signature(job) == seen and job is not None:
                return [gr.skip()] * (len(panel) + 3)
            finished = job is not None and job.state == "done"
            active = job is not None and job.active
            return [
                *show_job(job, session["visitor"]), signature(job), job.id if finished else gr.skip(),
                gr.Timer(active=active),
            ]  # fmt: skip

        timer.tick(poll, [session, seen, shown], [*panel, seen, shown, timer], **QUIET)

        def run(data: dict):
            state = data[session]
            try:
                values = {name: data[component] for name, component in fields.items()}
                job = backend.jobs.enqueue(form.config_of(values, backend.names), state["visitor"])
            except UserError as error:
                gr.Warning(escape(str(error)), title="Not started")
                text = html.block(f'<p role="alert">{escape(str(error))}</p>')
                return {three.error: gr.update(value=text, visible=True)}
            state = state | {"job": job.id}
            tab = TABS[3] if job.state == "done" else TABS[2]
            return {
                three.error: gr.update(value="", visible=False), session: state, browser: state,
                seen: signature(job), timer: gr.Timer(active=job.active), tabs: gr.Tabs(selected=tab),
                **dict(zip(panel, show_job(job, state["visitor"]), strict=True)),
            } | ({shown: job.id} if job.state == "done" else {})  # fmt: skip

        after_click = [three.error, session, browser, seen, shown, timer, tabs, *panel]
        three.run.click(run, {session, *fields.values()}, after_click, **QUIET).then(
            None, browser, None, js=SET_URL, **QUIET
        )

        def stop(session: dict):
            try:
                backend.jobs.cancel(session["job"], session["visitor"])
            except UserError as error:
                gr.Warning(str(error))
            return [gr.update(interactive=False), gr.Timer(active=True)]

        three.cancel.click(stop, session, [three.cancel, timer], **QUIET)

        def resume(session: dict):
            try:
                job = backend.jobs.resume(session["job"], session["visitor"])
            except UserError as error:
                gr.Warning(str(error))
                return [gr.skip()] * (len(panel) + 2)
            return [*show_job(job, session["visitor"]), signature(job), gr.Timer(active=True)]

        three.resume.click(resume, session, [*panel, seen, timer], **QUIET)

        # --- results ---
        def result_of(shown: str):
            try:
                return backend.result_of(shown)
            except UserError as error:
                gr.Warning(str(error))
                return None

        def draw(shown: str):
            result = result_of(shown)
            names = {n: a["title"] for n, a in result.record["attacks"].items()} if result else {}
            attack = next(iter(names), None)
            command = reproduce_command(config_of_result(result)) if result else ""
            return [
                results.headline_html(result, example=shown == SHOWCASE),
                gr.update(choices=[(t, n) for n, t in names.items()], value=attack, visible=len(names) > 0),
                gr.update(value=command, visible=result is not None),
            ]

        def draw_pictures(shown: str, attack: str | None):
            result = result_of(shown)
            return [
                results.roc_html(result, attack),
                results.extraction_html(result),
                results.loss_html(result),
            ]

        def list_runs(session: dict, shown: str):
            choices = [("Example: " + results.what(backend.showcase), SHOWCASE)] if backend.showcase else []
            for job in backend.finished(session["visitor"]):
                config = job.config
                name = results.name_of(config.domain.name, config.finetune.methods, config.preset)
                choices.append((name, job.id))
            if shown and shown not in [value for _, value in choices]:
                choices.append(("Shared run", shown))
            return gr.update(choices=choices, value=shown or None, visible=len(choices) > 1)

        def publish(shown: str):
            result = result_of(shown)
            if result is None:
                return [gr.update(visible=False)] * 2
            files = backend.published(result)
            return [gr.update(value=str(path), visible=True) for path in files.values()]

        # The words at once, then the pictures, then the files.
        shown.change(draw, shown, [four.headline, four.attack, four.command], **QUIET).then(
            draw_pictures, [shown, four.attack], [four.roc, four.extraction, four.loss], **QUIET
        ).then(list_runs, [session, shown], four.runs, **QUIET).then(
            publish, shown, [four.html_file, four.json_file], api_visibility="private", show_progress="hidden"
        )
        four.runs.input(lambda value: value, four.runs, shown, **QUIET)
        four.attack.input(
            lambda shown, attack: results.roc_html(result_of(shown), attack), [shown, four.attack], four.roc, **QUIET
        )

        # --- opening the page ---
        def opened(kept: dict, request: gr.Request):
            state = {"visitor": "", "job": ""} | (kept if isinstance(kept, dict) else {})
            state["visitor"] = state["visitor"] or secrets.token_urlsafe(16)
            asked = request.query_params.get("job", "")
            job = backend.jobs.job(asked or state["job"])
            if not asked and job is not None and job.visitor != state["visitor"]:
                job = None  # once watched at somebody's address
            state["job"] = job.id if job is not None else ""
            if asked and job is None:
                gr.Warning("There is no run at this address any more.")
            updates = {session: state, browser: state}
            if job is None:
                updates[shown] = SHOWCASE if backend.showcase else ""
                return updates
            done = job.state == "done"
            updates |= {fields[name]: value for name, value in form.values_of(job.config).items()}
            updates |= {
                seen: signature(job), timer: gr.Timer(active=job.active), shown: job.id if done else
                (SHOWCASE if backend.showcase else ""), tabs: gr.Tabs(selected=TABS[3] if done else TABS[2]),
                **dict(zip(panel, show_job(job, state["visitor"]), strict=True)),
            }  # fmt: skip
            return updates

        page.load(
            opened, browser, [session, browser, seen, shown, timer, tabs, *panel, *fields.values()], **QUIET
        ).then(None, browser, None, js=SET_URL, **QUIET).then(
            lambda *v: finetune.card_html(backend, *v), card_inputs, three.card, **QUIET
        )

        # --- the public API ---
        def people() -> list[str]:
            """The people of the lab."""
            return backend.names

        def start_run(person: str, size: str = "demo", method: str = "lora") -> dict:
            """Start a run, or join the same one: {"job", "state"}. `size` is "demo" or "quick"."""
            try:
                if person not in backend.names or size not in form.APP_PRESETS:
                    raise UserError(f"person is one of /people, size one of {', '.join(form.APP_PRESETS)}")
                config = preset(size, person, finetune={"methods": parse(method)})
                job = backend.jobs.enqueue(config, "api-" + secrets.token_urlsafe(16))
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None
            return {"job": job.id, "state": job.state}

        def job_status(job: str) -> dict:
            """How far a run is: {"state", "message", "queue_position", "done", "eta_seconds", "headline"}."""
            found = backend.jobs.job(job)
            if found is None:
                raise gr.Error("there is no job of that id", print_exception=False)
            result = backend.result_of(found.id)
            return {
                "state": found.state, "message": found.message, "queue_position": found.ahead,
                "done": found.live.get("done"), "eta_seconds": found.live.get("eta"),
                "headline": results.report.headline(result) if result else [],
            }  # fmt: skip

        for function in (people, start_run, job_status):
            gr.api(function, api_name=function.__name__, concurrency_limit=None)
    return page


def config_of_result(result: Result) -> RunConfig:
    return checked(RunConfig, result.record["config"])


def launch(page: gr.Blocks, backend: Backend) -> None:
    """Serve the page, and return; GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where. `page.block_thread()` waits."""
    backend.public.mkdir(parents=True, exist_ok=True)
    page.queue(api_open=False).launch(
        theme=theme(), css=CSS, allowed_paths=[str(ASSETS), str(backend.public)],
        blocked_paths=[str(backend.jobs.folder)], ssr_mode=False, run_history=False, show_error=True,
        max_file_size="5mb", footer_links=["api", "settings"], prevent_thread_lock=True,
    )  # fmt: skip
    if backend.showcase is not None:
        threading.Thread(target=results.warm, args=(backend.showcase,), daemon=True).start()
