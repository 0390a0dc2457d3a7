"""How events of the page are sent, and what a click on a gr.HTML told."""

from __future__ import annotations

import gradio as gr

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
