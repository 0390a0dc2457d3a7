"""The texts that a model is given: what a prompt may be, and a name within it. Loads nothing."""

from __future__ import annotations

import re

from s2l.errors import UserError

MAX_PROMPT_CHARACTERS = 1000


def check_prompt(prompt: str) -> str:
    """A prompt is one line of 1 to 1,000 characters; returns it stripped."""
    prompt = prompt.strip()
    if not prompt:
        raise UserError("the prompt is empty: write a few words, such as 'a photo of Mira Solwyn'")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UserError(f"the prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are allowed")
    return prompt


def fill_name(template: str, name: str, option: str) -> str:
    """The text of an option with the person's name for {name}. Raises UserError if there is none to put there."""
    if "{name}" in template and not name:
        raise UserError(f"{option}: {{name}} stands for the person's name, so --domain is needed too")
    return template.replace("{name}", name)


def replace_name(caption: str, name: str, by: str) -> str:
    """The caption with `name` replaced by `by` wherever it stands as whole words, in upper or lower case."""
    if not name:
        return caption
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: by, caption, flags=re.IGNORECASE)
