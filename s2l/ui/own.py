"""Part of the Target tab: another lab and, if the server's owner allows it, the visitor's own checkpoint and photos."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from markupsafe import Markup

from s2l.config import HUB, LAB
from s2l.errors import UserError
from s2l.jobs import uploads
from s2l.jobs.limits import MAX_UPLOADS, OwnModel, plain_name, short_name
from s2l.labs import find_lab, shipped_labs
from s2l.labs.find import PREFIX
from s2l.report.render import RESPONSIBLE_USE
from s2l.ui import html
from s2l.ui.backend import Backend
from s2l.ui.events import PRIVATE
from s2l.ui.heavy import ready

INTRO = f"""The same attack on a real Stable Diffusion checkpoint. It takes a GPU, or hours. **Photos are optional**:
with photos that the model was trained on *and* photos from the same source that it was not trained on, the page shows a
ROC curve. Without them, no score can be checked, and the page shows what an attacker without data sees: generations
before and after. At most {MAX_UPLOADS} photos of each kind, 5 MB each. They are stored without camera data, used only
for your run, and deleted after a while."""
OTHER_LABS = """The same attack on another lab that comes with the program: name it, and one of its people. Each
lab knows which photos it was trained on, so no photos are needed."""
NAME_HINT = "one of the people in the paper, or another name"
LAB_NAME_HINT = "a person of that lab"
NOT_OWN = {"model": LAB, "name": "", "members": None, "nonmembers": None}  # the page's lab and its people


def lab_models() -> list[str]:
    """The labs that visitors of every server may use, as models."""
    return [PREFIX + lab.name for lab in shipped_labs()]


def check_model(model: str, allowed: OwnModel) -> str:
    """A checkpoint that visitors of this server may use: never a path of their own. Raises UserError.

    An id of the hub comes back with "hub:" before it: it is never looked up on the disk of this server.
    """
    model = str(model or "").strip()
    if model.startswith(PREFIX):
        find_lab(model)  # raises for an unknown name
        return model
    ready()
    from s2l.model.hub import HUB_ID

    if allowed.model and model in ("", allowed.model):
        return allowed.model
    if not allowed.allow_hub_models:
        offered = ", ".join([*lab_models(), *filter(None, [allowed.model])])
        raise UserError(f"this server offers {offered}: other checkpoints are not allowed here")
    name = model.removeprefix(HUB)
    if len(name) > 200 or not HUB_ID.fullmatch(name) or ".." in name:
        raise UserError("a checkpoint should be named as on the hub, OWNER/NAME or OWNER/NAME@REVISION")
    return HUB + name


def check_name(name: str | None, prompts: bool) -> str:
    """A name for the fixed prompts. If the owner allows `prompts`, any short text. Raises UserError."""
    return short_name(name) if prompts else plain_name(name)


def use(
    backend: Backend, model: str, name: str, members: Sequence[str], nonmembers: Sequence[str], accepted: bool
) -> dict:
    """What the fields ask for, checked; photos are moved out of gradio's folder. Raises UserError."""
    given = {"members": members or [], "nonmembers": nonmembers or []}
    allowed = backend.own_model
    model = check_model(model, allowed)
    if (lab := find_lab(model)) is not None:
        if any(given.values()):
            raise UserError("a lab has its own photos: remove yours, or name another checkpoint")
        return NOT_OWN | {"model": model, "name": lab.person(str(name or "")).name}
    checked = {"model": model, "name": check_name(name, allowed.allow_prompts)}
    if accepted is not True:
        raise UserError("tick the box first: it says what you may use this for")
    if any(given.values()) and not all(given.values()):
        raise UserError("upload photos of both kinds, trained on and not trained on, or none")
    folders = uploads.keep(backend.store, given) if all(given.values()) else {"members": None, "nonmembers": None}
    return checked | folders


def person_of_next_run(person: str, own: dict) -> str:
    """The person of the next run: one of the lab, or the name that goes with the visitor's own model."""
    return own["name"] or person


