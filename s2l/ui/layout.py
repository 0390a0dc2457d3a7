"""The page as a whole: its tabs, one session, and the events that belong to no single tab.

A session is one open page; `session.py` says what survives a refresh, `running.py` follows a run. A tab is filled when
it is opened, so opening the page costs no more than its first tab.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import gradio as gr
from markupsafe import Markup
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from s2l.errors import UserError
from s2l.ui import api, first, form, heavy, pages, session
from s2l.ui.backend import ASSETS, Backend
from s2l.ui.events import PRIVATE, QUIET, address, click_value
from s2l.ui.guard import Guard
from s2l.ui.tab import Context, Entry
from s2l.ui.tabs import TABS, compare, extraction, finetune, membership, running, story
from s2l.ui.tabs.classroom import ClassPage
from s2l.ui.tabs.finetune import FineTune
from s2l.ui.tabs.sp_set import SPSet
from s2l.ui.tabs.target import Target
from s2l.ui.theme import STYLE, theme

HEAD = Markup("""<div class="s2l-head"><h1>Shake-to-Leak Lab</h1>
<p>A teaching tool. The people here are <b>invented</b> and drawn by our own code. A glossary is at the end of the
page.</p></div>""")
# What Gradio says to a screen reader at the end of an event, and has no words for in any language.
SAID = gr.I18n(en={"common.complete": "Done"})
READY = "() => window.s2l.ready()"
# For gr.HTML(js_on_load=...): the browser's Back and Forward open the tab that the address names.
BACK = """window.addEventListener("popstate", () =>
  trigger("click", { tab: new URL(window.location).searchParams.get("tab") || "" }));"""


def glossary() -> str:
    """The glossary of docs/teaching.md, as Markdown; empty if the file is not shipped."""
    path = ASSETS.parents[1] / "docs" / "teaching.md"
    if not path.exists():
        return ""
    section = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->\n", "", section[1]).strip() if section else ""


def build(backend: Backend, tabs: Sequence[Entry] = TABS) -> gr.Blocks:
    """The page of a backend."""
    person = backend.showcase.record["config"]["domain"]["name"] if backend.showcase else ""
    # Gradio copies what is shared into this folder unless it is there already, and puts uploads there: guard.py.
    os.environ["GRADIO_TEMP_DIR"] = str(backend.public)
    values = form.preset_values(form.FIRST_PRESET, person if person in backend.names else backend.names[0])
    with gr.Blocks(title="Shake-to-Leak Lab", delete_cache=(3600, 86400)) as blocks:
        page = Context(backend, values, tabs)
        gr.HTML(HEAD)
        page.build_tabs()
        words = glossary()
        with gr.Accordion("Glossary: what the words mean", open=False, elem_id="glossary", visible=bool(words)):
            gr.Markdown(words)
        page.drawn_from = [page.shown, page.quizzes, page.session, page.fields["person"], page.part(Target).own]
        for name in page.parts:
            _opening_a_tab(page, name)
        for part in page.parts.values():
            part.connect(page)
        _another_run(page)
        _back(page)
        _opening_the_page(page, blocks)
        api.build(backend)
    return blocks


def _opening_a_tab(page: Context, name: str) -> None:
    """When a tab is opened, its name goes into the address, and the tab is drawn."""
    page.select[name].select(None, None, None, js=address(tab=name), **QUIET)
    drawn = page.select[name].select(
        partial(page.draw, name), page.drawn_from, [page.tab, *page.parts[name].outputs],
        **PRIVATE | {"show_progress": "minimal"},
    )  # fmt: skip
    page.parts[name].follow(page, drawn)


def _another_run(page: Context) -> None:
    """When another run is shown, the open tab is drawn again."""
    drawable = {component: None for part in page.parts.values() for component in part.outputs}

    def changed(tab: str, shown: str, quizzes: dict, state: dict, person: str, own: dict) -> dict:
        choices = page.choices_of(state, shown)
        listed = gr.update(choices=choices, value=shown or None, visible=len(choices) > 1)
        return page.draw(tab, shown, quizzes, state, person, own) | {page.run_list: listed}

    drawn = page.shown.change(changed, [page.tab, *page.drawn_from], [page.tab, page.run_list, *drawable], **PRIVATE)
    for part in page.parts.values():
        part.follow(page, drawn)
    page.run_list.input(lambda run: run, page.run_list, page.shown, **QUIET).then(
        None, page.run_list, None, js="(run) => window.s2l.address({run})", **QUIET
    )


def _back(page: Context) -> None:
    """Back and Forward move between the tabs."""
    history = gr.HTML("", js_on_load=BACK, elem_id="history")
    names = tuple(page.parts)

    def moved(event: gr.EventData) -> gr.Tabs:
        tab = click_value(event, "tab")
        return gr.Tabs(selected=tab if tab in names else names[0])

    history.click(moved, None, page.tabs, **QUIET)


def _opening_the_page(page: Context, blocks: gr.Blocks) -> None:
    """When the page is opened, fill it with what its address and the browser's copy say."""
    panel = page.part(FineTune).panel
    advanced = [page.part(FineTune).advanced, page.part(SPSet).advanced]
    names = tuple(page.parts)

    def opened(kept: dict, request: gr.Request) -> dict:
        opening = session.opening(kept, dict(request.query_params), page.backend, names, page.first)
        if opening.gone:
            gr.Warning("The run at this address no longer exists.")
        if request.query_params.get("class", "1") != "1" and not opening.code:
            gr.Warning("The class at this address no longer exists.")
        state = {"visitor": opening.visitor, "job": "", "class": opening.code}
        job, fields = opening.job, opening.form
        if job is not None:
            state["job"] = job.id
            if job.config.domain.name in page.backend.names:  # a person of the lab
                fields = form.values_of(job.config)
        updates: dict = {
            page.session: state, page.quizzes: opening.quiz, page.shown: opening.shown,
            page.browser: state | {"quiz": opening.quiz, "form": opening.form},
            **{page.fields[name]: value for name, value in fields.items()},
            page.part(ClassPage).code: opening.code,
            page.fields["attacks"]: _with_choices(fields.get("attacks", page.first["attacks"]), page.first["attacks"]),
        }  # fmt: skip
        if opening.tab != names[0]:
            updates |= {page.tabs: gr.Tabs(selected=opening.tab)}
        if opening.classroom:
            updates |= {component: gr.update(visible=False) for component in advanced}
        if job is not None:
            updates |= {page.seen: running.signature(job), page.timer: gr.Timer(active=job.active)}
            updates |= dict(zip(panel, running.show_job(page.backend.store, job, opening.visitor), strict=True))
        return updates

    outputs = [
        page.session, page.browser, page.quizzes, page.seen, page.shown, page.timer, page.tabs, *advanced,
        *panel, *page.fields.values(), page.part(ClassPage).code,
    ]  # fmt: skip
    blocks.load(opened, page.browser, outputs, **QUIET).then(None, None, None, js=READY, **QUIET).then(
        finetune.attack_choices, None, page.fields["attacks"], **QUIET
    )


