"""The Extraction tab: which training photos come out?"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from markupsafe import Markup, escape

from s2l.errors import UserError
from s2l.record import BOTH, Part, Result
from s2l.ui import exposure, html, quiz, runs, words
from s2l.ui.events import QUIET, click_value
from s2l.ui.heavy import ready
from s2l.ui.tab import Context, Tab, View

INTRO = """**Step 5: do training photos come out?** Each model generates many pictures from the same random
[[seed|seeds]]. If one of them is nearly the same as a training photo, that photo is [[extracted]]. [[l2]] is the
distance between their pixels: 0 for identical pictures, 1 between a black one and a white one. The same search among
held-out photos, which the model was not trained on, is the [[control]]: what it finds is likeness, not leakage."""
WORDS = ("before", "after", "held-out photo", "eidetic")
MOST = 60  # cards that are drawn
SHOW = {
    "all": "all training photos",
    "extracted": "extracted, before or after",
    "repeated": "repeated 5 times or more",
    "control": "control: held-out",
}
SORT = {
    "closest": "closest first",
    "after": "closest after the shake",
    "change": "largest change first",
    "repeats": "most repeated first",
}


@dataclass
class Extraction(Tab):
    question: gr.HTML
    guess_box: gr.Column
    guess: gr.Number
    answer: gr.Button
    skip: gr.Button
    box: gr.Column
    said: gr.HTML
    headline: gr.HTML
    show: gr.Radio
    sort: gr.Dropdown
    detail: gr.HTML
    cards: gr.HTML
    histogram: gr.HTML
    next: gr.Button

    @property
    def outputs(self) -> list:
        return [
            self.question, self.guess_box, self.guess, self.skip, self.box, self.said, self.headline, self.show,
            self.sort, self.detail, self.cards, self.histogram,
        ]  # fmt: skip

    @classmethod
    def build(cls, page: Context) -> Extraction:
        return build()

    def draw(self, page: Context, view: View) -> dict:
        return draw(self, view.result, view.answers)

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "compare")

        def gallery(shown: str, show: str, sort: str):
            result = page.result_of(shown)
            # The box of a chosen photo goes: it may not be among those that are shown now.
            return (cards_html(result, show, sort), "") if result else (gr.skip(), gr.skip())

        for component in (self.show, self.sort):
            component.input(gallery, [page.shown, self.show, self.sort], [self.cards, self.detail], **QUIET)

        def card(shown: str, event: gr.EventData):
            result = page.result_of(shown)
            chosen = runs.chosen_photo(result, click_value(event, "pick")) if result else None
            return detail_html(result, *chosen) if result and chosen else gr.skip()

        self.cards.click(card, page.shown, self.detail, **QUIET)

        def guessed(data: dict, event: gr.EventData) -> dict | None:
            if (result := page.result_of(data[page.shown])) is None:
                return None
            try:
                return {"extracted": quiz.check_count(result, data[self.guess])}
            except UserError as error:
                gr.Warning(escape(error))
                return None

        page.predicts("extraction", self.answer.click, guessed, self.guess)
        page.predicts("extraction", self.skip.click, lambda data, event: {"extraction": True})


@dataclass(frozen=True)
class Card:
    """One photo with the seed whose generation came closest to it.

    `l2` has the distances of that seed's generations to the photo, before and after; `nearest` the smallest distance of
    any generation, before and after, which decides whether the photo is extracted.
    """

    photo: int
    generation: int
    l2: tuple[float, float]
    nearest: tuple[float, float]
    repeats: int


def cards(result: Result, of: Part) -> list[Card]:
    """Every photo of one of the two sets, closest first."""

    def make() -> list[Card]:
        ready()
        from s2l.figures import pictures
        from s2l.measure.distances import paired_l2

        record, root = result.record, result.store.root
        pairs = runs.closest(result, of)
        photos, generations = zip(*pairs, strict=True)
        folder = record["folders"]
        originals = pictures(root / folder[of], photos).transpose(0, 3, 1, 2)
        l2 = [paired_l2(pictures(root / folder[when], generations).transpose(0, 3, 1, 2), originals) for when in BOTH]
        nearest = [result.extraction[when][of]["distances"] for when in BOTH]
        repeats = record["domain"]["repeats"] if of == "members" else []
        return [
            Card(
                photo, generation, (float(l2[0][i]), float(l2[1][i])), (nearest[0][photo], nearest[1][photo]),
                repeats[photo] if repeats else 0,
            )
            for i, (photo, generation) in enumerate(pairs)
        ]  # fmt: skip

    return runs.remembered(result, f"cards {of}", make)


def selected(result: Result, show: str, sort: str) -> tuple[Part, list[Card]]:
    """(set, cards) of a filter and an order; an unknown name counts as the first of its kind."""
    of: Part = "nonmembers" if show == "control" else "members"
    delta, found = result.extraction["after"]["delta"], cards(result, of)
    if show == "extracted":
        found = [c for c in found if min(c.nearest) <= delta]
    if show == "repeated":
        found = [c for c in found if c.repeats >= 5]
    keys = {
        "after": lambda c: c.nearest[1],
        "change": lambda c: -abs(c.nearest[1] - c.nearest[0]),
        "repeats": lambda c: (-c.repeats, min(c.nearest)),
    }
    return of, sorted(found, key=keys[sort]) if sort in keys else found


def _trio(result: Result, of: Part, card: Card) -> list[Markup]:
    """Generated before, generated after with the same seed, and the photo they came closest to."""
    delta = result.extraction["after"]["delta"]
    word, kind = ("extracted", "training photo") if of == "members" else ("false alarm", "held-out photo")
    shots = []
    for when, l2 in zip(BOTH, card.l2, strict=True):
        hit = l2 <= delta
        shots.append(
            html.picture(
                runs.picture_uris(result, when, [card.generation])[0],
                f"generation {card.generation} {when} fine-tuning, l2 {l2:.3f} to the {kind}",
                f"{when}: l2 {l2:.3f}" + (f"\n✓ {word}" if hit else ""),
                hit,
            )
        )
    below = kind + (f"\nrepeated {card.repeats} ×" if card.repeats else "")
    photo = runs.picture_uris(result, of, [card.photo])[0]
    return [*shots, html.picture(photo, f"{kind} {card.photo + 1}", below)]


def _in_words(result: Result, of: Part, card: Card) -> str:
    """What a card says to those who do not see it."""
    delta = result.extraction["after"]["delta"]
    kind, hit = ("Training photo", "extracted") if of == "members" else ("Held-out photo", "false alarm")
    sides = (
        f"l2 {l2:.3f} {when}" + (f", {hit}" if l2 <= delta else "") for when, l2 in zip(BOTH, card.l2, strict=True)
    )
    return f"{kind} {card.photo + 1}: {'; '.join(sides)}. See it among all photos."


def cards_html(result: Result, show: str, sort: str) -> Markup:
    """The gallery of a filter and an order; each card can be chosen."""

    def make() -> Markup:
        of, found = selected(result, show, sort)
        if not found:
            return html.block(Markup("<p>No photo of this kind: {}.</p>").format(SHOW.get(show, show)))
        button = Markup('<button type="button" class="card three" data-pick="{} {}" aria-label="{}">{}</button>')
        drawn = Markup("").join(
            button.format(of, card.photo, _in_words(result, of, card), Markup("").join(_trio(result, of, card)))
            for card in found[:MOST]
        )
        of_all = f"the first {MOST} of {len(found)}" if len(found) > MOST else str(len(found))
        return html.block(
            Markup(
                "<p class=quiet>{} photos. Each card shows one seed, before and after, beside the closest photo. "
                'Choose one to see its distance among all photos.</p><div class="pane cards" role="group" '
                'aria-label="Photos with their nearest generations">{}</div>'
            ).format(of_all, drawn)
        )

    return runs.remembered(result, f"gallery {show} {sort}", make)


def detail_html(result: Result, of: Part, photo: int) -> Markup:
    """One photo, large, and where its distance lies among all."""
    card = next(c for c in cards(result, of) if c.photo == photo)
    found = result.extraction
    lines = [
        html.Strip(
            when, found[when]["members"]["distances"], found[when]["nonmembers"]["distances"], card.nearest[i], of
        )
        for i, when in enumerate(BOTH)
    ]
    kind = "training photo" if of == "members" else "held-out photo"
    nearest = f"The nearest of all generations: l2 {card.nearest[0]:.3f} before, {card.nearest[1]:.3f} after."
    delta = found["after"]["delta"]
    among_all = html.strips(
        lines,
        "The l2 to the nearest generation: further left means a closer copy",
        (delta, f"extracted up to {delta:g}"),
    )
    return html.block(
        Markup('<div class="detail" role="status"><h3>{} {}</h3><p>{}</p><div class="shots">{}</div>{}</div>').format(
            kind.capitalize(), photo + 1, nearest, Markup("").join(_trio(result, of, card)), among_all
        )
    )


def histogram_html(result: Result) -> Markup:
    """Folded: how close the generations come, the counts, their growth, and an attacker without the photos."""
    from s2l import figures

    floor = result.extraction["floor"]["mean"]
    drawing = runs.drawn(
        result, "distances", lambda dark, narrow: figures.distance_histogram_figure(result, dark, narrow),
        "Histogram of the distances to the nearest generation, for training photos and held-out photos",
    )  # fmt: skip
    perfect = Markup(
        "<p class=quiet>Even a perfect copy comes no closer than about {:.3f}: that is the error of the model's own "
        "autoencoder.</p>"
    ).format(floor)
    numbers = runs.outcome_html(result, lambda group: group == "Extraction", detail=True)
    return html.block(
        html.fold("distances", "How close the nearest generation comes to every photo", drawing, perfect),
        html.fold("numbers", "The numbers", numbers),
        html.fold("growth", "More generations, more photos", exposure.growth_html(result)),
        html.fold("blind", "An attacker who has none of the photos", exposure.blind_html(result)),
    )


def headline_html(result: Result) -> Markup:
    """What came out before and after the shake, whether that is a change, and how sure that is."""
    verdict, numbers, tone = runs.verdicts(result)[len(result.record["attacks"])]
    change = result.extraction["difference"]
    return html.block(
        Markup(
            '<p class="verdict {}"><b>{}: {}.</b> {} The change is {:+d} [{:+.0f}, {:+.0f}] photos. {}</p>'
        ).format(
            tone, runs.what(result), verdict[:1].lower() + verdict[1:], numbers,
            change["difference"], change["low"], change["high"], exposure.how_sure(result),
        ),
        runs.notes_html(result),
    )  # fmt: skip


def draw(tab: Extraction, result: Result | None, answers: dict) -> dict:
    """Everything that the tab shows for a run: the question, or what came out."""
    hidden = {
        tab.question: gr.update(visible=False), tab.guess_box: gr.update(visible=False),
        tab.skip: gr.update(visible=False), tab.box: gr.update(visible=False),
    }  # fmt: skip
    if result is None or result.record["extraction"] is None:
        text = html.block(runs.EMPTY if result is None else runs.UNKNOWN)
        return hidden | {tab.question: gr.update(value=text, visible=True)}
    found = result.extraction
    change = found["difference"]
    if not quiz.revealed(answers, "extraction"):
        text = html.block(
            Markup(
                '<div class="quiz"><h3>First your prediction: how many come out?</h3><p>Each model generated {:,} '
                "pictures. Before the shake, {} of {} training photos came out. How many after it?</p></div>"
            ).format(found["after"]["n_generations"], change["before"], change["n_members"])
        )
        return hidden | {
            tab.question: gr.update(value=text, visible=True),
            tab.guess_box: gr.update(visible=True),
            tab.guess: gr.update(value=None, info=f"a number from 0 to {change['n_members']}"),
            tab.skip: gr.update(visible=True),
        }
    return hidden | {
        tab.box: gr.update(visible=True),
        tab.said: quiz.extracted_html(result, answers),
        tab.headline: headline_html(result),
        tab.show: "all",
        tab.sort: "closest",
        tab.detail: "",
        tab.cards: cards_html(result, "all", "closest"),
        tab.histogram: histogram_html(result),
    }


def warm(result: Result) -> None:
    """Draw and cache what the first visitor would otherwise wait for."""
    if result.record["extraction"] is not None:
        for show in SHOW:
            cards_html(result, show, "closest")
        histogram_html(result)


def build() -> Extraction:
    """Add the tab's components to the page."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    question = gr.HTML(html.waiting("Fetching the pictures of the run …"), elem_id="quiz-extraction")
    with gr.Column(visible=False) as guess_box:
        guess = gr.Number(  # empty at first: a slider would always suggest a number
            None, label="Guess: training photos that come out after the shake", precision=0, placeholder="your guess",
            elem_id="quiz-extracted",
        )  # fmt: skip
        answer = gr.Button("Reveal", variant="primary", elem_id="quiz-reveal-extraction")
    skip = gr.Button("Skip the question, show the result", visible=False, size="sm", elem_id="quiz-skip-extraction")
    with gr.Column(visible=False) as box:
        said = gr.HTML(elem_id="quiz-said-extraction")
        headline = gr.HTML(elem_id="extraction-headline")
        with gr.Row():
            show = gr.Radio(
                [(t, n) for n, t in SHOW.items()], value="all", label="Show", min_width=320, scale=4, elem_id="show"
            )
            sort = gr.Dropdown(
                [(t, n) for n, t in SORT.items()], value="closest", label="Order", elem_id="sort", min_width=200
            )
        detail = gr.HTML(elem_id="extraction-detail")
        gallery = gr.HTML(elem_id="extraction", js_on_load=html.PICK)
        histogram = gr.HTML(elem_id="distances", js_on_load=html.FOLDS)
    following = gr.Button("Next: compare →", variant="primary", elem_id="next-compare")
    return Extraction(
        question, guess_box, guess, answer, skip, box, said, headline, show, sort, detail, gallery, histogram, following
    )
