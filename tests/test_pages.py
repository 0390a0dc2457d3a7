"""What the server keeps of an open page (tests/slow/test_visits.py measures it)."""

from __future__ import annotations

import gc

import gradio as gr
import pytest

from s2l.jobs import Jobs
from s2l.ui import heavy
from s2l.ui.backend import Backend
from s2l.ui.layout import launch
from s2l.ui.pages import MAX_PAGES, OpenPages
from tests.browser.conftest import free_port


@pytest.fixture
def blocks():
    with gr.Blocks() as blocks:
        gr.State({"visitor": ""})
        gr.Dropdown(["first"])
    return blocks


@pytest.fixture
def pages(blocks):
    pages = OpenPages()
    pages.set_blocks(blocks)
    return pages


def ids(blocks: gr.Blocks) -> tuple[int, int]:
    return tuple(next(i for i, b in blocks.blocks.items() if isinstance(b, kind)) for kind in (gr.State, gr.Dropdown))


def test_a_page_keeps_its_own_values_and_no_configuration(blocks, pages):
    state, dropdown = ids(blocks)
    for name in ("a", "b"):
        pages[name][state] = {"visitor": name}
        pages[name]._update_value_in_config(dropdown, "a long text")
    assert [pages[name][state]["visitor"] for name in ("a", "b", "c")] == ["a", "b", ""]
    assert not any([*pages[name].components] or pages[name].config_values for name in ("a", "b", "c"))


def test_pages_share_what_changed_in_the_same_way(blocks, pages):
    _, dropdown = ids(blocks)
    for name, choices in (("a", ["x"]), ("b", ["x"]), ("c", ["y"])):
        pages[name][dropdown] = gr.Dropdown(choices, render=False)
    assert pages["a"][dropdown] is pages["b"][dropdown] is not pages["c"][dropdown]
    assert [pages[name][dropdown].choices[0][0] for name in ("a", "c", "d")] == ["x", "y", "first"]
    pages.session_data.clear()
    gc.collect()
    assert not pages.shared


def test_only_the_last_pages_are_kept(pages):
    pages.capacity = 2
    for name in ("a", "b", "a", "c"):
        _ = pages[name]
    assert [*pages.session_data] == ["a", "c"]


def test_the_page_is_served_so(blocks, store, monkeypatch):
    monkeypatch.setattr(heavy, "begin", lambda then: None)

    launch(blocks, Backend(Jobs(store)), "127.0.0.1", free_port())
    try:
        assert isinstance(blocks.app.state_holder, OpenPages) and blocks.state_holder is blocks.app.state_holder
        assert blocks.app.state_holder.capacity == MAX_PAGES
    finally:
        blocks.close()
