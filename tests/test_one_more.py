"""Growing: one more table or recipe is one entry, and everything else knows it."""

from __future__ import annotations

from s2l import cli
from s2l.pipeline.identity import cell
from s2l.pretrain import recipe
from s2l.pretrain.recipe import Phase, Recipe, find_recipe
from s2l.store import read_json
from s2l.tables import declared, grid
from s2l.tables.declared import Row, Table

SMALL = {
    "sp_set": {"set_size": 2},
    "finetune": {"max_train_steps": 1},
    "audit": {"attacks": ("loss",)},
    "extraction": {"n_generations": 2},
}


def test_one_more_table_is_one_entry(tiny_lab, tmp_path, monkeypatch, capsys):
    """The command runs its cells, names their files and summarises them over people."""
    rows = (Row("later", SMALL | {"finetune": {"max_train_steps": 2}}), Row("as it is", SMALL))
    table = Table("One more", rows, role="calibration", people=2, preset="quick")
    monkeypatch.setitem(declared.TABLES, "one-more", table)
    monkeypatch.setattr(grid, "calibration_nonmembers", lambda *arguments: None)
    words = ["table", "one-more", "--results", str(tmp_path), "--device", "cpu", "--dtype", "float32"]
    assert cli.main([*words, "--only", "nothing"]) == 2 and "no row of this table" in capsys.readouterr().err
    assert cli.main([*words, "--only", "as it"]) == 0, capsys.readouterr().err
    cells = sorted((tmp_path / "one-more" / "as-it-is").glob("*.json"))
    assert len(cells) == 2 and not (tmp_path / "one-more" / "later").exists()
    assert list(read_json(tmp_path / "one-more.json")["rows"]) == ["as it is"], "a row without its cells is left out"
    assert read_json(tmp_path / "one-more.json")["rows"]["as it is"]["people"] == [
        read_json(path)["person"] for path in sorted(cells, key=lambda path: read_json(path)["person"])
    ]
    for path in cells:
        record = read_json(path)
        config = next(c for _, c in grid.configs(table, None, "as it") if c.domain.name == record["person"])
        assert record["key"] == cell(record["model"]["key"], config)


def test_one_more_recipe_is_one_entry(monkeypatch, capsys):
    """`lab recipes` lists it, `lab build --recipe` finds it."""
    mine = Recipe("mine", title="Mine", purpose="an example", phases=(Phase("learn", 5, {"public": 1.0}, 1e-3),))
    monkeypatch.setitem(recipe.RECIPES, "mine", mine)
    assert cli.main(["lab", "recipes"]) == 0
    assert "an example" in capsys.readouterr().out
    assert find_recipe("mine") is mine
