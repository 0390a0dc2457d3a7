"""The Fine-tune tab: the shake, the Run button and the live panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import gradio as gr
from markupsafe import Markup

from s2l.config import FineTuneConfig, checked
from s2l.errors import UserError
from s2l.finetune.catalogue import legal_combinations
from s2l.record import Result
from s2l.report import shipped
from s2l.ui import html, live, runs, words
from s2l.ui.backend import Backend
from s2l.ui.events import LATEST, QUIET
from s2l.ui.form import FIELDS, checked_value, in_words
from s2l.ui.heavy import ready
from s2l.ui.own import NOT_OWN, person_of_next_run
from s2l.ui.tab import Context, Tab
from s2l.ui.tabs import running
from s2l.ui.tabs.target import Target

INTRO = """**Step 3: the** [[shake]]**.** The attacker trains the same model a little further, on the pictures that it
generated itself. No private photo is involved. Then both models, before and after, are attacked in the same way:
[[membership inference]] asks for each photo "was the model trained on it?", and [[extraction]] generates many
pictures and looks for copies of training photos among them."""
WORDS = ("LoRA", "Textual Inversion", "DreamBooth", "end-to-end", "UNet", "sigma", "un-shake")
# Fields that only some methods have.
OF_METHOD = {
    "rank": "lora", "lora_alpha": "lora", "num_vectors": "textual_inversion", "prior_loss_weight": "dreambooth",
    "noise_sigma": "gaussian_noise",
}  # fmt: skip


@dataclass
class FineTune(Tab):
    method: gr.Dropdown
    card: gr.HTML
    run: gr.Button
    error: gr.HTML
    status: gr.HTML
    pictures: gr.HTML
    loss: gr.HTML
    samples: gr.HTML
    log: gr.HTML
    cancel: gr.Button
    resume: gr.Button
    here: gr.Button
    see: gr.Button
    of_method: list[str]
    advanced: gr.Accordion

    @classmethod
    def build(cls, page: Context) -> FineTune:
        return build(page.fields, page.first, page.backend.showcase)

    @property
    def panel(self) -> list:
        """The components that show a run in progress; `running.show_job` gives their values."""
        return [
            self.status, self.pictures, self.loss, self.samples, self.log, self.cancel, self.resume, self.here,
            self.see,
        ]  # fmt: skip

    def connect(self, page: Context) -> None:
        fields, own = page.fields, page.part(Target).own
        page.goes_to(self.see, "attack")
        for component in (fields["person"], own):
            component.change(run_label, [fields["person"], own], self.run, **QUIET)
        about = [fields[name] for name in ("methods", "rank", "num_vectors", "train_text_encoder")]
        for component in about:
            component.change(partial(card_html, page.backend), about, self.card, **LATEST)
        page.select["finetune"].select(partial(card_html, page.backend), about, self.card, **QUIET)
        fields["methods"].change(
            lambda m: [gr.update(visible=visible_fields(m).get(name, False)) for name in self.of_method],
            fields["methods"], [fields[name] for name in self.of_method], **QUIET,
        )  # fmt: skip
        page.keeps_fields("finetune")
        running.connect(page, self)


def card_html(backend: Backend, methods: str, rank: float | None, num_vectors: float | None, text: bool) -> Markup:
    """What a combination trains, in plain words, and how many parameters that is."""
    ready()
    from s2l.finetune import FINETUNERS, learning_rates, parse

    try:
        named, settings = parse(methods), {}
        if rank is not None and "lora" in named:
            settings["lora"] = {"rank": checked_value("rank", rank)}
        if num_vectors is not None and "textual_inversion" in named:
            settings["textual_inversion"] = {"num_vectors": checked_value("num_vectors", num_vectors)}
        values = {"methods": named, "train_text_encoder": bool(text), "settings": settings}
        config = checked(FineTuneConfig, values)
        trained, total = backend.trained_parameters(config)
    except UserError as error:
        return html.block(Markup("<p>{}</p>").format(in_words(error, "finetune")))
    parts = [Markup("<p><b>{}</b>: {}.</p>").format(FINETUNERS[m].title, FINETUNERS[m].trains) for m in config.methods]
    if trained:
        share = 100 * trained / total
        percent = f"{share:.0f}" if share >= 10 else f"{share:.1f}" if share >= 0.1 else f"{share:.2g}"
        numbers = f"{trained:,} parameters are trained: {percent} % of the number in the model ({total:,})."
        rates = ", ".join(f"{rate:g}" for rate in learning_rates(config).values())
        numbers += f" Default learning rate: {rates}." if rates else ""
    else:
        numbers = "Nothing is trained."
    sources = "; ".join(dict.fromkeys(FINETUNERS[m].source for m in config.methods))
    parts.append(Markup("<p>{}</p><p class=quiet>{}</p>").format(numbers, sources))
    return html.block(Markup('<div class="card">{}</div>').format(Markup("").join(parts)))


def example_html(example: Result | None) -> Markup:
    """The training curve of the example, until there is a run of one's own."""
    rows = [] if example is None else example.training.get("log", [])
    curve = html.loss_curve([[row["step"], row["loss"]] for row in rows if "loss" in row], len(rows))
    if example is None or not curve:
        return Markup()
    title = Markup("<h3>An example, run by us: the training loss of {} (thick: running mean)</h3>")
    said = html.loss_sentence([row["loss"] for row in rows if "loss" in row])
    return html.block(title.format(runs.what(example)), curve, Markup("<p>{}</p>").format(said))


