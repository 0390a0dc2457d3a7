"""The figure of the Compare tab: its numbers and sentences come from the committed tables."""

from __future__ import annotations

import json
import re

import pytest
from markupsafe import Markup

from s2l.ui import effects
from s2l.ui.tabs import compare


@pytest.fixture(scope="module")
def tables() -> dict[str, dict]:
    return compare.committed()


@pytest.fixture(scope="module")
def drawn(tables) -> dict[str, dict]:
    return {table["name"]: table for table in effects.payload(tables)}


def test_every_number_is_that_of_the_table(tables, drawn):
    for name in ("main", "rank", "noise"):
        for (label, row), shown in zip(tables[name]["rows"].items(), drawn[name]["rows"], strict=True):
            for attack, outcome in row["attacks"].items():
                cell, change = shown["cells"][attack], outcome["difference"]
                assert cell["change"] == [round(change[k], 6) for k in ("difference", "low", "high")], (name, label)
                assert cell["after"][0] == round(outcome["after"]["mean"], 6)
                assert f"{change['difference']:+.3f} [{change['low']:+.3f}" in cell["says"]
                both = outcome["reference"]
                assert (cell["both"] is None) == (both is None)
                assert both is None or f"{both['auc']['mean']:.3f} with both" in cell["both"]["says"]


def test_the_papers_value_stands_beside_ours(drawn):
    by_label = {row["label"]: row["cells"] for row in drawn["main"]["rows"]}
    cell = by_label["LoRA + DreamBooth"]["secmi"]
    assert cell["paper"] == {"change": 0.054, "auc": 0.766} and "0.712 and 0.766" in cell["says"]
    assert by_label["LoRA + DreamBooth"]["loss"]["paper"] is None  # the paper has only SecMI
    assert by_label["DreamBooth"][effects.EXTRACTED]["paper"]["change"] == 12.7


def test_the_verdict_follows_the_interval(drawn):
    words = {1: ("stronger", "more photos"), -1: ("weaker", "fewer photos"), 0: ("no clear change",) * 2}
    for table in drawn.values():
        if table["name"] == "split":
            continue
        for row in table["rows"]:
            for attack, cell in row["cells"].items():
                assert words[effects.direction(cell["change"])][attack == effects.EXTRACTED] in cell["says"]


def test_the_labs_are_complete_and_the_split_begins_fair(drawn):
    labels = [row["label"] for row in drawn["labs"]["rows"]]
    assert labels == [f"{lab}, {kind}" for lab in ("fresh", "buried", "swapped") for kind in ("shaken", "un-shaken")]
    first, *others = drawn["split"]["rows"]
    assert first["label"] == "fair split" and len(others) == 8
    for row in others:
        assert "never sees the model" in row["cells"]["loss"]["says"]


def test_another_base_model_is_not_put_beside_the_labs(tables):
    changed = json.loads(json.dumps(tables["main"]))
    changed["rows"]["lora"]["attacks"]["loss"]["before"]["per_domain"][0] += 0.1
    labs = effects.payload({"main": changed, "labs": tables["labs"]})[1]
    assert "fresh, shaken" not in [row["label"] for row in labs["rows"]]


def test_tables_of_another_version_are_left_out():
    assert effects.screen({"main": {"rows": {"LoRA": {}}, "title": "old"}}) == Markup()
    assert effects.screen({}) == ""


def test_the_tables_are_folded_below():
    text = compare.tables_html()
    tables = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "<table" not in tables and text.count("<details>") > 10
