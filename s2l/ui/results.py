"""What the result tabs show, and the events on them: run, threshold, photo, card, prediction."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import gradio as gr

from s2l.errors import UserError
from s2l.record import Result
from s2l.ui import compare, extraction, membership, quiz, report, runs, sp_set
from s2l.ui.backend import SHOWCASE
from s2l.ui.events import LATEST, PRIVATE, QUIET, told
from s2l.ui.own import whom

if TYPE_CHECKING:
    from s2l.ui.layout import Page

ABSOLUTE = "(link) => new URL(link, window.location.href.split('?')[0]).href"


def outputs(page: Page, name: str) -> list:
    """What opening a tab draws."""
    return {
        "sp-set": [page.sp_set.pictures, page.sp_set.zip_file],
        "attack": page.attack.outputs,
        "extraction": page.extraction.outputs,
        "compare": page.compare.outputs,
        "report": page.report.outputs,
    }.get(name, [])


def draw(page: Page, name: str, shown: str, quizzes: dict, state: dict, person: str, own: dict) -> dict:
    """A tab, for the run that is shown. `person` and `own` say whom the next run is about."""
    drawn = {page.tab: name}
    if not outputs(page, name):
        return drawn
    result, answers = result_of(page, shown), quizzes.get(shown, {})
    if name == "sp-set":
        return drawn | _draw_sp_set(page, result, state, whom(person, own))
    if name == "attack":
        return drawn | membership.draw(page.attack, result, answers, shown == SHOWCASE)
    if name == "extraction":
        return drawn | extraction.draw(page.extraction, result, answers)
    if name == "report":
        return drawn | report.draw(page.report, result, shown, shown == SHOWCASE)
    return drawn | _draw_compare(page, shown, state)


def _draw_sp_set(page: Page, result: Result | None, state: dict, person: str) -> dict:
    job = page.backend.jobs.job(state["job"]) if state["job"] else None
    path = str(page.backend.sp_set_zip(result)) if result is not None else None
    return {
        page.sp_set.pictures: sp_set.pictures_html(job, result, page.backend.store, person),
        page.sp_set.zip_file: gr.update(value=path, visible=path is not None),
    }


def _draw_compare(page: Page, shown: str, state: dict) -> dict:
    choices = choices_of(page, state, shown)
    values = [value for _, value in choices]
    first, second = (values[0] if values else None), (values[1] if len(values) > 1 else None)
    return {
        page.compare.tables: compare.tables_html(),
        page.compare.first: gr.update(choices=choices, value=first),
        page.compare.second: gr.update(choices=choices, value=second),
        page.compare.sides: compare.sides_html(result_of(page, first), result_of(page, second)),
    }


def result_of(page: Page, shown: str | None) -> Result | None:
    """The run that is shown; nothing, and a warning on the page, if it is gone."""
    try:
        return page.backend.result_of(shown or "")
    except UserError as error:
        gr.Warning(escape(str(error)))
        return None


def files_follow(page: Page, drawn) -> None:
    """The report's files after what the tab shows at once."""

    def publish(shown: str, tab: str) -> dict:
        return report.files(page.report, page.backend, result_of(page, shown) if tab == "report" else None)

    drawn.then(publish, [page.shown, page.tab], [page.report.html_file, page.report.json_file], **PRIVATE)


def choices_of(page: Page, state: dict, shown: str) -> list[tuple[str, str]]:
    """(name, id) of the runs that this visitor may choose among."""
    choices = [("Example: " + runs.what(page.backend.showcase), SHOWCASE)] if page.backend.showcase else []
    for job in page.backend.finished(state["visitor"]):
        config = job.config
        choices.append((runs.name_of(config.domain.name, config.finetune.methods, config.preset), job.id))
    if shown and shown not in [value for _, value in choices]:
        choices.append(("Shared run", shown))
    return choices