def example_seeds(example: Result | None) -> Markup:
    """What the shake of the example changes in the model's pictures."""
    if example is None:
        return Markup()
    return runs.seeds_html(example, f"The example's same {runs.SEEDS} seeds, before and after the shake")


def method_choices() -> list[tuple[str, str]]:
    """(title, value) of every combination of methods; first, and marked, those of which finished runs ship."""
    ready: dict[tuple[str, ...], int] = {}
    for entry in shipped.entries():
        ready[tuple(entry["methods"])] = ready.get(tuple(entry["methods"]), 0) + 1

    def title(methods: Sequence[str]) -> str:
        n = ready.get(tuple(methods), 0)
        return live.method_title(methods) + (f" (ready at once for {n} people)" if n else "")

    known = sorted(legal_combinations(), key=lambda methods: tuple(methods) not in ready)
    return [(title(methods), "+".join(methods)) for methods in known]


def run_label(person: str, own: dict) -> str:
    """The label of the Run button, with the person of the next run."""
    return f"Run: {person_of_next_run(person, own)}"


# What a person's role means for a result.
ROLES = {"calibration": "our settings were chosen on them", "reporting": "new to our settings"}


def ready_html() -> Markup:
    """Which runs ship with the program."""
    people: dict[str, list[str]] = {}
    methods: dict[str, None] = {}
    for entry in shipped.entries():
        people.setdefault(entry["role"], [])
        if entry["person"] not in people[entry["role"]]:
            people[entry["role"]].append(entry["person"])
        methods[live.method_title(entry["methods"])] = None
    if not people:
        return Markup()
    who = "; ".join(f"{', '.join(names)} ({ROLES.get(role, role)})" for role, names in people.items())
    return html.block(
        Markup("<p class=quiet>Ready at once with the default settings: {}. Methods: {}.</p>").format(
            who, ", ".join(methods)
        )
    )


def visible_fields(methods: str) -> dict[str, bool]:
    """Which of the fields in OF_METHOD belong to a combination."""
    ready()
    from s2l.finetune import FINETUNERS, parse, weight_methods

    try:
        chosen = parse(methods)
    except UserError:
        chosen = ()
    used = {*chosen, *weight_methods(chosen)} if chosen else set()
    return {name: method in used for name, method in OF_METHOD.items() if method in FINETUNERS}


