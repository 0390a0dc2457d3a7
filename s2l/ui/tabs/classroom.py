"""The Class tab: a code and a QR for the class, every group's runs in one plot, and what they predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import gradio as gr
import segno
from markupsafe import Markup, escape

from s2l.errors import UserError
from s2l.jobs.classroom import Class, Classroom
from s2l.jobs.limits import Limits
from s2l.record import Result
from s2l.ui import html, quiz, runs, session, words
from s2l.ui.backend import SHOWCASE, Backend
from s2l.ui.events import QUIET
from s2l.ui.heavy import ready
from s2l.ui.tab import Context, Tab

INTRO = """**For a class.** Whoever teaches opens a class and shows its code. Groups join under a name they choose. Then
this page shows everybody's runs in one plot, and what the class predicted. There are no accounts; who does not have the
code sees nothing. A class is deleted {time} after it was opened."""
WORDS = ("AUC", "interval", "extracted", "member")
REFRESH_SECONDS = 5.0
BINS = 10  # of guessed AUCs and counts


@dataclass
class ClassPage(Tab):
    code: gr.Textbox
    name: gr.Textbox
    join: gr.Button
    open: gr.Button
    reveal: gr.Checkbox
    remove: gr.Textbox
    removes: gr.Button
    board: gr.HTML
    timer: gr.Timer
    seen: gr.State

    @classmethod
    def build(cls, page: Context) -> ClassPage:
        gr.HTML(words.lead(INTRO.format(time=_time(Limits.read().keep_hours)), WORDS), elem_classes="s2l-lead")
        with gr.Row():
            code = gr.Textbox(label="Code of the class", max_length=20, elem_id="class-code")
            name = gr.Textbox(label="Name of your group", max_length=60, elem_id="group-name")
            join = gr.Button("Join", variant="primary", elem_id="join-class")
            open_ = gr.Button("Open a class (for teachers)", elem_id="open-class")
        with gr.Row():
            reveal = gr.Checkbox(
                False, label="Show the measured values beside the predictions", visible=False, elem_id="reveal-class"
            )
            remove = gr.Textbox(label="Group to take out", visible=False, max_length=60, elem_id="remove-name")
            removes = gr.Button("Take it out", visible=False, elem_id="remove-group")
        board = gr.HTML(elem_id="class-board")
        timer = gr.Timer(REFRESH_SECONDS, active=False)
        return cls(code, name, join, open_, reveal, remove, removes, board, timer, gr.State(""))

    def connect(self, page: Context) -> None:
        rooms = Classroom(page.backend.jobs)
        panel = [self.board, self.reveal, self.remove, self.removes, self.timer, self.seen]

        def show(state: dict, request: gr.Request) -> dict:
            found = rooms.find(state.get("class", ""))
            teaches = found is not None and found.teacher == state["visitor"]
            return {
                self.seen: rooms.signature(found.code) if found else "",
                self.board: board_html(page.backend, rooms, found, address_of(request)) if found else Markup(),
                self.reveal: gr.update(visible=teaches, value=found is not None and found.revealed),
                self.remove: gr.update(visible=teaches),
                self.removes: gr.update(visible=teaches),
                self.timer: gr.Timer(active=found is not None),
            }

        def enter(state: dict, kept: dict, code: str, request: gr.Request) -> dict:
            state = state | {"class": code}
            return {page.session: state, page.browser: session.changed(kept, **{"class": code}), self.code: code} | (
                show(state, request)
            )

        def enters(code_of: Callable[[], str], state: dict, kept: dict, request: gr.Request) -> dict:
            try:
                return enter(state, kept, code_of(), request)
            except UserError as error:
                gr.Warning(escape(error))
                return {self.board: gr.skip()}

        def joins(state: dict, kept: dict, code: str, name: str, request: gr.Request) -> dict:
            return enters(lambda: rooms.join(code, state["visitor"], name).code, state, kept, request)

        def opens(state: dict, kept: dict, request: gr.Request) -> dict:
            return enters(lambda: rooms.open(state["visitor"]), state, kept, request)

        def reveals(state: dict, revealed: bool, request: gr.Request) -> dict:
            return changes(lambda: rooms.reveal(state.get("class", ""), state["visitor"], revealed), state, request)

        def takes_out(state: dict, name: str, request: gr.Request) -> dict:
            return changes(lambda: rooms.remove(state.get("class", ""), state["visitor"], name), state, request)

        def changes(change, state: dict, request: gr.Request) -> dict:
            try:
                change()
            except UserError as error:
                gr.Warning(escape(error))
            return show(state, request)

        def ticks(state: dict, tab: str, seen: str, request: gr.Request) -> dict:
            if tab != "class":
                return {self.timer: gr.Timer(active=False)}
            if rooms.signature(state.get("class", "")) == seen:
                return {self.board: gr.skip()}
            return show(state, request)

        entered = [page.session, page.browser, self.code, *panel]
        address = "(kept) => window.s2l.address({class: kept.class})"
        kept = [page.session, page.browser]
        self.join.click(joins, [*kept, self.code, self.name], entered, **QUIET).then(
            None, page.browser, None, js=address, **QUIET
        )
        self.open.click(opens, kept, entered, **QUIET).then(None, page.browser, None, js=address, **QUIET)
        self.reveal.input(reveals, [page.session, self.reveal], panel, **QUIET)
        self.removes.click(takes_out, [page.session, self.remove], panel, **QUIET)
        self.timer.tick(ticks, [page.session, page.tab, self.seen], panel, **QUIET)
        page.select["class"].select(show, page.session, panel, **QUIET)


def _time(hours: float) -> str:
    """ "7 days", "36 hours"."""
    number, unit = (hours / 24, "day") if hours >= 48 and hours % 24 == 0 else (hours, "hour")
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def address_of(request: gr.Request) -> str:
    """The page's address as the visitor's browser knows it, without parameters; "" if the browser does not say."""
    url = urlsplit(request.headers.get("referer", ""))
    return f"{url.scheme}://{url.netloc}{url.path}" if url.scheme in ("http", "https") and url.netloc else ""


def board_html(backend: Backend, rooms: Classroom, found: Class, address: str) -> Markup:
    """What everybody in a class sees."""
    groups = rooms.groups(found.code)
    names = ", ".join(group.name for group in groups) or "nobody yet"
    shown = _runs(backend, [(group.name, job.id) for group in groups for job in rooms.runs(group)])
    known = {run.key: run.shown for run in shown}
    if backend.showcase is not None:
        known.setdefault(backend.showcase.key, SHOWCASE)
    parts = [
        code_html(found.code, address),
        Markup("<p role=status>In the class: {} ({}).</p>").format(names, len(groups)),
        _runs_html(shown),
        *_predictions_html(backend, known, rooms, found),
    ]
    return html.block(*parts)


@dataclass(frozen=True)
class ClassRun:
    """What the board says of a finished run: `changes` has (title, change of the AUC, low, high) of every attack."""

    group: str
    shown: str
    key: str
    what: str
    changes: dict[str, tuple[str, float, float, float]]


def _runs(backend: Backend, shown: Sequence[tuple[str, str]]) -> list[ClassRun]:
    """The runs of (group's name, job's id), without those that are no longer in the cache."""
    found = []
    for group, job in shown:
        with suppress(UserError):
            found.append(ClassRun(group, job, *_facts(backend, job)))
    return found


@lru_cache(maxsize=2048)  # a few hundred bytes each; whole results of a large class would not fit the memory
def _facts(backend: Backend, shown: str) -> tuple[str, str, dict[str, tuple[str, float, float, float]]]:
    if (result := backend.result_of(shown)) is None:
        raise UserError("this run is not finished")
    changes = {
        name: (found["title"], change["difference"], change["low"], change["high"])
        for name, found in result.record["attacks"].items()
        for change in [found["difference"]]
    }
    return result.key, runs.what(result), changes


def code_html(code: str, address: str) -> Markup:
    """The code, large enough for a wall, and the link to the class with its QR."""
    if not address:
        return Markup('<p class="class-code">{}</p>').format(code)
    link = f"{address}?class={code}&tab=class"
    drawn = segno.make(link, error="m").svg_data_uri(scale=5, border=2, light="white")
    return Markup(
        '<div class="class-head"><img class="class-qr" src="{}" alt="QR code of the link below"><div><p '
        'class="class-code">{}</p><p><a href="{}">{}</a></p></div></div>'
    ).format(drawn, code, link, link)


def _runs_html(shown: Sequence[ClassRun]) -> Markup:
    """All runs in one plot: the change of every attack, with its interval."""
    rows = [run for run in shown if run.changes]
    if not rows:
        return Markup("<p class=quiet>No finished run yet. Runs of who has joined appear here by themselves.</p>")
    common = [name for name in rows[0].changes if all(name in run.changes for run in rows)]
    titles = [rows[0].changes[name][0] for name in common]
    lines = [(f"{run.group}: {run.what}", {name: run.changes[name][1:] for name in common}) for run in rows]
    table = html.table(
        ("run", *(f"{title}, change of the AUC [95 %]" for title in titles)),
        [(label, *(f"{m:+.3f} [{lo:+.3f}, {hi:+.3f}]" for m, lo, hi in changes.values())) for label, changes in lines],
    )
    clear = sum(low > 0 or high < 0 for _, changes in lines for _, low, high in changes.values())
    total = sum(len(changes) for _, changes in lines)
    told = (
        f"Of {total} changes, {clear} {'is' if clear == 1 else 'are'} clear of zero. With 95 % intervals, about one in "
        "twenty would be by chance alone."
    )
    figure = _figure(tuple((label, tuple(zip(titles, changes.values(), strict=True))) for label, changes in lines))
    return Markup("<h3>Everybody's runs</h3><p>{}</p>{}<details><summary>As a table</summary>{}</details>").format(
        told, figure, table
    )


@lru_cache(maxsize=64)  # every page of the class asks for it every few seconds
def _figure(rows: tuple[tuple[str, tuple[tuple[str, tuple[float, float, float]], ...]], ...]) -> Markup:
    ready()
    from s2l import figures

    titled = [(label, dict(changes)) for label, changes in rows]
    return html.drawing(
        lambda dark, narrow: figures.changes_figure(titled, 1, dark, narrow), "The change of the AUC in every run"
    )


def _predictions_html(backend: Backend, known: Mapping[str, str], rooms: Classroom, found: Class) -> list[Markup]:
    """What the class predicted, as histograms; with the measured values once the teacher reveals them.

    `known` has {result's key: what the page shows it by}.
    """
    parts = []
    for key, answers in rooms.predictions(found.code).items():
        with suppress(UserError):
            if key in known and (result := backend.result_of(known[key])) is not None:
                parts.append(Markup("<h3>What the class predicted: {}</h3>").format(runs.what(result)))
                parts += histograms(result, answers, found.revealed)
    return parts


def histograms(result: Result, answers: Sequence[dict], revealed: bool) -> list[Markup]:
    """The answers of several visitors to the questions about one run."""
    parts = []
    rounds = [a["rounds"] for a in answers if len(a.get("rounds", [])) == quiz.ROUNDS]
    if rounds:
        right = Counter(sum(chosen == member for chosen, member in one) for one in rounds)
        rows = [(f"{n} of {quiz.ROUNDS} right", right[n]) for n in range(quiz.ROUNDS + 1)]
        parts.append(bars("Which of four was a training photo?", rows))
    if (guesses := [a["auc"] for a in answers if "auc" in a]) and result.record["attacks"]:
        found = quiz.asked_attack(result)
        measured = found["after"]["auc"] if revealed else None
        parts.append(_binned(f"AUC of the {found['title']} attack after the shake", guesses, 1.0, measured, "{:.1f}"))
    if (guesses := [a["extracted"] for a in answers if "extracted" in a]) and result.record["extraction"]:
        measured = result.record["extraction"]["difference"]["after"] if revealed else None
        most = float(result.record["domain"]["n_members"])
        parts.append(_binned("Training photos that come out after the shake", guesses, most, measured, "{:.0f}"))
    return parts


def _binned(title: str, guesses: Sequence[float], most: float, measured: float | None, style: str) -> Markup:
    def bin_of(value: float) -> int:
        return min(BINS - 1, max(0, int(BINS * value / most)))

    counts = Counter(bin_of(guess) for guess in guesses)
    rows = [
        (f"{style.format(i * most / BINS)} to {style.format((i + 1) * most / BINS)}", counts[i]) for i in range(BINS)
    ]
    return bars(title, rows, None if measured is None else bin_of(measured), measured)


def bars(
    title: str, rows: Sequence[tuple[str, int]], marked: int | None = None, measured: float | None = None
) -> Markup:
    """A histogram as a table that a screen reader can read: (label, number) rows; `marked` is where `measured` lies."""
    most = max((number for _, number in rows), default=0) or 1
    row = Markup('<tr{}><th scope=row>{}</th><td><span class="count-bar" style="width:{}%"></span> {}{}</td></tr>')
    lines = Markup("").join(
        row.format(
            Markup(' class="hit"') if i == marked else "", label, round(80 * number / most), number,
            f" (measured: {measured:.3g})" if i == marked else "",
        )
        for i, (label, number) in enumerate(rows)
    )  # fmt: skip
    return Markup('<table class="bars"><caption>{}</caption><tbody>{}</tbody></table>').format(title, lines)
