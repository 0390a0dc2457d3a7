"""How events of the page are sent, and what a click on a gr.HTML reported."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import isfinite

import gradio as gr
from markupsafe import escape

from s2l.errors import UserError

# Events of the page itself are no API; many visitors may have one at the same time.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
QUIET = PRIVATE | {"show_progress": "hidden"}
LATEST = QUIET | {"trigger_mode": "always_last"}  # of a slider that moves, only the last position counts


def address(**changes: str) -> str:
    """Script that puts something into the address."""
    return "() => window.s2l.address({" + ", ".join(f'"{n}": "{v}"' for n, v in changes.items()) + "})"


def told(event: gr.EventData, name: str) -> str:
    """What a click on a gr.HTML told; "" for anything strange."""
    return str(event._data.get(name, "")) if isinstance(event._data, dict) else ""


def for_the_page(error: UserError) -> gr.Error:
    """What a page may show: it reads HTML."""
    return gr.Error(escape(error), print_exception=False)


def in_a_sentence(function: Callable, answer: Callable[[UserError], gr.Error] = for_the_page) -> Callable:
    """Tell the caller what was wrong with the input, and nothing about the server."""

    @wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise answer(error) from None

    return wrapped


def number(value: object, what: str) -> float:
    """A number, whatever a client sent. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise UserError(f"{what} is a number")
    return float(value)
