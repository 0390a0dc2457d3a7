"""Every word that the page explains on the spot is in the glossary, and its explanation is the glossary's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from s2l.ui import words
from s2l.ui.tabs import TABS

TAB_FILES = sorted({Path(__import__(entry.kind.__module__, fromlist=["x"]).__file__) for entry in TABS})


@pytest.mark.parametrize("path", TAB_FILES, ids=lambda path: path.stem)
def test_every_word_of_a_tab_is_in_the_glossary(path):
    module = __import__(f"s2l.ui.tabs.{path.stem}", fromlist=["x"])
    asked = {word.split("|")[0] for word in re.findall(r"\[\[([^\]]+)\]\]", path.read_text(encoding="utf-8"))}
    asked |= set(getattr(module, "WORDS", ()))
    assert asked and not {word for word in asked if word.casefold() not in words.glossary()}


def test_an_explanation_is_a_button_with_its_description():
    text = words.lead("Is it a [[member|private one]], **really**?", ["Loss", "no such word"])
    button = re.search(r'<button type="button" aria-describedby="([^"]+)">private one</button>', text)
    assert f'role="tooltip" id="{button[1]}"' in text and "a photo that the model was trained on" in text
    assert "<b>really</b>" in text and "no such word" not in text
    assert len(set(re.findall(r' id="([^"]+)"', text))) == 2  # an id of its own for each


@pytest.mark.parametrize("attack", ["Loss", "SecMI"])
def test_an_attack_is_explained_by_a_picture(attack):
    assert words.term(attack).count("<svg") == 1


def test_without_the_guide_words_are_plain(monkeypatch, tmp_path):
    words.glossary.cache_clear()
    monkeypatch.setattr(words, "GUIDE", tmp_path / "none.md")
    try:
        assert words.term("Loss") == "Loss" and words.line(["Loss"]) == ""
    finally:
        words.glossary.cache_clear()
