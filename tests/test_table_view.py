"""What a table over people shows: our numbers with their intervals, the paper's beside the same row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2l.store import read_json
from s2l.tables import sheet as texts
from s2l.tables import view as table_view
from s2l.tables.declared import TABLES
from s2l.tables.grid import summarise

RESULTS = Path(__file__).resolve().parents[1] / "results"


def cell(person: str, label: str, shift: float, distinct: tuple[int, int]) -> dict:
    """A cell of 8 members and 8 held-out photos; after fine-tuning SecMI's members score `shift` higher."""
    rng = np.random.default_rng(sum(map(ord, person)))
    members, nonmembers = -np.abs(rng.normal(1.0, 0.3, 8)), -np.abs(rng.normal(1.2, 0.3, 8))

    def attack(moved: float) -> dict:
        after = {"members": (members + moved).tolist(), "nonmembers": nonmembers.tolist()}
        before = {"members": members.tolist(), "nonmembers": nonmembers.tolist()}
        return {"scores": {"before": before, "after": after}, "shake_auc": 0.5}

    def drawn(n: int) -> dict:
        cost = {"unet_evaluations": 100, "per_1000": n / 10, "nonmembers_per_1000": 0.0}
        return {"distinct": n, "nonmembers_scaled": 0.0, "cost": cost, "flags": [4, 3], "within": {"0.1": [n, 0]}}

    return {
        "row": label, "person": person, "config": {"audit": {"shake_weight": 0.8}}, "model": {"key": "fresh"},
        "attacks": {"secmi": attack(shift), "loss": attack(0.0)},
        "extraction": {"before": drawn(distinct[0]), "after": drawn(distinct[1])},
        "control_auc": 0.5, "n_members": 8, "n_nonmembers": 8, "seconds": {"total": 1.0}, "trained_parameters": 1234,
        "loss_first_last": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def table() -> dict:
    rows = {
        "lora": [cell("A", "lora", 0.4, (2, 4)), cell("B", "lora", 0.5, (1, 2))],
        "dreambooth": [cell("A", "dreambooth", -0.4, (2, 1)), cell("B", "dreambooth", -0.5, (1, 1))],
    }
    return {
        "title": "Methods", "command": "python -m s2l table main", "preset": "demo", "role": "reporting", "n_people": 2,
        "rows": {label: summarise(cells) for label, cells in rows.items()},
    }  # fmt: skip


def test_a_row_carries_its_change_its_interval_and_the_papers_figure(table):
    sheet = table_view.short("main", table)
    base, lora, dreambooth = (dict(zip(sheet.head, row, strict=True)) for row in sheet.rows)
    assert base[""] == "base model" and base["members extracted"].startswith("1.5 [") and base["change"] == ""
    assert lora["SecMI, change"].startswith("+0.") and dreambooth["SecMI, change"].startswith("-0.")
    assert lora["change"].startswith("+1.5 [") and dreambooth["change"].startswith("-0.5 [")
    assert (lora["paper: SecMI, change"], lora["paper: extracted"]) == ("+0.033", "13.4")
    assert (dreambooth["paper: SecMI, change"], dreambooth["paper: extracted"]) == ("+0.046", "12.7")


def test_the_whole_document_names_flags_control_and_the_papers_own_table(table):
    text = table_view.document("main", table)
    assert "3 of 4" not in text and "6 of 8" in text  # blind flags are pooled over people
    assert "control: held-out photos" in text and "`python -m s2l table main`" in text
    assert "| DreamBooth + LoRA | 19M | .766 |" in text and "not over another pre-training" in text
    assert "TPR" not in text.split("## Extraction")[0]  # no thresholds were frozen: no such column


def test_files_are_written_and_the_plot_has_a_point_a_row(table, tmp_path):
    table_view.write("main", table, tmp_path)
    assert (tmp_path / "main.png").stat().st_size > 10_000 and (tmp_path / "main.md").read_text().startswith("# Meth")
    left, right = table_view.plot("main", table).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["LoRA", "DreamBooth"]
    assert len(right.containers) == 1 and "2 people" in left.get_xlabel()


def test_the_attacks_alone_and_the_secondary_outcomes_are_told(table):
    assert "whose AUC is SecMI 0." in table_view.how(table)
    secondary = table_view.sheets("main", table)[-1]
    base, lora, _ = (dict(zip(secondary.head, row, strict=True)) for row in secondary.rows)
    assert base["within 0.1 (control)"] and not base["SecMI: AUC of its change alone"]
    assert 0 <= float(lora["SecMI: AUC of its change alone"]) <= 1
    membership = table_view.sheets("main", table)[0]
    assert "SecMI, both models together" in membership.head


def test_no_interval_is_drawn_from_people_who_agree_and_no_count_is_negative():
    alike = {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert texts.change(alike, 1) == "+2.0 (the same for every person)"
    assert table_view._count({"mean": 0.5, "low": -0.4, "high": 1.4}) == "0.5 [0.0, 1.4]"
    assert table_view._count({"mean": 3.0, "low": None, "high": None}) == "3.0"


def test_labels_are_for_readers():
    assert texts.in_words("end_to_end, out of domain") == "End-to-end, out of domain"
    assert texts.in_words("lora+dreambooth") == "LoRA + DreamBooth"
    assert texts.in_words("sigma 0.0002") == "sigma 0.0002"


@pytest.mark.parametrize("name", [name for name, found in table_view.paper()["tables"].items() if "ours" in found])
def test_the_papers_rows_stand_beside_rows_that_exist(name):
    found = table_view.paper()["tables"][name]
    labels = {row.label for row in TABLES[name].rows} | {table_view.BASE, ""}
    assert set(found["ours"]) <= labels and len(found["ours"]) == len(found["rows"])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_committed_documents_say_what_the_results_say(path):
    table = read_json(path.with_suffix(".json"))
    assert path.read_text(encoding="utf-8") == table_view.document(path.stem, table), f"{table['command']}"


def test_a_table_over_labs_shows_every_attack_on_the_rows_own_base_model(table):
    def cells(lab: str, shift: float, **config) -> list[dict]:
        wide = {"0.1": [1, 0], "0.12": [2, 1]}
        found = [cell(person, lab, shift, (1, 2)) for person in "AB"]
        for each in found:
            each["model"], each["config"] = {"key": lab}, each["config"] | config
            for outcome in each["extraction"].values():
                outcome["within"] = wide
        return found

    rows = {"buried": summarise(cells("buried", 0.4)), "swapped": summarise(cells("swapped", -0.4, unshake={"w": 1.0}))}
    labs = table | {"rows": rows}
    assert rows["buried"]["attacks"]["secmi"]["reference"] and not rows["swapped"]["attacks"]["secmi"]["reference"]
    changes, copies = table_view.sheets("labs", labs)
    buried, swapped = (dict(zip(changes.head, row, strict=True)) for row in changes.rows)
    assert changes.head == ("", "SecMI before", "change", "Loss before", "change")
    assert changes.rows[0][2].startswith("+0.") and changes.rows[1][2].startswith("-0.")
    assert buried["SecMI before"] == swapped["SecMI before"]
    assert copies.rows[0][1:5] == ("1.0 to 1.0", "0.0 to 0.0", "2.0 to 2.0", "1.0 to 1.0")
    text = table_view.document("labs", labs)
    assert "not over another training of the lab" in text and "paper" not in text
    (axes,) = table_view.plot("labs", labs).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["buried", "swapped"]
    assert not table_view.by_lab.is_by_lab(table)
