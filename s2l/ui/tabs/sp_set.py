"""The SP set tab: what the attacker generates to fine-tune on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

import gradio as gr
from markupsafe import Markup

from s2l.config import SPSetConfig, checked
from s2l.errors import UserError
from s2l.jobs import Job
from s2l.pipeline.stages import SP_SET
from s2l.record import Result
from s2l.store import Store
from s2l.ui import html, live, runs, words
from s2l.ui.events import LATEST, QUIET
from s2l.ui.form import FIELDS, checked_value, fixed_prompts, in_words, prompt_parts
from s2l.ui.heavy import ready
from s2l.ui.own import NOT_OWN, person_of_next_run
from s2l.ui.tab import Context, Tab, View
from s2l.ui.tabs.target import Target

INTRO = """**Step 2: the synthetic private set** ([[SP set]])**.** The attacker has no photo of the person and
therefore generates pictures with the model: from the prompt, each with its own random [[seed]]. They show what the
model already knows about the person. Fine-tuning on them, in the next step, is the [[shake]]. A higher [[guidance]]
makes the pictures follow the prompt more strictly, and also makes them more alike."""
BY_SEED = "Each picture's seed decides which prompt it gets, so the counts match the share only roughly."
COUNTED = 2000  # prompts of the preview
N_SHOWN = 48  # pictures of a finished set
INPUTS = ("person", "prompt", "prompt2", "share", "suffix", "sp_seed", "set_size")


@dataclass
class SPSet(Tab):
    preview: gr.HTML
    pictures: gr.HTML
    zip_file: gr.DownloadButton
    weights: gr.DownloadButton
    next: gr.Button
    inputs: list
    advanced: gr.Accordion

    @classmethod
    def build(cls, page: Context) -> SPSet:
        return build(page.fields, page.first)

    @property
    def outputs(self) -> list:
        return [self.pictures, self.zip_file, self.weights]

    def draw(self, page: Context, view: View) -> dict:
        job = page.backend.jobs.job(view.state["job"]) if view.state["job"] else None
        path = str(page.backend.sp_set_zip(view.result)) if view.result is not None else None
        tuned = page.backend.weights_zip(view.result) if view.result is not None else None
        return {
            self.pictures: pictures_html(job, view.result, page.backend.store, view.person),
            self.zip_file: gr.update(value=path, visible=path is not None),
            self.weights: gr.update(value=str(tuned) if tuned else None, visible=tuned is not None),
        }

    def connect(self, page: Context) -> None:
        page.goes_to(self.next, "finetune")
        to_draw = partial(preview_html, own_prompts=page.backend.own_model.allow_prompts)
        inputs = [*self.inputs, page.part(Target).own]
        for component in inputs:
            component.change(to_draw, inputs, self.preview, **LATEST)
        page.select["sp-set"].select(to_draw, inputs, self.preview, **QUIET)
        page.keeps_fields("sp-set")


def preview_html(
    person: str,
    prompt: str,
    prompt2: str,
    share: float,
    suffix: str,
    seed: float | None,
    size: float | None,
    own: dict = NOT_OWN,
    own_prompts: bool = False,
) -> Markup:
    """How many pictures each prompt will get; a visitor's `own` model may be limited to fixed prompts."""
    ready()
    from s2l.data.sp_set import prompt_of

    form = {"person": person, "prompt": prompt, "prompt2": prompt2, "share": share}
    try:
        parts = prompt_parts(form, fixed=fixed_prompts(own, own_prompts))
        values = {"seed": checked_value("sp_seed", seed), "set_size": checked_value("set_size", size)}
        sp_set = checked(SPSetConfig, values | {"suffix": suffix or ""})
        seeds = range(sp_set.seed, sp_set.seed + min(sp_set.set_size, COUNTED))
        name = person_of_next_run(person, own)
        texts = Counter(prompt_of(parts, name, sp_set.suffix, seed) for seed in seeds)
    except UserError as error:
        return html.block(Markup("<p>{}</p>").format(in_words(error, "sp_set")))
    items = Markup("").join(Markup("<li>{} × “{}”</li>").format(n, text) for text, n in texts.most_common())
    note = Markup("<p class=quiet>{}</p>").format(BY_SEED) if len(parts) > 1 else ""
    return html.block(Markup("<h3>What your run will generate</h3><ul>{}</ul>{}").format(items, note))


