"""The Target tab: whose photos are at stake."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gradio as gr
from markupsafe import Markup

from s2l.prompts import MAX_PROMPT_CHARACTERS
from s2l.ui import html, own, words
from s2l.ui.backend import Backend, Shown
from s2l.ui.events import QUIET
from s2l.ui.form import APP_PRESETS, preset_values, remarks, rename
from s2l.ui.stake import stake_html
from s2l.ui.tab import Context, Tab
from s2l.worlds.people import words_of

INTRO = """**Step 1: choose whose photos are at stake.** A text-to-image model was trained on photos of {people}
invented people: {n_members} photos of each. A photo that it was trained on is a [[member]]. The attacker has the
model and a name, but none of the photos. The question is: can the attacker make the model reveal more about its
members? Pick a person and see what is private."""
WORDS = ("held-out photo", "SP set", "UNet")
PRIVATE = Markup(
    "What is private: <em>which</em> photos the model was trained on, and the photos themselves. Members and held-out "
    "photos look alike because they come from the same source; only the members were used in training. Photos that "
    "were repeated in training tend to be remembered best."
)


# A click on a picture sends the person's name. A style rule frames the chosen one, so no picture is sent again.
ON_CLICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (button) trigger("click", {name: button.dataset.name});
});"""
CHOSEN = 'button[data-name="${chosen}"] { outline: 3px solid #0f766e; background: rgb(15 118 110 / .14); }'


@dataclass
class Target(Tab):
    people: gr.HTML
    person: gr.Dropdown
    prompt: gr.Textbox
    words: gr.HTML
    photos: gr.HTML
    next: gr.Button
    own: gr.State

    @classmethod
    def build(cls, page: Context) -> Target:
        return build(page.backend, page.fields, page.first)

    def connect(self, page: Context) -> None:
        fields = page.fields
        page.goes_to(self.next, "sp-set")
        fields["person"].change(
            partial(person_changed, page.backend), [fields["person"], fields["prompt"], fields["prompt2"]],
            [self.people, fields["prompt"], fields["prompt2"], self.words, self.photos], **QUIET,
        )  # fmt: skip

        def choose_size(data: dict) -> dict:
            keep = ("person", "prompt", "methods", "preset")
            values = preset_values(data[fields["preset"]], data[fields["person"]])
            return {fields[name]: value for name, value in values.items() if name not in keep}

        fields["preset"].input(choose_size, {fields["preset"], fields["person"]}, list(fields.values()), **QUIET)


def words_html(prompt: str, person: str) -> Markup:
    """The prompt, in which words that no caption of the lab contains are marked."""
    if not prompt.strip():
        return html.block(Markup("<p>The prompt is empty: write a few words.</p>"))
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        text = f"The prompt is too long: at most {MAX_PROMPT_CHARACTERS:,} characters."
        return html.block(Markup("<p>{}</p>").format(text))
    strange, named = remarks(prompt, person)
    says = []
    if not named:
        says.append(Markup("<p>This prompt does not say “{}”: it will show somebody else.</p>").format(person))
    if strange:
        shown = Markup(" ").join(
            Markup("<mark>{}</mark>").format(word) if set(words_of(word)) & set(strange) else word
            for word in prompt.split()
        )
        says.append(
            Markup(
                "<p>{}</p><p class=quiet>Marked words are in no caption of the lab: the model does not know them.</p>"
            ).format(shown)
        )
    elif named:
        says.append(Markup('<p class="quiet">All these words occur in captions of the lab.</p>'))
    return html.block(*says)


def people_html(backend: Backend) -> Markup:
    """Every person of the lab as a button with one member photo."""
    button = Markup(
        '<button type="button" data-name="{name}"><img src="{uri}" alt="A photo of {name}"><span>{name}</span></button>'
    )
    buttons = Markup("").join(
        button.format(name=name, uri=html.pixels_uri(backend.portrait(name))) for name in backend.names
    )
    return html.block(
        Markup('<div class="people" role="group" aria-label="The people of the lab">{}</div>').format(buttons)
    )


def _pictures(photos: list[Shown], name: str, kind: str) -> Markup:
    return html.pictures(
        html.picture(
            html.pixels_uri(photo.pixels),
            f"{kind} photo {i} of {name}",
            f"{photo.repeats} ×" if photo.repeats else "",
        )
        for i, photo in enumerate(photos, 1)
    )


def photos_html(backend: Backend, name: str) -> Markup:
    """Members with their repetition counts beside held-out photos."""
    members, held_out = backend.photos(name)
    return stake_html(backend.lab, name) + html.block(
        Markup(
            "<p>{}</p><div class=two><div><h3>Members: {} of the {} photos the model was trained on</h3>"
            "<p class=quiet>With the number of times each one was repeated in training.</p>{}</div>"
            "<div><h3>Held out: photos the model was not trained on</h3>"
            "<p class=quiet>{} too, from the same source.</p>{}</div></div>"
        ).format(
            PRIVATE, len(members), backend.facts["n_members"], _pictures(members, name, "member"), name,
            _pictures(held_out, name, "held-out"),
        )
    )  # fmt: skip


def build(backend: Backend, fields: dict, first: dict) -> Target:
    """Add the tab's components to the page and to `fields`; `first` has the fields' first values."""
    gr.HTML(words.lead(INTRO.format(**backend.facts), WORDS), elem_classes="s2l-lead")
    with gr.Row():
        with gr.Column(scale=3):
            people = gr.HTML(
                people_html(backend), chosen=first["person"], css_template=CHOSEN, js_on_load=ON_CLICK, elem_id="people"
            )
        with gr.Column(scale=2, min_width=280):
            person = gr.Dropdown(
                backend.names, value=first["person"], label="Person", filterable=True, elem_id="person",
                info="or choose a picture",
            )  # fmt: skip
            prompt = gr.Textbox(
                first["prompt"], label="Prompt: what the attacker types", max_lines=3, max_length=MAX_PROMPT_CHARACTERS,
                elem_id="prompt",
            )  # fmt: skip
            said = gr.HTML(words_html(first["prompt"], first["person"]), elem_id="words")
            size = gr.Radio(
                [(text, name) for name, text in APP_PRESETS.items()], value=first["preset"], label="Size of the run",
                info="sets the fields of the next two steps", elem_id="preset",
            )  # fmt: skip
    photos = gr.HTML(photos_html(backend, first["person"]), elem_id="photos")
    chosen = own.build(backend)
    following = gr.Button("Next: the SP set →", variant="primary", elem_id="next-sp-set")
    fields |= {"person": person, "prompt": prompt, "preset": size}

    def pick(event: gr.EventData):
        name = event._data.get("name") if isinstance(event._data, dict) else None
        return name if name in backend.names else gr.skip()

    people.click(pick, None, person, **QUIET)
    prompt.change(words_html, [prompt, person], said, **QUIET)
    return Target(people, person, prompt, said, photos, following, chosen)


def person_changed(backend: Backend, name: str, prompt: str, prompt2: str) -> tuple:
    """(people, prompt, second prompt, words, photos) for another person."""
    prompt, prompt2 = (rename(text, backend.names, name) for text in (prompt, prompt2))
    return gr.HTML(chosen=name), prompt, prompt2, words_html(prompt, name), photos_html(backend, name)
