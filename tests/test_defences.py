"""The table `defences`: labs that are built on demand, what is measured of each, and how it reads."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from s2l import cli
from s2l.errors import UserError
from s2l.labs import built_folder, find_lab, is_there, shipped_lab
from s2l.store import read_json
from s2l.tables import declared, defences, defences_view, grid, view
from s2l.tables.declared import Row, Table

SMALL = {
    "sp_set": {"set_size": 2},
    "finetune": {"max_train_steps": 1},
    "audit": {"attacks": ("loss", "sima")},
    "extraction": {"n_generations": 2},
}
PRIVACY = {
    "unit": "photo", "n_units": {"private": 96}, "sampling": "Poisson", "sampling_rate": 0.1, "steps": 3, "clip": 1.0,
    "noise_multiplier": 2.0, "accountant": "prv", "delta": 1e-3, "epsilon": 7.98,
}  # fmt: skip


@pytest.fixture
def twins(tiny_lab):
    """Two labs in the cache, as `lab build` leaves them, the second of them with a promise."""
    for name in ("twin-a", "twin-b"):
        shutil.copytree(tiny_lab, built_folder(name))
    path = built_folder("twin-b") / "lab.json"
    path.write_text(json.dumps(read_json(path) | {"privacy": PRIVACY}))
    return tiny_lab


def test_a_lab_that_was_built_has_its_recipe_as_a_name(twins, capsys):
    assert find_lab("lab:twin-a").folder == built_folder("twin-a") and find_lab("lab:twin-a").name == "twin-a"
    assert cli.main(["lab", "info", "lab:twin-b"]) == 0
    assert "epsilon 7.98, delta 0.001, for each photo" in capsys.readouterr().out
    assert is_there("lab:twin-a") and is_there("lab:fresh") and is_there("anything else")
    assert not is_there("lab:twin-c") and not is_there("lab:../cache/lab-twin-a")
    for model in ("lab:twin-c", "lab:../lab-twin-a"):
        with pytest.raises(UserError, match="unknown lab"):
            find_lab(model)
    shutil.copytree(twins, built_folder("fresh"))  # a lab that ships stays the one that ships
    assert find_lab("lab:fresh").folder == shipped_lab("fresh").folder


def test_rows_whose_labs_are_missing_are_left_out(twins, capsys):
    rows = tuple(Row(name, {"model": f"lab:{name}"}) for name in ("twin-a", "twin-c"))
    assert [row.label for row in grid.with_labs(Table("", rows)).rows] == ["twin-a"]
    assert "not built here: twin-c (python -m s2l lab build" in capsys.readouterr().err
    with pytest.raises(UserError, match="the labs of this table are not built here: twin-c"):
        grid.with_labs(Table("", rows[1:]))
    assert grid.with_labs(declared.get_table("main")) == declared.get_table("main")


def test_the_table_has_the_attacks_the_promise_and_the_price_of_every_lab(twins, tmp_path, monkeypatch, capsys):
    rows = (
        Row("none", {"model": "lab:twin-a"} | SMALL),
        Row("none, un-shaken", {"model": "lab:twin-a", "unshake": {"w": 1.0}} | SMALL),
        Row("DP", {"model": "lab:twin-b"} | SMALL),
        Row("not here", {"model": "lab:twin-c"} | SMALL),
    )
    table = Table("Twins", rows, role="calibration", people=2, preset="quick", also="defences")
    monkeypatch.setitem(declared.TABLES, "twins", table)
    monkeypatch.setattr(defences, "PUBLIC", 3)
    monkeypatch.setattr(defences, "PICTURES", 1)
    results = tmp_path / "results"
    words = ["table", "twins", "--results", str(results), "--device", "cpu", "--dtype", "float32"]
    assert cli.main(words) == 0, capsys.readouterr().err
    measured = read_json(results / "twins.json")
    assert measured["command"] == "python -m s2l table twins --dtype float32"
    assert list(measured["rows"]) == ["none", "none, un-shaken", "DP"] and measured["kind"] == "defences"
    none, private = measured["rows"]["none"], measured["rows"]["DP"]
    assert none["privacy"] is None and private["privacy"] == PRIVACY
    assert (none["bound"]["delta"], private["bound"]["delta"]) == (1e-4, 1e-3)
    assert private["bound"]["epsilon"] <= private["privacy"]["epsilon"]  # random weights remember nothing
    assert private["bound"]["n_members"] == 24  # both people together
    # The same weights and photos, so nothing changes between the labs.
    assert {x["difference"] for x in private["change"].values()} == {0.0}
    cells = [read_json(path) for path in sorted((results / "twins" / "none").glob("*.json"))]
    held_out = [-np.mean(cell["attacks"]["loss"]["scores"]["before"]["nonmembers"]) for cell in cells]
    assert none["price"]["held_out_loss"]["mean"] == pytest.approx(np.mean(held_out))
    assert all(len(ps) == 2 and all(0 < p <= 1 for p in ps) for ps in none["sets"].values())
    assert none["price"]["public_loss"] > 0 and none["price"]["recognised"]["of"] == 2
    text = view.document("twins", measured)
    assert text == (results / "twins.md").read_text() and not (results / "twins.png").exists()
    first, second, third = defences_view.sheets(measured)
    assert [row[0] for row in first.rows] == ["none", "none, base weights withheld", "DP"]
    withheld = first.rows[1]
    assert withheld[4] == first.rows[0][4] and set(withheld[1:4]) == {""} and withheld[5:] == ("", "")
    assert first.rows[0][-1] and not first.rows[2][-1]  # only the first was un-shaken
    assert second.rows[0][1] == "" and second.rows[1][1].startswith("+0.000")
    assert third.rows[0][1] == "no promise" and third.rows[1][1:3] == ("7.98", "0.001, photo")


def test_a_bound_above_the_promise_is_shouted():
    bound = {"epsilon": 8.5, "attack": "loss"}
    assert defences_view._proved(bound, PRIVACY, {"loss": "Loss"}) == "at least 8.50 (Loss): ABOVE THE PROMISE"
    assert defences_view._proved(bound, None, {"loss": "Loss"}) == "at least 8.50 (Loss)"


def test_people_whose_members_stand_out_are_counted():
    row = {"sets": {"loss": [0.5, 0.009], "sima": [0.001, 0.002]}}
    names = {"loss": "Loss", "sima": "SimA"}
    assert defences_view._sets(row, names) == "2 of 2 (SimA)"
    assert defences_view._sets({"sets": {"loss": [0.5, 0.01], "sima": [0.3, 0.2]}}, names) == "0 of 2"


def test_a_training_without_noise_promises_nothing():
    assert defences_view._promise(PRIVACY | {"epsilon": None})[0] == "no promise (no noise)"


def test_attack_and_threshold_come_from_the_calibration_people():
    """The weaker attack on the people under test is used, because it was the better one on the others."""
    rng = np.random.default_rng(0)
    strong, weak = (rng.normal(3, 1, 200), rng.normal(0, 1, 200)), (rng.normal(0.5, 1, 200), rng.normal(0, 1, 200))

    def cell(**pairs):
        scores = {name: {"members": m.tolist(), "nonmembers": n.tolist()} for name, (m, n) in pairs.items()}
        return {"attacks": {name: {"scores": {"before": of}} for name, of in scores.items()}}

    bound = defences.bound_of([cell(loss=weak, sima=strong)] * 2, {"loss": strong, "sima": weak}, 1e-4)
    assert bound["attack"] == "loss" and bound["n_members"] == 400
    threshold = bound["threshold"]
    assert bound["tpr"] == np.mean(weak[0] >= threshold) and bound["fpr"] == np.mean(weak[1] >= threshold)
    assert threshold in strong[0]


def test_a_stranger_recognises_the_nearest_person():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    assert defences.recognised(known[[0, 2, 3]], [0, 1, 0], known, [0, 0, 1, 1]) == 2
