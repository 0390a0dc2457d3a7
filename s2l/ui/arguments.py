"""What a call may send to a handler of the page: one rule for all of them, by the kinds of the components they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from s2l.errors import UserError


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


# Kinds of components, whether a value is one of theirs, and what it should be. States are the server's own values, a
# BrowserState is read with care (session.py), and gradio checks files and choices.
KINDS: tuple[tuple[tuple[type[Component], ...], Callable[[Any], bool], str], ...] = (
    ((gr.Slider,), _number, "a number"),
    ((gr.Number,), lambda value: value is None or _number(value), "a number"),
    ((gr.Checkbox,), lambda value: isinstance(value, bool), "true or false"),
    ((gr.CheckboxGroup,), _texts, "a list of texts"),
    ((gr.Textbox, gr.Dropdown, gr.Radio), lambda value: value is None or isinstance(value, str), "a text"),
    ((gr.File,), lambda value: value is None or isinstance(value, list), "a list of files"),
)


def check(page: gr.Blocks, call: object) -> None:
    """Check a call that names a handler by its number. Raises UserError for values that its components never have."""
    if not isinstance(call, dict) or not isinstance(call.get("fn_index"), int):
        return  # a public endpoint (api.py), or what gradio refuses
    handler, values = page.fns.get(call["fn_index"]), call.get("data")
    if handler is None or not isinstance(values, list) or len(values) != len(handler.inputs):
        raise UserError("this call fits no handler of the page")
    for component, value in zip(handler.inputs, values, strict=True):
        for kinds, fits, what in KINDS:
            if isinstance(component, kinds) and not fits(value):
                raise UserError(f"{component.label or 'this value'} should be {what}")
