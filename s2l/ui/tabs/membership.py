"""The Membership tab: which photos was the model trained on?"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from markupsafe import Markup

from s2l.errors import UserError, unknown
from s2l.record import Part, Result, When
from s2l.report.verdicts import short_caution
from s2l.ui import ask, exposure, html, photo, quiz, runs, words
from s2l.ui.events import LATEST, QUIET, click_value, in_a_sentence, number
from s2l.ui.form import FIELDS
from s2l.ui.tab import Context, Tab, View

INTRO = """**Step 4: was this photo in the training set?** An attack gives every photo a [[score]]; members should score
higher. Accuse the highest ones, few or many: the [[ROC curve]] shows how many members that finds (up) and how many
innocents it accuses (right). The diagonal is a coin toss, an [[AUC]] of 0.5; 1 is perfect. Shaded, and in brackets:
95 % [[interval|intervals]]."""
WORDS = ("SecMI", "Loss", "SimA", "PIA", "TPR", "FPR", "threshold", "reference", "blind control", "paired difference")
TO_THE_TOP = "() => document.querySelector('#tabs')?.scrollIntoView()"  # where the answer appears
MOST = 320  # photos of the ranking that are drawn


@dataclass
class Membership(Tab):
    question: gr.HTML
    auc_box: gr.Column
    auc: gr.Slider
    answer: gr.Button
    skip: gr.Button
    box: gr.Column
    said: gr.HTML
    headline: gr.HTML
    attack: gr.Radio
    when: gr.Radio
    accused: gr.Slider
    point: gr.HTML
    roc: gr.HTML
    ranked: gr.HTML
    detail: gr.HTML
    chosen: gr.State
    scores: gr.HTML
    next: gr.Button
    again: gr.Button | None = None
    ask: ask.Ask | None = None

    @property
    def outputs(self) -> list:
        return [
            self.question, self.auc_box, self.auc, self.answer, self.skip, self.box, self.said, self.headline,
            self.attack, self.when, self.accused, self.point, self.roc, self.ranked, self.detail, self.chosen,
            self.scores, *(self.ask.outputs if self.ask else []),
        ]  # fmt: skip

    @classmethod
    def build(cls, page: Context) -> Membership:
        tab = build()
        tab.ask = ask.Ask.build(page)
        tab.again = choice_of_attacks(page)
        return tab

    def draw(self, page: Context, view: View) -> dict:
        asked = self.ask.draw(page, view) if self.ask else {}
        return draw(self, view.result, view.answers, view.example) | asked

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "extraction")
        if self.again is not None:
            page.goes_to(self.again, "finetune")  # running.py starts the run
        if self.ask is not None:
            self.ask.connect(page)
        self._operating_point(page)
        self._predictions(page)

        def one(shown: str, attack: str, event: gr.EventData):
            result, picked = page.result_of(shown), click_value(event, "pick")
            chosen = runs.chosen_photo(result, picked) if result and attack in result.record["attacks"] else None
            return (photo.detail_html(result, *chosen, attack), picked) if result and chosen else (gr.skip(), gr.skip())

        self.ranked.click(one, [page.shown, self.attack], [self.detail, self.chosen], **QUIET)

    def _operating_point(self, page: Context) -> None:
        """The slider and the choice of an attack move the threshold."""
        choice, linked = [page.shown, self.attack, self.when, self.accused], [self.point, self.roc, self.ranked]

        def move(shown: str, attack: str, when: str, accused: float) -> dict:
            if (result := page.result_of(shown)) is None:
                return {self.point: gr.skip()}
            words, dot, spared = follow(result, attack, when, _count(accused))
            return {self.point: words, self.roc: gr.HTML(**dot), self.ranked: gr.HTML(spared=spared)}

        def other(shown: str, attack: str, when: str, accused: float, picked: str) -> dict:
            if (result := page.result_of(shown)) is None:
                return {self.point: gr.skip()}
            drawn = redraw(self, result, attack, when, _count(accused))
            chosen = runs.chosen_photo(result, picked)
            return drawn | {self.detail: photo.detail_html(result, *chosen, attack) if chosen else ""}

        self.accused.input(in_a_sentence(move), choice, linked, **LATEST)
        for component in (self.attack, self.when):
            component.input(in_a_sentence(other), [*choice, self.chosen], [*linked, self.scores, self.detail], **QUIET)

    def _predictions(self, page: Context) -> None:
        """Predict, then reveal: which photo was trained on, and how well the attack does."""

        def chose(data: dict, event: gr.EventData) -> dict | None:
            result, answers = page.result_of(data[page.shown]), data[page.quizzes].get(data[page.shown], {})
            rounds, picked = answers.get("rounds", []), click_value(event, "pick")
            if result is None or len(rounds) >= quiz.ROUNDS or picked not in [str(i) for i in range(quiz.CHOICES)]:
                return None
            _, right = quiz.four(result, len(rounds))
            return {"rounds": [*rounds, [int(picked), right]]}

        page.predicts("attack", self.question.click, chose)
        self.answer.click(None, None, None, js=TO_THE_TOP, **QUIET)
        page.predicts(
            "attack", self.answer.click, lambda data, event: {"auc": number(data[self.auc], "the guess")}, self.auc
        )
        page.predicts("attack", self.skip.click, lambda data, event: {"attack": True})


# --- the ranking and the point on the curve ------------------------------------------------------


def ranking(result: Result, attack: str, when: When) -> list[tuple[Part, int, float]]:
    """(set, index, score) of every photo, highest score first; in a tie, held-out photos first (the attack's worst)."""
    members, nonmembers = result.scores(attack, when)
    rows: list[tuple[Part, int, float]] = [("nonmembers", i, float(s)) for i, s in enumerate(nonmembers)]
    rows += [("members", i, float(s)) for i, s in enumerate(members)]
    return sorted(rows, key=lambda row: -row[2])


def _count(accused: object) -> int:
    return int(number(accused, "the number of accused photos"))


def model_of(when: str) -> When:
    """The model that a visitor chose: "before" or "after". Raises UserError."""
    for known in photo.WHENS:
        if known == when:
            return known
    raise unknown("model", when, photo.WHENS)


def operating_point(result: Result, attack: str, when: str, accused: int) -> dict:
    """What happens when the `accused` photos with the highest scores are called members.

    {"accused", "threshold", "members_found", "wrongly_accused", "tpr", "fpr", "members", "held_out"}. Raises UserError.
    """
    if attack not in result.record["attacks"]:
        raise unknown("attack", attack, result.record["attacks"])
    model = model_of(when)
    order = ranking(result, attack, model)
    if not 0 <= accused <= len(order):
        raise UserError(f"the number of accused photos should be from 0 to {len(order)} (given: {accused})")
    found = sum(of == "members" for of, _, _ in order[:accused])
    n_members, n_held_out = (len(s) for s in result.scores(attack, model))
    return {
        "accused": accused,
        "threshold": order[accused - 1][2] if accused else None,
        "members_found": found,
        "wrongly_accused": accused - found,
        "tpr": found / n_members,
        "fpr": (accused - found) / n_held_out,
        "members": n_members,
        "held_out": n_held_out,
    }


def point_html(point: dict) -> Markup:
    """The point in words."""
    by_chance = point["accused"] * point["members"] / (point["members"] + point["held_out"])
    threshold = Markup()
    if point["threshold"] is not None:
        threshold = Markup(' title="threshold: a score of {:.4g}"').format(point["threshold"])
    return html.block(
        Markup(
            '<p role="status"><b{title}>{accused} accused: {members_found} are members, {wrongly_accused} are '
            "innocent.</b> That finds {found:.0f} % of the {members} members (true positive rate) and accuses "
            "{wronged:.1f} % of the {held_out} held-out photos (false positive rate). Accusing as many at random "
            "would find about {by_chance:.0f}.</p>"
        ).format(
            title=threshold, found=100 * point["tpr"], wronged=100 * point["fpr"], by_chance=by_chance, **point
        )
    )  # fmt: skip


def frame(result: Result, attack: str) -> tuple[float, float, float, float]:
    """Where the axes of the drawn curve lie (see figures.axes_frame)."""
    from s2l import figures

    return runs.remembered(result, f"frame {attack}", lambda: figures.axes_frame(figures.roc_figure(result, attack)))


def place(result: Result, attack: str, point: dict) -> dict[str, float]:
    """The point's place on the drawn curve, in percent of the picture."""
    left, top, right, bottom = frame(result, attack)
    return {
        "x": round(100 * (left + (right - left) * point["fpr"]), 2),
        "y": round(100 * (bottom + (top - bottom) * point["tpr"]), 2),
    }


def roc_html(result: Result, attack: str, log: bool) -> Markup:
    """The curve before and after, with bands; the linear one has the point of the slider on it."""
    from s2l import figures

    found = result.record["attacks"][attack]
    aucs = " and ".join(f"{found[when]['auc']:.3f} {when}" for when in photo.WHENS)
    if log:
        alt = "The same ROC curve with both axes logarithmic, which enlarges the part with few false accusations"
    else:
        alt = (
            f"ROC curve of {found['title']}: AUC {aucs} fine-tuning. {short_caution(result.record['control'])}".rstrip()
        )
    name = f"{'log ' if log else ''}roc {attack}"
    drawing = runs.drawn(result, name, lambda dark, _: figures.roc_figure(result, attack, log, dark), alt)
    dot = Markup() if log else Markup("<span class=dot></span>")
    return html.block(Markup('<div class="roc">{}{}</div>').format(drawing, dot))


def ranked_html(result: Result, attack: str, when: When) -> Markup:
    """Every photo, highest score first. A style rule frames the accused ones."""

    def make() -> Markup:
        order = ranking(result, attack, when)[:MOST]
        cards = []
        for of, index, _ in order:
            word = "member" if of == "members" else "held out"
            cards.append(
                html.choice(
                    runs.picture_uris(result, of, [index])[0], f"{word} photo {index + 1}", word,
                    pick=f"{of} {index}", kind=of,
                )
            )  # fmt: skip
        total = sum(len(s) for s in result.scores(attack, when))
        more = f" The first {MOST} of {total} are shown." if total > MOST else ""
        return html.block(
            Markup(
                "<p class=quiet><b>All photos, the most suspicious first ({when}).</b> Framed: accused. Square: "
                "really a member; round: innocent. Choose one to see its scores.{more}</p>"
                '<div class="pane choose ranked" role="group" aria-label="All photos, the most suspicious first">'
                "{cards}</div>"
            ).format(when=photo.WHENS[when], more=more, cards=Markup("").join(cards))
        )

    return runs.remembered(result, f"ranked {attack} {when}", make)


# Frames and fades without drawing 160 pictures again.
FLAGS = """.ranked .pic:nth-child(n+${spared}) { border-color: transparent; }
.ranked .pic:nth-child(n+${spared}) img { opacity: .42; }"""
DOT = """.dot { left: ${x}%; top: ${y}%; }"""


def scores_html(result: Result, attack: str) -> Markup:
    """Folded: few false accusations, the set as a whole, the histograms, and all that was measured of this attack."""
    from s2l import figures

    title = result.record["attacks"][attack]["title"]
    drawing = runs.drawn(
        result, f"histogram {attack}",
        lambda dark, narrow: figures.score_histogram_figure(result, attack, dark, narrow),
        f"Histogram of {title} scores of members and held-out photos, before and after: where they overlap, "
        "the attack cannot tell them apart",
    )  # fmt: skip
    few = Markup("<p class=quiet>Both axes are logarithmic: each step to the left is ten times fewer innocents.</p>")
    numbers = runs.outcome_html(result, lambda group: group in (title, "Blind control"), detail=True)
    note = Markup(
        "<p class=quiet>TPR at 1 % FPR depends on very few held-out photos here; where there are too few, no number is "
        "given. The blind control never sees the model: if its AUC is far from 0.5, the two groups of photos differ by "
        "themselves.</p>"
    )
    return html.block(
        html.fold(
            "few", "Accusing hardly anybody wrongly: the curve enlarged, and the most exposed photos",
            Markup('<div class="two"><div>{}{}</div><div>{}</div></div>').format(
                few, roc_html(result, attack, True), exposure.exposed_html(result, attack)
            ),
        ),
        html.fold("set", "All photos as one set: is there a leak at all?", exposure.set_html(result, attack)),
        html.fold("overlap", "How the scores of members and held-out photos overlap", drawing),
        html.fold(
            "verdicts", "Attack by attack: what the shake changed",
            runs.verdicts_html(result, len(result.record["attacks"])),
        ),
        html.fold("numbers", "The numbers", numbers, note),
    )  # fmt: skip


# --- the tab -------------------------------------------------------------------------------------


def follow(result: Result, attack: str, when: str, accused: int) -> tuple[Markup, dict, int]:
    """(words, place of the dot, number of the first photo that is not accused) for a position of the slider."""
    point = operating_point(result, attack, when, accused)
    return point_html(point), place(result, attack, point), accused + 1


def draw(tab: Membership, result: Result | None, answers: dict, example: bool) -> dict:
    """Everything that the tab shows for a run: the question, or what was measured."""
    if result is None or not result.record["attacks"]:
        text = runs.headline_html(result, example) + (Markup() if result is None else html.block(runs.UNKNOWN))
        return _hidden(tab) | {tab.question: gr.update(value=text, visible=True)}
    if quiz.possible(result) and not quiz.revealed(answers, "attack"):
        asked = len(answers.get("rounds", [])) >= quiz.ROUNDS
        found = quiz.asked_attack(result)
        label = (
            f"Guess: the AUC of the {found['title']} attack after the shake. Before it was "
            f"{found['before']['auc']:.3f}; 0.5 is guessing, 1 is perfect. {short_caution(result.record['control'])}"
        ).rstrip()
        return _hidden(tab) | {
            tab.question: gr.update(value=quiz.question_html(result, answers), visible=True),
            tab.auc_box: gr.update(visible=asked),
            tab.auc: gr.update(label=label),  # a slow answer must not undo a guess
            tab.skip: gr.update(visible=True),
        }
    names = {name: found["title"] for name, found in result.record["attacks"].items()}
    attack = quiz.asked_name(result)  # the one that was just asked about
    total = sum(len(s) for s in result.scores(attack, "after"))
    accused = result.record["domain"]["n_members"] // 2
    words, dot, spared = follow(result, attack, "after", accused)
    return {
        tab.question: gr.update(visible=False),
        tab.auc_box: gr.update(visible=False),
        tab.skip: gr.update(visible=False),
        tab.box: gr.update(visible=True),
        tab.said: quiz.said_html(result, answers),
        tab.headline: exposure.headline_html(result, example),
        tab.attack: gr.update(choices=[(title, name) for name, title in names.items()], value=attack),
        tab.when: "after",
        tab.accused: gr.update(maximum=total, value=accused),
        tab.point: words,
        tab.roc: gr.HTML(roc_html(result, attack, False), **dot),
        tab.ranked: gr.HTML(ranked_html(result, attack, "after"), spared=spared),
        tab.detail: "",
        tab.chosen: "",
        tab.scores: scores_html(result, attack),
    }


def _hidden(tab: Membership) -> dict:
    return {
        tab.question: gr.update(visible=False),
        tab.auc_box: gr.update(visible=False),
        tab.skip: gr.update(visible=False),
        tab.box: gr.update(visible=False),
    }


def redraw(tab: Membership, result: Result, attack: str, when: str, accused: int) -> dict:
    """Another attack or another model: the curve, the ranking and the numbers."""
    words, dot, spared = follow(result, attack, when, accused)
    return {
        tab.point: words,
        tab.roc: gr.HTML(roc_html(result, attack, False), **dot),
        tab.ranked: gr.HTML(ranked_html(result, attack, model_of(when)), spared=spared),
        tab.scores: scores_html(result, attack),
    }


def warm(result: Result) -> None:
    """Draw and cache what the first visitor would otherwise wait for."""
    for attack in result.record["attacks"]:
        frame(result, attack)
        roc_html(result, attack, False)
        for when in photo.WHENS:
            ranked_html(result, attack, when)
        scores_html(result, attack)


def choice_of_attacks(page: Context) -> gr.Button:
    """Which attacks the next run has, and a button that runs it; `finetune.attack_choices` fills the list later."""
    with gr.Accordion("Try other attacks: choose those of the next run", open=False, elem_id="choose-attacks"):
        page.fields["attacks"] = gr.CheckboxGroup(
            list(page.first["attacks"]), value=page.first["attacks"], label=FIELDS["attacks"].label, elem_id="attacks",
            info="what was computed before, such as the fine-tuning of the same settings, is not computed again",
        )  # fmt: skip
        return gr.Button("Run step 3 with these attacks", elem_id="run-attacks")


def build() -> Membership:
    """Add the tab's components to the page."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    question = gr.HTML(html.waiting("Fetching the photos of the run …"), js_on_load=html.PICK, elem_id="quiz-photo")
    with gr.Column(visible=False) as auc_box:
        auc = gr.Slider(0.3, 1, 0.5, step=0.01, label="Guess the AUC", elem_id="quiz-auc")
        answer = gr.Button("Reveal", variant="primary", elem_id="quiz-reveal")
    skip = gr.Button("Skip the questions, show the result", visible=False, size="sm", elem_id="quiz-skip")
    with gr.Column(visible=False) as box:
        said = gr.HTML(elem_id="quiz-said")
        headline = gr.HTML(elem_id="headline")
        with gr.Row():  # one view: the threshold moves the point and the frames of the ranking together
            with gr.Column(min_width=330, scale=3):
                roc = gr.HTML(elem_id="roc", css_template=DOT, x=-100, y=-100)
                point = gr.HTML(elem_id="point")
            with gr.Column(min_width=330, scale=5):
                with gr.Row():
                    attack = gr.Radio([], label="Attack", elem_id="attack", min_width=150, scale=3)
                    when = gr.Radio(
                        [(t, n) for n, t in photo.WHENS.items()], value="after", label="Which model", elem_id="when",
                        min_width=300, scale=5,
                    )  # fmt: skip
                accused = gr.Slider(
                    0, 100, 10, step=1, label="Threshold: how many photos do you accuse?", elem_id="accused"
                )
                detail, chosen = gr.HTML(elem_id="photo-detail"), gr.State("")
                ranked = gr.HTML(elem_id="ranked", css_template=FLAGS, spared=1, js_on_load=html.PICK)
        scores = gr.HTML(elem_id="scores", js_on_load=html.FOLDS)
    following = gr.Button("Next: what comes out →", variant="primary", elem_id="next-extraction")
    return Membership(
        question, auc_box, auc, answer, skip, box, said, headline, attack, when, accused, point, roc, ranked,
        detail, chosen, scores, following,
    )  # fmt: skip
