"""Keys of results: those of the committed cells stay what they are."""

from __future__ import annotations

from pathlib import Path

from s2l.config import RunConfig
from s2l.keys import key_of
from s2l.store import read_json
from s2l.tables import grid

RESULTS = Path(__file__).parents[1] / "results"
CELLS = {path: read_json(path) for path in sorted((RESULTS / "cells").glob("*.json"))}


def cell_key(model_key: str, config: RunConfig) -> str:
    return key_of("cell", grid.SCHEMA_VERSION, model_key, config)


def test_a_committed_cell_has_the_key_of_its_settings_and_model():
    assert len(CELLS) == 153
    keys = {
        path.stem: cell_key(cell["model"]["key"], RunConfig.model_validate(cell["config"]))
        for path, cell in CELLS.items()
    }
    assert {name: key for name, key in keys.items() if key != name} == {}


def test_every_committed_table_finds_its_cells():
    names = {path.stem for path in CELLS}
    (model,) = {cell["model"]["key"] for cell in CELLS.values()}
    missing = []
    for name, table in grid.TABLES.items():
        people = read_json(RESULTS / f"{name}.json")["n_people"]  # a table may have been measured on some of them
        runs = grid.configs(table, people)
        missing += [(name, row.label, run.domain.name) for row, run in runs if cell_key(model, run) not in names]
    assert missing == []
