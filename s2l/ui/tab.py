"""What a tab is, and what the tabs of a page share.

A tab is a class with the components it built. `tabs/` has one file per tab, and one list that says which there are and
in which order. The page only builds, draws and connects what is in that list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import gradio as gr
from gradio.events import Dependency
from markupsafe import escape

from s2l.errors import UserError
from s2l.jobs.classroom import Classroom
from s2l.record import Result
from s2l.ui import quiz, runs, session
from s2l.ui.backend import SHOWCASE, Backend
from s2l.ui.events import QUIET, in_a_sentence
from s2l.ui.own import person_of_next_run

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class View:
    """The run that the result tabs show, for one visitor.

    shown    its id; "" for none, SHOWCASE for the example
    result   the run; None if there is none, or it is gone
    answers  what this visitor predicted about it
    state    the visitor's session
    person   the person of the next run
    """

    shown: str
    result: Result | None
    answers: dict
    state: dict
    person: str

    @property
    def example(self) -> bool:
        return self.shown == SHOWCASE


class Tab:
    """One tab. By default it draws nothing and has no events."""

    @classmethod
    def build(cls, page: Context) -> Self:
        """Add the components to the page, and those that are fields of a run to `page.fields`."""
        raise NotImplementedError

    @property
    def outputs(self) -> list:
        """The components that `draw` changes."""
        return []

    def draw(self, page: Context, view: View) -> dict:
        """{component: value} for the run that is shown, when the tab is opened or the run changes."""
        return {}

    def connect(self, page: Context) -> None:
        """The events of this tab's own components; all tabs are built by then."""

    def follow(self, page: Context, drawn: Dependency) -> None:
        """What takes seconds and follows the drawing. `drawn` is the event that drew a tab, perhaps another one."""


@dataclass(frozen=True)
class Entry:
    """A tab in the list of the page: its id, which stands in the address, its title, and its class."""

    id: str
    title: str
    kind: type[Tab]


T = TypeVar("T", bound=Tab)


@dataclass
class Context:
    """One page while it is being built, and what its tabs share. Made inside `gr.Blocks`.

    first    first values of the fields
    fields   components of the page that stand for settings of a run, by name (form.py)
    parts    the tabs that were built so far, by id
    select   {tab id: the gr.Tab}, whose `select` is the event of opening it
    """

    backend: Backend
    first: dict
    entries: Sequence[Entry]
    fields: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Tab] = field(default_factory=dict)
    select: dict[str, gr.Tab] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The browser's own copy; the secret only has to stay the same over a restart.
        self.browser = gr.BrowserState(session.EMPTY, storage_key="s2l", secret="s2l-lab")
        self.session = gr.State({"visitor": "", "job": "", "class": ""})
        self.quizzes, self.seen = gr.State({}), gr.State("")
        self.shown = gr.State(SHOWCASE if self.backend.showcase is not None else "")
        self.tab = gr.State(self.entries[0].id)
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        self.drawn_from: list = []  # what a tab is drawn from: the arguments of `draw` after the tab's id, in order

    # --- tabs ---

    def build_tabs(self) -> None:
        """The list of runs, and every tab with its components."""
        self.run_list = gr.Dropdown([], label="Results of the run", visible=False, elem_id="runs")
        with gr.Tabs(elem_id="tabs") as self.tabs:
            for entry in self.entries:
                with gr.Tab(entry.title, id=entry.id) as self.select[entry.id]:
                    self.parts[entry.id] = entry.kind.build(self)

    def part(self, kind: type[T]) -> T:
        """The tab of that class. KeyError where the page has none."""
        for part in self.parts.values():
            if isinstance(part, kind):
                return part
        raise KeyError(f"the page has no tab of the class {kind.__name__}")

    def goes_to(self, button: gr.Button, name: str) -> None:
        """A click on the button opens a tab."""
        button.click(lambda: gr.Tabs(selected=name), None, self.tabs, **QUIET)

    def keeps_fields(self, name: str) -> None:
        """Opening the tab writes the fields into the browser's copy: a refresh gives them back."""

        def keep(data: dict) -> dict:
            form = {n: data[component] for n, component in self.fields.items()}
            return session.changed(data[self.browser], form=form)

        self.select[name].select(keep, {self.browser, *self.fields.values()}, self.browser, **QUIET)

    # --- the run that is shown ---

    def result_of(self, shown: str | None) -> Result | None:
        """The run with that id; None, with a warning on the page, if it no longer exists."""
        try:
            return self.backend.result_of(shown or "")
        except UserError as error:
            gr.Warning(escape(error))
            return None

    def choices_of(self, state: dict, shown: str) -> list[tuple[str, str]]:
        """(name, id) of the runs that this visitor may choose among."""
        showcase = self.backend.showcase
        choices = [("Example: " + runs.what(showcase), SHOWCASE)] if showcase else []
        for job in self.backend.finished(state["visitor"]):
            config = job.config
            choices.append((runs.name_of(config.domain.name, config.finetune.methods, config.preset), job.id))
        if shown and shown not in [value for _, value in choices]:
            choices.append(("Shared run", shown))
        return choices

    def draw(self, name: str, shown: str, quizzes: dict, state: dict, person: str, own: dict) -> dict:
        """A tab, for the run that is shown. `person` and `own` decide the person of the next run."""
        drawn: dict = {self.tab: name}
        if not self.parts[name].outputs:
            return drawn
        view = View(shown, self.result_of(shown), quizzes.get(shown, {}), state, person_of_next_run(person, own))
        return drawn | self.parts[name].draw(self, view)

    def predicts(self, name: str, clicked: Callable, guess: Callable[..., dict | None], *more: Any) -> None:
        """A click that answers a question of a tab: `guess(data[, event])` gives what to keep, or None.

        The answers are kept here and in the browser, and the tab is drawn again.
        """
        outputs = self.parts[name].outputs

        def answered(data: dict, event: gr.EventData) -> dict:
            if (answer := guess(data, event)) is None:
                return {self.tab: gr.skip()}
            shown, quizzes, state, person, own = (data[component] for component in self.drawn_from)
            quizzes = quizzes | {shown: quizzes.get(shown, {}) | answer}
            if state.get("class") and (result := self.result_of(shown)) is not None:
                Classroom(self.backend.jobs).predict(
                    state["class"], state["visitor"], result.key, quiz.clean(quizzes)[shown]
                )
            return self.draw(name, shown, quizzes, state, person, own) | {
                self.quizzes: quizzes,
                self.browser: session.changed(data[self.browser], quiz=quizzes),
            }

        inputs = {*self.drawn_from, self.browser, *more}
        clicked(in_a_sentence(answered), inputs, [self.tab, self.quizzes, self.browser, *outputs], **QUIET)
