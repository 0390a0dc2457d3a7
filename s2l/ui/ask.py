"""Part of the Membership tab: was this one in there? One photo of the visitor's own, judged on the base model.

The browser cuts and scales the photo (ask.js), so a few thousand pixels are all that is sent. They are judged and
forgotten: nothing is stored.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from markupsafe import Markup
from PIL import Image

from s2l.config import LAB
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.record import Result
from s2l.ui import html
from s2l.ui.events import PRIVATE, in_a_sentence
from s2l.ui.heavy import ready
from s2l.ui.tab import Context, Tab, View

if TYPE_CHECKING:
    from s2l.pipeline.one_photo import OnePhoto

PREFIX = "data:image/png;base64,"
MAX_CHARACTERS = 400_000  # of a picture that is sent; the lab's have about 12,000
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
ATTACK = "loss"  # the one that the verdict goes by
LEVEL = 0.05  # the share of innocent photos that the attacker accepts to accuse
KINDS = {
    "often": "a training photo repeated often", "once": "one seen once per pass", "saved": "one saved again as JPEG",
    "new": "a photo drawn just now",
}  # fmt: skip
_judged = count(1)


@dataclass
class Ask(Tab):
    """The question, and the answer below it."""

    question: gr.HTML
    answer: gr.HTML

    @property
    def outputs(self) -> list:
        return [self.question, self.answer]

    @classmethod
    def build(cls, page: Context) -> Ask:
        with gr.Accordion("Was this one in there? Try a photo of your own", open=False, elem_id="ask"):
            question = gr.HTML(question_html(None), js_on_load=SCRIPT, done=0, elem_id="ask-photo")
            return cls(question, gr.HTML(elem_id="ask-answer"))

    def draw(self, page: Context, view: View) -> dict:
        return {self.question: question_html(view.result), self.answer: ""}

    def connect(self, page: Context) -> None:
        def asked(shown: str, event: gr.EventData):
            if (result := page.result_of(shown)) is None:
                raise UserError("there is no run to ask: choose one first")
            return gr.HTML(done=next(_judged)), answer_html(result, event._data)

        # One at a time: a model computes on all cores.
        one = PRIVATE | {"concurrency_limit": 1, "show_progress": "minimal"}
        self.question.click(in_a_sentence(asked), page.shown, [self.question, self.answer], **one)


def question_html(result: Result | None) -> Markup:
    """What to choose, and what happens with it; without buttons for a run that cannot be asked."""
    lab = find_lab(LAB if result is None else result.record["config"]["model"])
    if result is None or lab is None:
        return html.block(Markup("<p>Only a lab's run can be asked: of another model nobody knows the answer.</p>"))
    side, name = lab.resolution, result.record["config"]["domain"]["name"]
    takes = Markup("").join(
        Markup('<button type="button" data-take="{}">{}</button>').format(kind, text) for kind, text in KINDS.items()
    )
    return html.block(
        Markup(
            "<p>Choose any picture, or drop it here. The attacker believes that it shows {name}, and asks the base "
            "model. Your browser cuts it to {side} × {side} pixels; only these are sent, judged and forgotten.</p>"
            '<div class="ask" data-side="{side}"><label>a picture <input type="file" accept="image/*"></label>'
            '<span>or try</span>{takes}</div><p role="status" class="quiet" data-says></p>'
        ).format(name=name, side=side, takes=takes)
    )


def answer_html(result: Result, sent: object) -> Markup:
    """The verdict on what the page sent: {"pixels": data URI} or {"take": kind, "number": which}. Raises UserError."""
    ready()
    from s2l.pipeline import one_photo

    if not isinstance(sent, dict):
        raise UserError("choose a picture")
    if sent.get("unreadable") is True:
        return Markup()  # the page says why; an older answer must not stand below that
    if (kind := sent.get("take")) is not None:
        number = sent.get("number")
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError("the number of a photo should be a whole number from 0 on")
        pixels = one_photo.example(result, str(kind), number)
    else:
        pixels = pixels_of(sent.get("pixels"), one_photo.side_of(result))
    return verdict_html(result, pixels, one_photo.judge(pixels, result))


def pixels_of(sent: object, side: int) -> np.ndarray:
    """(side, side, 3) uint8 of a PNG as a data URI. Raises UserError for anything else."""
    allowed = f"send a PNG of {side} x {side} pixels as a data URI of at most {MAX_CHARACTERS:,} characters"
    if not isinstance(sent, str) or not sent.startswith(PREFIX) or len(sent) > MAX_CHARACTERS:
        raise UserError(allowed)
    try:
        data = base64.b64decode(sent.removeprefix(PREFIX), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.size == (side, side):
                return np.asarray(picture.convert("RGB"))
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    raise UserError(allowed)


def verdict_html(result: Result, pixels: np.ndarray, found: OnePhoto) -> Markup:
    """What the attacks say of a photo, how far that can be trusted, and what is true."""
    name = result.record["config"]["domain"]["name"]
    rows = [
        (standing.title, f"{100 * (1 - standing.beaten):.0f} %", f"{100 * (1 - standing.members):.0f} %")
        for standing in found.standings.values()
    ]
    head = ("attack", "innocent photos that score higher", "members that score higher")
    return html.block(
        Markup(
            '<div class="detail asked">{}<div><p role="status"><b>{}</b></p><p><b>What is true.</b> {}</p>{}'
            '<p class="quiet">Scores of the base model, with the words “a photo of {}”.</p></div></div>'
        ).format(
            html.picture(html.pixels_uri(pixels), "the picture as the model sees it"), _claim(found, name),
            _truth(found), html.table(head, rows), name,
        )
    )  # fmt: skip


def _claim(found: OnePhoto, name: str) -> str:
    if not found.alike:
        return (
            f"No answer. This picture is unlike every photo of {name} (nearest l2 {found.distance:.2f}, theirs are "
            f"within {found.usual:.2f} of each other), and scores can be compared only among pictures of one kind."
        )
    # One attack, fixed beforehand: the best of several by chance would accuse more innocent photos than it says.
    attack = found.standings.get(ATTACK) or next(iter(found.standings.values()))
    higher = round(100 * (1 - attack.beaten))
    said = "would say: it was in there" if 1 - attack.beaten <= LEVEL else "would not accuse it"
    return (
        f"An attacker {said}. By the {attack.title} attack, {higher} of 100 innocent photos look more suspicious than "
        f"this one; the attacker accuses where at most {100 * LEVEL:.0f} do."
    )


def _truth(found: OnePhoto) -> str:
    part, index = found.nearest
    kind = f"training photo {index + 1}" if part == "members" else f"held-out photo {index + 1}"
    if not found.copy:
        return (
            f"No, the model was never trained on it. The nearest photo is {kind}, at an l2 of {found.distance:.3f}: "
            "not the same one."
        )
    saved = (
        "" if found.distance == 0 else " The attack looks at single pixels, so saving a photo again moves its score."
    )
    same = "exactly" if found.distance == 0 else f"saved again (l2 {found.distance:.3f})"
    if found.repeats:
        return f"Yes: it is {kind}, {same}. In pre-training it was repeated {found.repeats} ×.{saved}"
    return f"No: it is {kind}, {same}, and the model was not trained on it.{saved}"