def _with_choices(chosen: Sequence[str], known: Sequence[str]) -> dict:
    """A list of attacks with its value, as long as only the names are known: a value must be one of the choices."""
    return gr.update(choices=list(dict.fromkeys([*known, *chosen])), value=list(chosen))


def launch(page: gr.Blocks, backend: Backend, host: str | None = None, port: int | None = None) -> None:
    """Start serving the page, and return; `page.block_thread()` waits. `host` and `port`: see `server.serve`."""
    backend.public.mkdir(parents=True, exist_ok=True)
    page.queue(api_open=False).launch(
        theme=theme(), css_paths=[STYLE], head=first.head(story.first_picture(backend)),
        allowed_paths=[str(backend.public / "results")], blocked_paths=[str(backend.jobs.folder)], ssr_mode=False,
        run_history=False, show_error=True, i18n=SAID, max_file_size="5mb", footer_links=["api", "settings"],
        prevent_thread_lock=True, server_name=host, server_port=port,
        state_session_capacity=pages.MAX_PAGES,
        app_kwargs={"middleware": [
            Middleware(GZipMiddleware, minimum_size=10_000, compresslevel=1),  # the page itself; streams are left alone
            Middleware(Guard, backend=backend, page=page),
        ]},
    )  # fmt: skip
    pages.keep_little(page)

    def draw_what_all_will_see() -> None:
        if (result := backend.showcase) is not None:
            membership.warm(result)
            extraction.warm(result)
            with suppress(UserError):  # an old showcase; the Report tab says so
                backend.published(result)
        compare.figure_html()
        compare.tables_html()

    heavy.begin(draw_what_all_will_see)