def attack_choices() -> dict:
    """The attacks to choose from. They are known only once torch is loaded, after the page is shown."""
    ready()
    from s2l.attacks import ATTACKS

    return gr.update(choices=[(attack.title, name) for name, attack in ATTACKS.items()])


def build(fields: dict, first: dict, example: Result | None) -> FineTune:
    """Add the tab's components to the page and to `fields`. `attack_choices` fills the list of attacks later."""
    gr.HTML(words.lead(INTRO, WORDS), elem_classes="s2l-lead")
    shown = {name: OF_METHOD.get(name, first["methods"]) == first["methods"] for name in FIELDS}

    def number(name: str, info: str | None = None, precision: int | None = 0, **more) -> None:
        fields[name] = gr.Number(
            first[name], label=FIELDS[name].label, info=info, precision=precision, visible=shown[name], elem_id=name,
            **more,
        )  # fmt: skip

    with gr.Row():
        with gr.Column():
            method = gr.Dropdown(
                method_choices(), value=first["methods"], label="Method", elem_id="methods",
            )  # fmt: skip
            with gr.Row():
                number("max_train_steps")
                number("learning_rate", "0: the method's default", None, step=1e-5)
                number("rank", "size of LoRA's matrices")
                number("num_vectors", "tokens that stand for the name")
                number("prior_loss_weight", "weight of the class pictures", None, step=0.1)
                number("noise_sigma", "its standard deviation", None, step=1e-4)
        with gr.Column():
            card = gr.HTML(elem_id="method-card")
    fields["methods"] = method
    with gr.Accordion("Advanced", open=False, elem_id="finetune-advanced") as advanced:
        with gr.Row():
            number("train_batch_size")
            number("lora_alpha", None, None)
            number("weight_decay", None, None, step=1e-3)
            number("ema_decay", "0: none", None, step=0.01)
            number("finetune_seed")
        fields["train_text_encoder"] = gr.Checkbox(
            first["train_text_encoder"], label=FIELDS["train_text_encoder"].label, elem_id="train_text_encoder"
        )
        gr.Markdown("**How the leak is measured**")
        with gr.Row():
            number("n_nonmembers", "for the ROC")
            number("n_generations", "before and after, each")
            number("extraction_guidance", None, None, step=0.5)
            number("delta", None, None, step=0.01)
            number("unshake", "w; empty: off. Attacks base + w (base - fine-tuned)", None, step=0.5)
            fields["unshake_space"] = gr.Dropdown(
                [("weights", "weights"), ("scores, at twice the cost", "scores")], value=first["unshake_space"],
                label=FIELDS["unshake_space"].label, elem_id="unshake_space",
            )  # fmt: skip
    run = gr.Button(run_label(first["person"], NOT_OWN), variant="primary", size="lg", elem_id="run")
    gr.HTML(ready_html(), elem_id="ready-runs")
    error = gr.HTML(visible=False, elem_id="run-error")
    status = gr.HTML(live.status_html(None), elem_id="status")
    with gr.Row():
        cancel = gr.Button("Stop", variant="stop", visible=False, elem_id="cancel")
        resume = gr.Button("Resume", visible=False, elem_id="resume")
        here = gr.Button("Run it here", visible=False, elem_id="run-here")
        see = gr.Button("See the results →", variant="primary", visible=False, elem_id="see-results")
    loss = gr.HTML(example_html(example), elem_id="live-loss")
    samples = gr.HTML(example_seeds(example), elem_id="live-samples")
    pictures = gr.HTML(elem_id="live-pictures")
    with gr.Accordion("Log", open=False):
        log = gr.HTML(elem_id="log")
    return FineTune(
        method,
        card,
        run,
        error,
        status,
        pictures,
        loss,
        samples,
        log,
        cancel,
        resume,
        here,
        see,
        list(OF_METHOD),
        advanced,
    )
