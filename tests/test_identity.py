"""Keys of results: those of the committed cells stay what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l.errors import UserError
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
        used |= {cells.cell_key(model, config) for _, config in grid.configs(table, people)}
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
