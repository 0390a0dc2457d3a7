"""The table of `gate-study`: thresholds from calibration people, uploads, intervals, and what the document says."""

from __future__ import annotations

import numpy as np
import pytest

from s2l import cli
from s2l.gates.evasions import MIXED
from s2l.labs import Lab
from s2l.store import read_json
from s2l.tables import gate, gate_signals, view

KINDS = (*gate.NEGATIVES, *(gate.label(g, e) for g, evasions in gate.OWN.items() for e in evasions))


def person(seed: int, own: float = 1.0) -> dict:
    """Scores of one person: N(0, .1) for honest pictures, N(own, .1) for the model's own, in both gates."""
    rng = np.random.default_rng(seed)
    sets = {what: rng.normal(0 if what in gate.HONEST_KINDS else own, 0.1, 64) for what in KINDS}
    return {name: gate.with_mixed(sets) for name in gate.GATES}


def test_uploads_are_disjoint_and_mixed_ones_are_half_honest():
    assert gate.uploads(np.arange(70.0), 16).tolist() == [7.5, 23.5, 39.5, 55.5]
    half = gate.mixed(np.ones(6), np.zeros(6))
    assert half.tolist() == [1, 0, 1, 0, 1, 0]
    sets = person(0)["own_output"]
    assert sets[gate.label(1.0, MIXED)].mean() == pytest.approx(0.5, abs=0.05)


def test_the_gates_share_the_false_alarms_that_are_allowed():
    people = [person(seed) for seed in range(8)]
    limits = {"16": gate.thresholds(people, 16)}
    for each in limits["16"].values():
        assert each["value"] == pytest.approx(2.576 * 0.1 / 4, abs=0.03) and each["spread"] > 0
    rows, negatives = gate.rows_of([person(100 + seed) for seed in range(6)], limits)
    own, mixed = (rows[gate.label(1.0, what)]["16"] for what in ("untouched", MIXED))
    assert own["uploads"] == 24 and own["tpr"]["rate"] == 1 and own["tpr"]["low"] < 1
    assert own["auc"][gate.HELD_OUT]["mean"] == 1 and own["auc"][gate.HELD_OUT]["low"] < 1
    assert own["auc"][gate.DRAWN]["mean"] == pytest.approx(0.5, abs=0.2)  # the other lab's look alike here
    assert mixed["tpr"]["rate"] == 1 and set(own["by_gate"]) == set(gate.GATES)
    assert negatives[gate.HELD_OUT]["16"]["fpr"]["rate"] < 0.1 < 0.9 < negatives[gate.DRAWN]["16"]["fpr"]["rate"]


def test_the_example_says_which_evasion_gets_past():
    limits = {"64": {name: {"value": 0.5, "spread": 0.1} for name in gate.GATES}}
    sets = person(1)
    for name in gate.GATES:
        sets[name][gate.label(1.0, "JPEG 50")] = np.zeros(64)
    found = gate.example(sets, "Somebody", limits)
    assert found["size"] == 64 and found["rows"][gate.label(1.0, "untouched")]["refused"]
    assert not found["rows"][gate.label(1.0, "JPEG 50")]["refused"] and gate.HELD_OUT in found["rows"]


def test_a_gate_study_is_run_resumed_and_written(tiny_lab, tmp_path, monkeypatch, capsys):
    whole = gate.run_gate

    def small(path, people, model, **how):
        return whole(path, people, model, other=str(tiny_lab), pictures=4, sizes=(2, 4), **how)

    names = Lab.names
    monkeypatch.setattr(gate, "run_gate", small)
    assert cli.main(["gate-study", "--out", str(tmp_path / "none.json")]) == 2  # a lab without reporting people
    assert "none to report on" in capsys.readouterr().err
    roles = {"calibration": slice(0, 2), "reporting": slice(2, 4), None: slice(None)}
    monkeypatch.setattr(Lab, "names", lambda lab, role=None: names(lab)[roles[role]])
    monkeypatch.setattr(gate_signals, "PEOPLE", 1)
    monkeypatch.setattr(gate_signals, "PICTURES", 3)
    for module in (gate, gate_signals):
        monkeypatch.setattr(module, "STEPS", 1)
    out = tmp_path / "gate.json"
    words = ["gate-study", "--out", str(out), "--people", "2"]
    assert cli.main(words) == 0, capsys.readouterr().err
    table = read_json(out)
    assert len(table["rows"]) == 11 and len(table["people"]) == 2 and set(table["thresholds"]) == {"2", "4"}
    assert {signal["name"] for signal in table["signals"]} == {*gate_signals.SIGNALS, *gate_signals.TOGETHER}
    document = (tmp_path / "gate.md").read_text(encoding="utf-8")
    assert document == view.document("gate", table) and "Command: `python -m s2l gate-study`" in document
    # What is in the cache is not measured again.
    monkeypatch.setattr(gate, "drawn_by", lambda *_: pytest.fail("drawn again"))
    assert cli.main(words) == 0 and read_json(out) == table


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "x.txt"], "is not a .json file"),
        (["--people", "1"], "at least 2"),
        (["--model", "nobody/nothing"], "is not a lab"),
    ],
)
def test_bad_input_is_one_sentence(tiny_lab, capsys, words, says):
    assert cli.main(["gate-study", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1 and says in err