def paper_names() -> list[str]:
    """The people in the paper's experiments: its list has 40 entries and one name twice."""
    ready()
    from s2l.data.domain import PAPER_DOMAINS

    return list(dict.fromkeys(PAPER_DOMAINS))


def chosen_html(own: dict, prompts: bool) -> Markup:
    """Which model and photos the next run will use."""
    if not own["name"]:
        return html.block(Markup("<p>The next run uses the lab's model and one of its people.</p>"))
    lab = find_lab(own["model"])
    if lab is not None:
        photos = "whose photos this lab knows: there will be a ROC curve"
        if not lab.trained:
            photos = "none of whose photos this lab was trained on: the ROC curve shows what chance gives"
    elif own["members"]:
        photos = "with your photos of both kinds: there will be a ROC curve"
    else:
        photos = "without photos: nobody knows what the model was trained on, so there will be no ROC curve"
    own_words = prompts or lab is not None
    text = "the prompt from this tab" if own_words else "fixed prompts (“a photo of ...”, “a face of ...”)"
    return html.block(
        Markup('<p role="status">The next run uses <b>{}</b> on <b>{}</b>, {}. It uses {}.</p>').format(
            own["model"], own["name"], photos, text
        )
    )


def build(backend: Backend) -> gr.State:
    """Add the part to the page; returns the state that says which model the next run uses."""
    allowed, chosen = backend.own_model, gr.State(NOT_OWN)
    choice = len(shipped_labs()) > 1
    title = "A model and photos of your own" if allowed.enabled else "Another lab"
    with gr.Accordion(title, open=False, visible=allowed.enabled or choice, elem_id="own") as part:
        gr.Markdown(INTRO if allowed.enabled else OTHER_LABS, elem_classes="s2l-lead")
        with gr.Row():
            model = gr.Dropdown(
                [(f"{PREFIX}{lab.name}, {lab.title.lower()}", PREFIX + lab.name) for lab in shipped_labs() if choice],
                value=allowed.model, label="Checkpoint", interactive=allowed.allow_hub_models or choice,
                allow_custom_value=True,
                info="; ".join(
                    ["Stable Diffusion 1.x or 2.x, as named on the hub"] * allowed.enabled
                    + [f"a lab: {', '.join(lab_models())}"] * choice
                ),
                elem_id="own-model",
            )  # fmt: skip
            name = gr.Dropdown(
                [], label="Name: the person or thing in the prompts", allow_custom_value=True, elem_id="own-name",
                info=NAME_HINT if allowed.enabled else LAB_NAME_HINT,
            )  # fmt: skip
        kinds = []
        with gr.Row(visible=allowed.enabled):
            for kind, label in (
                ("members", "Photos it was trained on"),
                ("nonmembers", "Photos it was not trained on"),
            ):
                kinds.append(
                    gr.File(label=label, file_count="multiple", file_types=["image"], elem_id=f"own-{kind}", height=140)
                )
        accepted = gr.Checkbox(
            label=f"I own this model and these photos, or may test them. {RESPONSIBLE_USE}", elem_id="own-accepted",
            visible=allowed.enabled,
        )  # fmt: skip
        with gr.Row():
            take = gr.Button("Use these for the next run", elem_id="own-use")
            back = gr.Button("Back to the lab", elem_id="own-back")
        said = gr.HTML(chosen_html(NOT_OWN, allowed.allow_prompts), elem_id="own-said")

    def names_offered() -> list[str]:
        return backend.names * choice + (paper_names() if allowed.enabled else [])

    quiet = PRIVATE | {"show_progress": "minimal"}

    def taken(*fields):
        try:
            own = use(backend, *fields)
        except UserError as error:
            return gr.skip(), html.block(Markup('<p role="alert">{}</p>').format(error))
        return own, chosen_html(own, allowed.allow_prompts)

    # The names are known once torch is loaded, which the page does not wait for.
    part.expand(lambda: gr.update(choices=names_offered()), None, name, **quiet)
    take.click(taken, [model, name, *kinds, accepted], [chosen, said], **quiet)
    back.click(lambda: (NOT_OWN, chosen_html(NOT_OWN, allowed.allow_prompts)), None, [chosen, said], **quiet)
    return chosen
