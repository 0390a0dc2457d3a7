"""The Defend tab: which defence helps, predicted and measured, and a gate that can be tried out."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from s2l.ui import defend, html, words
from s2l.ui.tab import Context, Tab

INTRO = """**Step 7: what protects people?** Some defences come before the model is trained, some at the service that
[[Fine-tuning|fine-tunes]] it. Predict which of them make the attacks weaker, then look at what was measured on our
labs. Below: a [[gate]] that you can try to get past with pictures of an [[SP set]]."""
WORDS = ("AUC", "interval", "Loss", "SecMI", "SimA", "both models together", "un-shake", "held-out photo", "threshold")


@dataclass
class Defend(Tab):
    next: gr.Button

    @classmethod
    def build(cls, page: Context) -> Defend:
        return build()

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "report")


def build() -> Defend:
    """Add the tab's components to the page: all of it comes from committed results."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    gr.HTML(defend.screen(defend.results()), elem_id="defend", js_on_load=html.script(defend.SCRIPT))
    return Defend(gr.Button("Next: the report →", variant="primary", elem_id="next-report"))