def pictures_html(job: Job | None, result: Result | None, store: Store, person: str) -> Markup:
    """The SP set of the run in progress, while it is generated; otherwise that of the run that the page shows."""
    if job is not None and job.active and job.live.get("pictures_of") == SP_SET.id:
        return live.pictures_html(job, store)
    if result is None:
        return Markup()
    n = result.record["config"]["sp_set"]["set_size"]
    drawn = [
        html.picture(uri, f"picture {i + 1} of the SP set")
        for i, uri in enumerate(runs.picture_uris(result, "sp_set", range(min(n, N_SHOWN))))
    ]
    some = f", the first {N_SHOWN}" if n > N_SHOWN else ""
    title, shown = f"{runs.what(result)} ({n} pictures{some})", result.record["domain"]["name"]
    if job is not None and job.active:
        note = f"A run for {job.config.domain.name} is in progress; its pictures will be here."
    elif person != shown:
        note = f"There are no pictures of {person} yet: press Run in step 3 to generate some."
    else:
        note = (
            f"Conclusion: from the name alone, the model draws {shown}, so it has learnt {shown}'s looks from the "
            "private photos. Whether it also gives the photos themselves away is measured in steps 4 and 5. (Generated "
            "by a finished run; your settings, in the fields above, may differ.)"
        )
        return html.block(
            Markup("<h3>From the finished run: {}</h3><p>{}</p>").format(title, note), html.pictures(drawn)
        )
    folded = Markup("<p>{}</p><details><summary>Those of another finished run: {}</summary>{}</details>")
    return html.block(folded.format(note, title, html.pictures(drawn)))


def build(fields: dict, first: dict) -> SPSet:
    """Add the tab's components to the page and to `fields`."""
    gr.HTML(words.lead(INTRO), elem_classes="s2l-lead")

    def number(name: str, info: str | None = None, precision: int | None = 0, **more) -> gr.Number:
        fields[name] = gr.Number(
            first[name], label=FIELDS[name].label, info=info, precision=precision, elem_id=name, **more
        )
        return fields[name]

    with gr.Row():
        number("set_size", "pictures to generate and to train on")
        fields["guidance_scale"] = gr.Slider(
            1, 10, first["guidance_scale"], step=0.5, label=FIELDS["guidance_scale"].label,
            info="1 means none", elem_id="guidance_scale",
        )  # fmt: skip
    with gr.Row():
        prompt2 = gr.Textbox(
            first["prompt2"], label="Second prompt", info="mixed with the prompt of step 1; may be empty",
            max_lines=2, elem_id="prompt2",
        )  # fmt: skip
        share = gr.Slider(
            0, 100, first["share"], step=5, label="Share of the first prompt, in %", elem_id="share",
        )  # fmt: skip
    fields |= {"prompt2": prompt2, "share": share}
    with gr.Accordion("Advanced", open=False, elem_id="sp-advanced") as advanced:
        with gr.Row():
            fields["suffix"] = gr.Textbox(
                first["suffix"], label=FIELDS["suffix"].label, info="added to the end of every prompt, such as “sharp”",
                max_lines=2, elem_id="suffix",
            )  # fmt: skip
            fields["negative_prompt"] = gr.Textbox(
                first["negative_prompt"], label=FIELDS["negative_prompt"].label, info="what guidance steers away from",
                max_lines=2, elem_id="negative_prompt",
            )  # fmt: skip
        with gr.Row():
            number("sp_seed", "picture i has the seed first + i")
            number("num_inference_steps")
            fields["scheduler"] = gr.Dropdown(
                [("DPM-Solver++", "dpmsolver"), ("DDIM", "ddim")], value=first["scheduler"],
                label=FIELDS["scheduler"].label, elem_id="scheduler",
            )  # fmt: skip
    preview = gr.HTML(elem_id="preview")
    pictures = gr.HTML(elem_id="sp-pictures")
    with gr.Row():
        zip_file = gr.DownloadButton("Download this SP set", visible=False, size="sm", elem_id="sp-zip")
        weights = gr.DownloadButton("Download the fine-tuned weights", visible=False, size="sm", elem_id="weights-zip")
    following = gr.Button("Next: fine-tune →", variant="primary", elem_id="next-finetune")
    return SPSet(preview, pictures, zip_file, weights, following, [fields[n] for n in INPUTS], advanced)
