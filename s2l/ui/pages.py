"""What the server keeps of every open page: the values of its `gr.State`, and which components have changed.

Gradio keeps more for each of them: a copy of the page's whole configuration, which it needs only for links to a page's
state (this page has links of its own, session.py, and guard.py refuses gradio's), and a new component for each change
of one. Here there is no such copy, and pages on which the same component changed in the same way share it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from gradio.blocks import Block
from gradio.state_holder import SessionState, StateHolder

# If gradio drops a page's values, the page starts again from the browser's copy.
MAX_PAGES = 300


class _Nothing(dict):
    """A dictionary that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class OpenPage(SessionState):
    """The values of one open page, without a copy of its configuration. `shared` has the changed components."""

    def __init__(self, blocks: gr.Blocks, shared: WeakValueDictionary[tuple[int, str], Block]):
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))
        self.config_values = _Nothing()
        self.shared = shared

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, Block):  # gradio makes components anew and never changes one
            value = self.shared.setdefault((key, repr(value.constructor_args)), value)
        super().__setitem__(key, value)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class OpenPages(StateHolder):
    """The open pages by their session's hash, the last used `MAX_PAGES` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: WeakValueDictionary[tuple[int, str], Block] = WeakValueDictionary()

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = OpenPage(self.blocks, self.shared)
        return super().__getitem__(session_id)


def keep_little(page: gr.Blocks) -> None:
    """Let a page that has been launched keep `OpenPages`."""
    page.app.state_holder = OpenPages()
    page.app.state_holder.set_blocks(page)
