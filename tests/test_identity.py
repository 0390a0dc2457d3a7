"""Keys of results: those of the committed cells stay what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l.config import preset
from s2l.errors import UserError
from s2l.pipeline import identity
from s2l.store import read_json
from s2l.tables import cells, grid

RESULTS = Path(__file__).parents[1] / "results"
COMMITTED = sorted(RESULTS.glob("*/*/*.json"))


def test_a_committed_cell_has_the_key_of_its_settings_and_model():
    found = {path: cells.read_cell(path) for path in COMMITTED}  # recomputes the key
    assert len(found) == 153 == len({cell["key"] for cell in found.values()})
    for path, cell in found.items():
        table = path.relative_to(RESULTS).parts[0]
        assert path == cells.cell_path(RESULTS, table, cell["row"], cell["person"])


def test_every_committed_table_finds_its_cells_and_every_cell_has_a_table():
    keys, used = cells.find_cells(RESULTS), set()
    (model,) = {read_json(path)["model"]["key"] for path in COMMITTED}
    for name, table in grid.TABLES.items():
        people = read_json(RESULTS / f"{name}.json")["n_people"]  # a table may have been measured on some of them
        used |= {identity.cell(model, config) for _, config in grid.configs(table, people)}
    assert used == set(keys)


def test_rows_and_people_of_a_table_have_names_of_their_own():
    for name, table in grid.TABLES.items():
        paths = [cells.cell_path(Path(), name, row.label, config.domain.name) for row, config in grid.configs(table)]
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("part", ["config", "model"])
def test_a_cell_that_was_changed_by_hand_is_refused(tmp_path, part):
    cell, path = read_json(COMMITTED[0]), tmp_path / "cell.json"
    changed = {"config": {"audit": cell["config"]["audit"] | {"seed": 7}}, "model": {"key": "0" * 24}}
    path.write_text(json.dumps(cell | {part: cell[part] | changed[part]}))
    with pytest.raises(UserError, match=r"cell.json does not fit its key"):
        cells.read_cell(path)
    path.write_text(json.dumps(cell))
    assert cells.read_cell(path) == cell


def test_a_cell_of_another_run_is_never_written_over(tmp_path):
    path = cells.free_path(tmp_path, "main", "sigma 0.0002", "Nell Ambrith")
    assert path == tmp_path / "main" / "sigma-0.0002" / "nell-ambrith.json" and path.parent.is_dir()
    path.write_text("{}")
    with pytest.raises(UserError, match="nell-ambrith.json holds a run with other settings"):
        cells.free_path(tmp_path, "main", "sigma 0.0002", "Nell Ambrith")
    with pytest.raises(UserError, match="nell-ambrith.json is no cell of a table"):
        cells.find_cells(tmp_path)


def test_a_cell_says_which_version_of_the_program_made_it(monkeypatch, tmp_path):
    state = cells.program_state()
    assert state is None or (len(state["commit"]) == 40 and state["clean"] in (True, False))
    monkeypatch.setattr(cells, "PACKAGE", tmp_path)  # no repository
    assert cells.program_state() is None


def test_the_formula_of_every_stage_stands():
    """What a cache of before holds is found again. A change here makes everybody compute again what they have."""
    config = preset("demo", "Mira Solwyn")
    tune, search = config.finetune, config.extraction
    keys = {
        "sp_set": identity.sp_set("model", "Mira Solwyn", config.sp_set),
        "class_images": identity.class_images("model", "person", 128, config.sp_set.sampler),
        "finetune": identity.finetune("sp", tune, {"lora": 1e-3}, "Mira Solwyn"),
        "tuned_folder": identity.tuned_folder("model", {"methods": ["lora"]}, "weights"),
        "scores": identity.scores("model", "domain", "loss", config.audit, config.audit, ("a", "b")),
        "chosen_seeds": identity.chosen_seeds("model", ["a"], search, 999),
        "generations": identity.generations("model", ["a"], search),
        "generations, chosen": identity.generations("model", ["a"], search, [5, 7]),
        "generations, guided": identity.generations("model", ["a"], search, [5, 7], ["b"]),
        "images": identity.images("domain", "members"),
        "audit": identity.audit("domain", (1, 2), config.audit, search, ["x", "y"]),
        "result": identity.result("run", config, ["x", "y"]),
        "run": identity.run(config, "model"),
    }
    assert keys == {
        "sp_set": "53b5f36330b51ade1af53de6",
        "class_images": "853f8d4e43ae929db0433bce",
        "finetune": "edf5723f96c6f04072278044",
        "tuned_folder": "4e9dd2b45d7634ea2b17a9d2",
        "scores": "8c10ba9c80dfb046599efdc8",
        "chosen_seeds": "505038d8cebf7843adb5349a",
        "generations": "23e0a7a111ea7a11ef660bcc",
        "generations, chosen": "b2df0aad6ad1d211f785b4cb",
        "generations, guided": "416a2a201af9aea66295e600",
        "images": "0aae8fcd58c64eb3145e7ae0",
        "audit": "55424ccbe00629b25c03eef9",
        "result": "b4b53f16c70e487d235d4c25",
        "run": "91c5f96255b423a94f856a4d",
    }
