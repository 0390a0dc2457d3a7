"""What the page's events have in common: how they are sent, how errors are shown, and how clicks are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import isfinite

import gradio as gr
from markupsafe import escape

from s2l.errors import UserError

# Events of the page itself are not part of the API; many visitors may send one at the same time.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
QUIET = PRIVATE | {"show_progress": "hidden"}
LATEST = QUIET | {"trigger_mode": "always_last"}  # for a slider that is being moved: only its last position counts


def address(**changes: str) -> str:
    """A script that sets parameters of the page's address."""
    return "() => window.s2l.address({" + ", ".join(f'"{n}": "{v}"' for n, v in changes.items()) + "})"


def click_value(event: gr.EventData, name: str) -> str:
    """The value `name` that a click on a gr.HTML sent; "" if there is none."""
    return str(event._data.get(name, "")) if isinstance(event._data, dict) else ""


def for_the_page(error: UserError) -> gr.Error:
    """The error for the page, escaped because the page shows HTML."""
    return gr.Error(escape(error), print_exception=False)


def in_a_sentence(function: Callable, answer: Callable[[UserError], gr.Error] = for_the_page) -> Callable:
    """`function`, with a UserError turned into one sentence that says nothing about the server."""

    @wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise answer(error) from None

    return wrapped


def number(value: object, what: str) -> float:
    """A number that a client sent. Raises UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise UserError(f"{what} should be a number")
    return float(value)
