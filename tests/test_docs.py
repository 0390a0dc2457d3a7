"""README and docs say what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l.tables import docs

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", docs.DOCUMENTS)
def test_figures_agree_with_the_results(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert docs.rendered(text, ROOT / "results") == text, "run `python -m s2l docs`"
    assert docs.BLOCK.search(text), "this document shows no measured figure"


def test_every_block_is_shown_somewhere():
    shown = {m["name"] for name in docs.DOCUMENTS for m in docs.BLOCK.finditer((ROOT / name).read_text())}
    assert shown == set(docs.BLOCKS)
