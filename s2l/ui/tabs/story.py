"""The first tab: what leaked, in pictures (leak.py), and how it was done. Shown before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from markupsafe import Markup

from s2l.record import Result
from s2l.report import render as report
from s2l.report import verdicts
from s2l.report.findings import SAME_SCORES, auc_in_words, is_unchanged
from s2l.ui import html, leak, runs, words
from s2l.ui.backend import Backend
from s2l.ui.events import QUIET, click_value
from s2l.ui.overall import committed, overall_html
from s2l.ui.tab import Context, Tab

INTRO = """**In one minute.** A text-to-image model was trained on private photos. Somebody who has the model, but
none of the photos, lets it generate pictures of one person, and fine-tunes it on those pictures: the [[shake]]. Does
the model then give away more about the photos? The paper *Shake to Leak* (2024) found that it does, on Stable
Diffusion. Below is a run of ours on a small model. Move the slider, read the numbers, then make your own
prediction."""
WORDS = (
    "l2",
    "AUC",
    "ROC curve",
    "SecMI",
    "Loss",
    "SimA",
    "held-out photo",
    "shake",
    "un-shake",
    "seed",
    "buried memory",
)
N_SHOWN = 6
# The end of the Report tab, which is drawn a moment after it is opened.
TO_PROTECTION = """() => {
  let left = 50;
  const wait = setInterval(() => {
    const end = document.querySelector("#closing .protects");
    if (end) end.scrollIntoView();
    if (end || !(left -= 1)) clearInterval(wait);
  }, 200);
}"""


@dataclass
class Story(Tab):
    leak: gr.HTML
    how: gr.HTML
    next: gr.Button
    attack: gr.Button
    protects: gr.Button

    @classmethod
    def build(cls, page: Context) -> Story:
        return build(page.backend)

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "target")
        page.goes_to(self.attack, "attack")
        page.goes_to(self.protects, "report")
        self.protects.click(None, None, None, js=TO_PROTECTION, **QUIET)

        def another(event: gr.EventData):
            person = click_value(event, "person")
            return (leak.screen(person), flow_html(person)) if person in leak.shipped() else (gr.skip(), gr.skip())

        def opened(event: gr.EventData):
            tab = click_value(event, "pick")
            return gr.Tabs(selected=tab) if tab in page.select else gr.skip()

        self.how.click(opened, None, page.tabs, **QUIET)
        self.leak.click(another, None, [self.leak, self.how], **QUIET)


def slider(result: Result) -> Markup:
    """Pictures of the same seeds before and after, above the training photos that are closest to them."""
    folders = result.record["folders"]
    if result.record["extraction"] is not None:
        photos, generations = zip(*runs.closest(result, "members")[:N_SHOWN], strict=True)
    else:
        photos, generations = (), tuple(range(N_SHOWN))
    before, after = (runs.picture_uris(result, when, generations) for when in ("before", "after"))
    rows = [(b, a, f"generation {g}") for b, a, g in zip(before, after, generations, strict=True)]
    name = result.record["domain"]["name"]
    parts = [
        Markup(
            "<h3>What the model draws for “a photo of {}”: same random seeds, before and after the shake</h3>"
        ).format(name),
        html.before_after(rows, "Slide from before to after fine-tuning"),
    ]
    if photos and "members" in folders:
        nearest = [
            html.picture(uri, f"training photo {i + 1} of {name}")
            for uri, i in zip(runs.picture_uris(result, "members", photos), photos, strict=True)
        ]
        parts.append(
            Markup(
                '<p class="quiet">Below each one: the private training photo closest to it. {} of {} photos are '
                "shown: those with the closest generations, before or after.</p>"
                '<div class="ba"><div class="row">{}</div></div>'
            ).format(len(photos), result.record["domain"]["n_members"], Markup("").join(nearest))
        )
    return Markup("").join(parts)


def _card(title: str, before: str, after: str, small: str, verdict: str, tone: str) -> Markup:
    card = Markup(
        '<div class="card {tone}"><p>{title}</p><p class="big">{before} → {after}</p><p>{small}</p>'
        "<p><b>{verdict}.</b></p></div>"
    )
    return card.format(title=title, before=before, after=after, small=small, verdict=verdict, tone=tone)


def headlines_html(result: Result) -> Markup:
    """The main numbers with intervals: how well an attack works, how many photos came out, and both models together.

    What later tabs ask the visitor to predict is left out: the count after the shake, and every other attack.
    """
    record, words = result.record, runs.verdicts(result)
    cards, tones = [], []
    for found in list(record["attacks"].values())[:1]:  # the run's first attack: not the one that looks best
        change, (verdict, _, tone) = found["difference"], words[0]
        tones.append(tone)
        paired = f"change {change['difference']:+.3f}, 95 % interval {change['low']:+.3f} to {change['high']:+.3f}"
        cards.append(
            _card(
                f"How well the {found['title']} attack tells training photos from others (AUC; 0.5 is guessing)",
                f"{found['before']['auc']:.2f}",
                f"{found['after']['auc']:.2f}",
                f"Before {auc_in_words(found['before'])}, after {auc_in_words(found['after'])}; "
                f"{SAME_SCORES if is_unchanged(found) else paired}.",
                verdict,
                tone,
            )
        )
    if (extraction := record["extraction"]) is not None:
        cards.append(
            _card(
                f"Training photos that came out, of {extraction['difference']['n_members']} (copies within an l2 of "
                f"{extraction['before']['delta']:g})",
                str(extraction["difference"]["before"]),
                "?",
                "The first number is before the shake. As a control, the same search finds "
                f"{extraction['before']['nonmembers']['distinct']} of "
                f"{extraction['before']['nonmembers']['n_references']} photos that the model was not trained on.",
                "How many after it? Step 5 asks for your guess, then shows the count and its interval",
                "",
            )
        )
    if (reference := verdicts.reference_of(record)) is not None:
        change, (verdict, _, tone) = reference["difference"], words[-1]
        tones.append(tone)
        alone = record["attacks"][verdicts.REFERENCED]
        cards.append(
            _card(
                f"An attacker who keeps both models: the {alone['title']} attack before, and with the fine-tuned "
                "model as its reference (AUC)",
                f"{alone['before']['auc']:.2f}",
                f"{reference['auc']:.2f}",
                f"Alone {auc_in_words(alone['before'])}, together {auc_in_words(reference)}; change "
                f"{change['difference']:+.3f}, 95 % interval {change['low']:+.3f} to {change['high']:+.3f}.",
                verdict,
                tone,
            )
        )
    note = (
        "An interval that contains 0 means: this run cannot tell the change from chance."
        if not any(tones)
        else "At least one of these AUCs rose by more than chance explains."
        if "up" in tones
        else "Every AUC that changed by more than chance explains fell: here the shake made the attack weaker."
    )
    if record["domain"].get("role") == "calibration":
        note += (
            f" Our settings were chosen on {record['domain']['name']} among others, so this result may look better "
            "than one for a new person."
        )
    secmi = record["attacks"].get("secmi")
    if reference is not None and secmi is not None and secmi["shake_reference"] is not None:
        change = secmi["shake_reference"]["difference"]
        note += f" With both models together, the AUC of the SecMI attack changes by {change['difference']:+.3f}."
    return Markup(
        '<div class="heads">{}</div><p class="quiet">{} One person and one run: the Compare tab has more people and '
        "the paper's own numbers.</p>"
    ).format(Markup("").join(cards), note)


def _flow(
    name: str, private: Sequence[str], drawn: Sequence[str], after: Sequence[str], asked: Sequence[str] = ()
) -> Markup:
    """The attack in four boxes, each with pictures (data URIs) of one person and a button that opens its step.

    A box without pictures has only words. `asked` are photos of which nobody says here whether they were trained on.
    """

    def thumbs(uris: Sequence[str], alt: str) -> Markup:
        return html.pictures(html.picture(uri, f"{alt} {i + 1}") for i, uri in enumerate(uris)) if uris else Markup()

    steps = (
        ("target", "1", "Private photos", f"The model was trained on photos of {name}. Nobody outside has them.",
         thumbs(private, "training photo")),
        ("sp-set", "2", "Generate",
         f"The attacker knows the name and generates pictures of {name} with the model: the SP set.",
         thumbs(drawn, "picture that the base model draws")),
        ("finetune", "3", "Shake", "The same model is fine-tuned on these pictures. No private photo is involved.",
         thumbs(after, "generation after fine-tuning")),
        ("attack", "4", "Attack, twice", "Which photos was the model trained on? Which come out? Before and after.",
         thumbs(asked, "trained on, or not? Photo")),
    )  # fmt: skip
    box = Markup(
        '<li class=card><h4>{2}</h4><p>{3}</p>{4}<button type="button" data-pick="{0}">Open step {1} →</button></li>'
    )
    items = Markup("").join(box.format(*step) for step in steps)
    return Markup('<h3>How it works</h3><ol class="flow">{}</ol>').format(items)


def flow_html(person: str) -> Markup:
    """How it works, with the pictures of the person on the first screen; empty where there is nobody of that name."""
    pictures = leak.steps_of(person)
    return html.block(_flow(person, *pictures)) if pictures else Markup()


def _flow_of(result: Result) -> Markup:
    """How it works, with the pictures of a run."""
    folders, name = result.record["folders"], result.record["domain"]["name"]
    sets = ("members", "sp_set", "after")
    return _flow(name, *(runs.picture_uris(result, of, range(4)) if of in folders else [] for of in sets))


def story_html(result: Result | None) -> Markup:
    """Everything from one finished run, for a server that shows a run of its own."""
    if result is None:
        return html.block(
            Markup(
                "<p>There is no finished example on this server: start with the next step and make your own run.</p>"
            )
        )
    return html.block(slider(result), headlines_html(result), _flow_of(result))


def first_picture(backend: Backend) -> Markup:
    """What shows while the page loads: the first screen's pictures, or those of the server's own run."""
    if backend.shows_ours and (person := leak.first_person()):
        return leak.pair_of(person)
    return slider(backend.showcase) if backend.showcase is not None else Markup()


def build(backend: Backend) -> Story:
    """Add the tab's components to the page."""
    screen = leak.screen(leak.first_person()) if backend.shows_ours else Markup()
    seen = gr.HTML(screen, elem_id="leak", js_on_load=leak.SCRIPT.read_text(encoding="utf-8"), visible=bool(screen))
    gr.HTML(overall_html(committed()) if screen else "", elem_id="overall")
    gr.HTML(html.block(words.line(WORDS)))
    with gr.Row():
        following = gr.Button("Run it yourself: choose a person →", variant="primary", elem_id="next-target")
        attack = gr.Button(
            "Predict, then see an attack →", visible=backend.showcase is not None, elem_id="story-attack"
        )
        protects = gr.Button("What protects people? →", visible=backend.showcase is not None, elem_id="story-protects")
    if screen:
        how = gr.HTML(flow_html(leak.first_person()), elem_id="story", js_on_load=html.PICK)
    else:
        gr.HTML(words.lead(INTRO), elem_classes="s2l-lead")
        how = gr.HTML(story_html(backend.showcase), elem_id="story", js_on_load=html.PICK)
    gr.HTML(html.block(Markup("<p class=quiet>{}</p>").format(report.RESPONSIBLE_USE)))
    return Story(seen, how, following, attack, protects)
