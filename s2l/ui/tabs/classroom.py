"""The Class tab: a code and a QR for the class, every group's runs in one plot, and what they predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
code sees nothing. A class is deleted {hours:g} hours after it was opened."""
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

    @classmethod
    def build(cls, page: Context) -> ClassPage:
        gr.HTML(words.lead(INTRO.format(hours=Limits.read().keep_hours), WORDS), elem_classes="s2l-lead")
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
        return cls(code, name, join, open_, reveal, remove, removes, board, gr.Timer(REFRESH_SECONDS, active=False))

    def connect(self, page: Context) -> None:
        rooms = Classroom(page.backend.jobs)
        panel = [self.board, self.reveal, self.remove, self.removes, self.timer]

        def show(state: dict, request: gr.Request) -> dict:
            found = rooms.find(state.get("class", ""))
            teaches = found is not None and found.teacher == state["visitor"]
            return {
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

        def joins(state: dict, kept: dict, code: str, name: str, request: gr.Request) -> dict:
            try:
                return enter(state, kept, rooms.join(code, state["visitor"], name).code, request)
            except UserError as error:
                gr.Warning(escape(error))
                return {self.board: gr.skip()}

        def opens(state: dict, kept: dict, request: gr.Request) -> dict:
            try:
                return enter(state, kept, rooms.open(state["visitor"]), request)
            except UserError as error:
                gr.Warning(escape(error))
                return {self.board: gr.skip()}

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

        def ticks(state: dict, tab: str, request: gr.Request) -> dict:
            if tab != "class":
                return {self.timer: gr.Timer(active=False)}
            return {self.board: show(state, request)[self.board]}

        entered = [page.session, page.browser, self.code, *panel]
        address = "(kept) => window.s2l.address({class: kept.class})"
        kept = [page.session, page.browser]
        self.join.click(joins, [*kept, self.code, self.name], entered, **QUIET).then(
            None, page.browser, None, js=address, **QUIET
        )
        self.open.click(opens, kept, entered, **QUIET).then(None, page.browser, None, js=address, **QUIET)
        self.reveal.input(reveals, [page.session, self.reveal], panel, **QUIET)
        self.removes.click(takes_out, [page.session, self.remove], panel, **QUIET)
        self.timer.tick(ticks, [page.session, page.tab], [self.board, self.timer], **QUIET)
        page.select["class"].select(show, page.session, panel, **QUIET)


def address_of(request: gr.Request) -> str:
    """The page's address as the visitor's browser knows it, without parameters; "" if the browser does not say."""
    url = urlsplit(request.headers.get("referer", ""))
    return f"{url.scheme}://{url.netloc}{url.path}" if url.scheme in ("http", "https") and url.netloc else ""


def board_html(backend: Backend, rooms: Classroom, found: Class, address: str) -> Markup:
    """What everybody in a class sees."""
    groups = rooms.groups(found.code)
    names = ", ".join(group.name for group in groups) or "nobody yet"
    shown = _results(backend, [(group.name, job.id) for group in groups for job in rooms.runs(group)])
    example = backend.result_of(SHOWCASE)
    known = [result for _, result in shown] + ([example] if example is not None else [])
    parts = [
        code_html(found.code, address),
        Markup("<p role=status>In the class: {} ({}).</p>").format(names, len(groups)),
        _runs_html(shown),
        *_predictions_html({result.key: result for result in known}, rooms, found),
    ]
    return html.block(*parts)


def _results(backend: Backend, shown: Sequence[tuple[str, str]]) -> list[tuple[str, Result]]:
    """(group's name, result) of (group's name, job's id), without those that are no longer in the cache."""
    found = []
    for name, job in shown:
        with suppress(UserError):
            if (result := backend.result_of(job)) is not None:
                found.append((name, result))
    return found


def code_html(code: str, address: str) -> Markup:
    """The code, large enough for a wall, and the link to the class with its QR."""
    if not address:
        return Markup('<p class="class-code">{}</p>').format(code)
    link = f"{address}?class={code}"
    drawn = segno.make(link, error="m").svg_data_uri(scale=5, border=2, light="white")
    return Markup(
        '<div class="class-head"><img class="class-qr" src="{}" alt="QR code of the link below"><div><p '
        'class="class-code">{}</p><p><a href="{}">{}</a></p></div></div>'
    ).format(drawn, code, link, link)


def _runs_html(shown: Sequence[tuple[str, Result]]) -> Markup:
    """All runs in one plot: the change of every attack, with its interval."""
    rows = [(f"{name}: {runs.what(result)}", result) for name, result in shown if result.record["attacks"]]
    if not rows:
        return Markup("<p class=quiet>No finished run yet. Runs of who has joined appear here by themselves.</p>")
    first = rows[0][1].record["attacks"]
    common = [name for name in first if all(name in result.record["attacks"] for _, result in rows)]
    titles = [first[name]["title"] for name in common]
    lines = [(label, {name: _change(result, name) for name in common}) for label, result in rows]
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


def _change(result: Result, attack: str) -> tuple[float, float, float]:
    change = result.record["attacks"][attack]["difference"]
    return change["difference"], change["low"], change["high"]


def _predictions_html(results: Mapping[str, Result], rooms: Classroom, found: Class) -> list[Markup]:
    """What the class predicted, as histograms; with the measured values once the teacher reveals them."""
    parts = []
    for key, answers in rooms.predictions(found.code).items():
        if (result := results.get(key)) is None:
            continue
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