def connect(page: Page) -> None:
    """The events of the result tabs."""
    drawable = {c: None for name in page.tab_of for c in outputs(page, name)}

    def changed(tab: str, shown: str, quizzes: dict, state: dict, *whose) -> dict:
        choices = choices_of(page, state, shown)
        listed = gr.update(choices=choices, value=shown or None, visible=len(choices) > 1)
        return draw(page, tab, shown, quizzes, state, *whose) | {page.run_list: listed}

    drawn = page.shown.change(changed, [page.tab, *page.drawn_from], [page.tab, page.run_list, *drawable], **PRIVATE)
    files_follow(page, drawn)
    page.run_list.input(lambda run: run, page.run_list, page.shown, **QUIET).then(
        None, page.run_list, None, js="(run) => window.s2l.address({run})", **QUIET
    )

    tab = page.attack
    choice = [page.shown, tab.attack, tab.when, tab.accused]

    def move(shown: str, attack: str, when: str, accused: float) -> dict:
        if (result := result_of(page, shown)) is None:
            return {tab.point: gr.skip()}
        words, dot, spared = membership.follow(result, attack, when, int(accused))
        return {tab.point: words, tab.roc: gr.HTML(**dot), tab.ranked: gr.HTML(spared=spared)}

    def other(shown: str, attack: str, when: str, accused: float) -> dict:
        result = result_of(page, shown)
        return membership.redraw(tab, result, attack, when, int(accused)) if result else {tab.point: gr.skip()}

    tab.accused.input(move, choice, [tab.point, tab.roc, tab.ranked], **LATEST)
    for component in (tab.attack, tab.when):
        component.input(other, choice, [tab.point, tab.roc, tab.log, tab.ranked, tab.scores], **QUIET)

    def photo(shown: str, event: gr.EventData):
        result = result_of(page, shown)
        chosen = runs.chosen_photo(result, told(event, "pick")) if result else None
        return membership.detail_html(result, *chosen) if result and chosen else gr.skip()

    tab.ranked.click(photo, page.shown, tab.detail, **QUIET)

    out = page.extraction

    def gallery(shown: str, show: str, sort: str):
        result = result_of(page, shown)
        return extraction.cards_html(result, show, sort) if result else gr.skip()

    for component in (out.show, out.sort):
        component.input(gallery, [page.shown, out.show, out.sort], out.cards, **QUIET)

    def card(shown: str, event: gr.EventData):
        result = result_of(page, shown)
        chosen = runs.chosen_photo(result, told(event, "pick")) if result else None
        return extraction.detail_html(result, *chosen) if result and chosen else gr.skip()

    out.cards.click(card, page.shown, out.detail, **QUIET)
    pair = [page.compare.first, page.compare.second]
    for component in pair:
        component.input(
            lambda a, b: compare.sides_html(result_of(page, a), result_of(page, b)), pair, page.compare.sides, **QUIET
        )
    page.report.link.change(None, page.report.link, page.report.link, js=ABSOLUTE, **QUIET)


def predictions(page: Page) -> None:
    """Predict, then reveal: the visitor's guesses, before the two attacks show what they found."""
    attack, out = page.attack, page.extraction

    def answered(tab: str, data: dict, **more) -> dict:
        """The answers with one more, kept here and in the browser, and what the tab now shows."""
        shown, quizzes = data[page.shown], data[page.quizzes]
        quizzes = quizzes | {shown: quizzes.get(shown, {}) | more}
        kept = data[page.browser] | {"quiz": quizzes}
        person, own = data[page.fields["person"]], data[page.target.own]
        drawn = draw(page, tab, shown, quizzes, data[page.session], person, own)
        return drawn | {page.quizzes: quizzes, page.browser: kept}

    common = {*page.drawn_from, page.browser}
    to = [page.tab, page.quizzes, page.browser]

    def chose(data: dict, event: gr.EventData):
        result, answers = result_of(page, data[page.shown]), data[page.quizzes].get(data[page.shown], {})
        rounds, picked = answers.get("rounds", []), told(event, "pick")
        if result is None or len(rounds) >= quiz.ROUNDS or picked not in [str(i) for i in range(quiz.CHOICES)]:
            return {page.tab: gr.skip()}
        _, right = quiz.four(result, len(rounds))
        return answered("attack", data, rounds=[*rounds, [int(picked), right]])

    attack.question.click(chose, common, [*to, *attack.outputs], **QUIET)
    attack.answer.click(
        lambda data: answered("attack", data, auc=float(data[attack.auc])), common | {attack.auc},
        [*to, *attack.outputs], **QUIET,
    )  # fmt: skip
    attack.skip.click(lambda data: answered("attack", data, attack=True), common, [*to, *attack.outputs], **QUIET)

    def guessed(data: dict) -> dict:
        if (result := result_of(page, data[page.shown])) is None:
            return {page.tab: gr.skip()}
        try:
            return answered("extraction", data, extracted=quiz.check_count(result, data[out.guess]))
        except UserError as error:
            gr.Warning(escape(str(error)))
            return {page.tab: gr.skip()}

    out.answer.click(guessed, common | {out.guess}, [*to, *out.outputs], **QUIET)
    out.skip.click(lambda data: answered("extraction", data, extraction=True), common, [*to, *out.outputs], **QUIET)
