"""Keys of results: those of the committed cells stay what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from s2l import __version__
from s2l.config import FineTuneConfig, RunConfig, Settings, checked, preset
from s2l.errors import UserError
from s2l.finetune import catalogue
from s2l.flat_settings import FLAT_SETTINGS
from s2l.pipeline import identity
from s2l.store import read_json
from s2l.tables import cells, declared, grid

RESULTS = Path(__file__).parents[1] / "results"
COMMITTED = sorted(RESULTS.glob("*/*/*.json"))


def test_a_committed_cell_has_the_key_of_its_settings_and_model():
    found = {path: cells.read_cell(path) for path in COMMITTED}  # recomputes the key
    assert len(found) == 233 == len({cell["key"] for cell in found.values()})
    for path, cell in found.items():
        table = path.relative_to(RESULTS).parts[0]
        assert path == cells.cell_path(RESULTS, table, cell["row"], cell["person"])


def test_every_committed_table_finds_its_cells_and_every_cell_has_a_table():
    keys, used = cells.find_cells(RESULTS), set()
    models = {(c := read_json(path))["config"]["model"]: c["model"]["key"] for path in COMMITTED}
    for name, table in declared.TABLES.items():
        if not (RESULTS / f"{name}.json").exists():
            continue  # a new one that nobody has measured yet
        measured = read_json(RESULTS / f"{name}.json")  # perhaps on some of the people, or before a row was added
        runs = [config for row, config in grid.configs(table, measured["n_people"]) if row.label in measured["rows"]]
        used |= {cells.KINDS[table.kind].key(models[config.model], config) for config in runs}
    assert used == set(keys)


def test_rows_and_people_of_a_table_have_names_of_their_own():
    for name, table in declared.TABLES.items():
        paths = [cells.cell_path(Path(), name, row.label, config.domain.name) for row, config in grid.configs(table)]
        assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("part", ["config", "model"])
def test_a_cell_that_was_changed_by_hand_is_refused(tmp_path, part):
    cell, path = read_json(COMMITTED[0]), tmp_path / "cell.json"
    changed = {"config": {"audit": cell["config"]["audit"] | {"seed": 7}}, "model": {"key": "0" * 24}}
    path.write_text(json.dumps(cell | {part: cell[part] | changed[part]}))
    with pytest.raises(UserError, match=r"cell.json does not match its key"):
        cells.read_cell(path)
    path.write_text(json.dumps(cell))
    assert cells.read_cell(path) == cell


def test_a_cell_of_another_run_is_never_written_over(tmp_path):
    path = cells.free_path(tmp_path, "main", "sigma 0.0002", "Nell Ambrith")
    assert path == tmp_path / "main" / "sigma-0.0002" / "nell-ambrith.json" and path.parent.is_dir()
    path.write_text("{}")
    with pytest.raises(UserError, match="nell-ambrith.json holds a run with other settings"):
        cells.free_path(tmp_path, "main", "sigma 0.0002", "Nell Ambrith")
    with pytest.raises(UserError, match="nell-ambrith.json is not a cell of a table"):
        cells.find_cells(tmp_path)


def test_a_cell_says_which_version_of_the_program_made_it(monkeypatch, tmp_path):
    state = cells.program_state()
    assert state["version"] == __version__
    assert state["commit"] is None or (len(state["commit"]) == 40 and state["clean"] in (True, False))
    monkeypatch.setattr(cells, "PACKAGE", tmp_path)  # no repository
    assert cells.program_state() == {"version": __version__, "commit": None, "clean": None}


def test_the_formula_of_every_stage_stands():
    """What a cache of before holds is found again. A change here makes everybody compute again what they have."""
    config = preset("demo", "Mira Solwyn", audit={"noise": "position"})
    tune, search = config.finetune, config.extraction
    now = preset("demo", "Mira Solwyn")
    keys = {
        "scores, noise by content": identity.scores("model", "domain", "loss", now.audit, now.audit, ("a", "b")),
        "run, noise by content": identity.run(now, "model"),
        "sp_set": identity.sp_set("model", "Mira Solwyn", config.sp_set),
        "class_images": identity.class_images("model", "person", 128, config.sp_set.sampler),
        "finetune": identity.finetune("sp", tune, {"lora": 1e-3}, "Mira Solwyn"),
        "tuned_folder": identity.tuned_folder("model", tune, "weights"),
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
        "finetune": "6ea5ec14ef7b9608a0921848",
        "tuned_folder": "7c10bde9d96c9910beb6d7ad",
        "scores": "8c10ba9c80dfb046599efdc8",
        "chosen_seeds": "505038d8cebf7843adb5349a",
        "generations": "23e0a7a111ea7a11ef660bcc",
        "generations, chosen": "b2df0aad6ad1d211f785b4cb",
        "generations, guided": "416a2a201af9aea66295e600",
        "images": "0aae8fcd58c64eb3145e7ae0",
        "audit": "defe9e97b90f9790d9d2fecf",
        "result": "1f9945f35266029812f5c5d1",
        "run": "9f0ab9520b6cc4f491c5afcb",
        "scores, noise by content": "0e65c8a8963ef3ecff19c463",
        "run, noise by content": "7c22a8d41d42dff798c7a3c5",
    }


# --- what a key depends on ---------------------------------------------------------------------


def keys_of(**finetune) -> tuple[str, ...]:
    """Of the fine-tuning, the run and the cell of a configuration."""
    config = preset("quick", "Mira Solwyn", finetune=finetune)
    rates = catalogue.learning_rates(config.finetune)
    return (
        identity.finetune("sp", config.finetune, rates, "Mira Solwyn"),
        identity.run(config, "model"),
        identity.cell("model", config),
    )


def with_settings(monkeypatch, method: str, kind: type[Settings]) -> None:
    changed = replace(catalogue.FINETUNERS[method], settings=kind)
    monkeypatch.setitem(catalogue.FINETUNERS._items, method, changed)


def test_a_new_setting_of_a_method_changes_the_keys_of_that_method_alone(monkeypatch):
    class More(catalogue.GaussianNoiseSettings):
        noise_steps: int = 3

    class Off(catalogue.GaussianNoiseSettings):
        noise_steps: int | None = None

    lora, noise = keys_of(), keys_of(methods=["gaussian_noise"])
    with_settings(monkeypatch, "gaussian_noise", Off)
    assert keys_of(methods=["gaussian_noise"]) == noise  # None: absent
    with_settings(monkeypatch, "gaussian_noise", More)
    assert keys_of() == lora
    assert not set(keys_of(methods=["gaussian_noise"])) & set(noise)


def test_a_changed_default_changes_the_keys_of_what_used_it(monkeypatch):
    class Wide(catalogue.LoRASettings):
        rank: int = 16

    lora, spelled, noise = keys_of(), keys_of(settings={"lora": {"rank": 8}}), keys_of(methods=["gaussian_noise"])
    assert lora == spelled
    with_settings(monkeypatch, "lora", Wide)
    assert not set(keys_of()) & set(lora) and keys_of(settings={"lora": {"rank": 8}}) == lora
    assert keys_of(methods=["gaussian_noise"]) == noise


def test_a_new_section_that_is_off_changes_no_key():
    class Gate(Settings):
        threshold: float = 0.5

    class Extended(RunConfig):
        gate: Gate | None = None

    config = preset("quick", "Mira Solwyn")
    extended = Extended.model_validate(config.model_dump())
    assert identity.run(extended, "model") == identity.run(config, "model")
    assert identity.cell("model", extended) == identity.cell("model", config)
    on = Extended.model_validate(config.model_dump() | {"gate": {}})
    assert identity.cell("model", on) != identity.cell("model", config)


def test_a_setting_with_its_value_of_before_changes_no_key():
    old = checked(RunConfig, {"domain": {"name": "Mira Solwyn"}})  # as records had it
    spelled = checked(RunConfig, {"domain": {"name": "Mira Solwyn"}, "audit": {"noise": "position", "latents": "mode"}})
    assert identity.cell("model", spelled) == identity.cell("model", old)
    assert identity.scores("m", "d", "loss", old.audit, spelled.audit, ("a",)) == identity.scores(
        "m", "d", "loss", old.audit, old.audit, ("a",)
    )
    assert preset("quick", "Mira Solwyn").audit.noise == preset("paper", "x").audit.noise == "content"
    keys = set()
    for ways in ({}, {"noise": "content"}, {"latents": "sample"}, {"noise": "content", "latents": "sample"}):
        audit = old.audit.model_copy(update=ways)
        keys |= {
            identity.cell("model", old.model_copy(update={"audit": audit})),
            identity.scores("m", "d", "loss", old.audit, audit, ("a",)),
            identity.loss_parts("t", "b", "d", old.audit, audit, [("a",), ("b",)]),
            identity.audit("d", (1,), audit, old.extraction, ["x"]),
        }
    assert len(keys) == 16


def test_a_key_knows_the_attacks_that_are_used_and_no_others():
    def key(**audit) -> str:
        return identity.cell("model", preset("quick", "Mira Solwyn", audit=audit))

    assert key(attacks=["loss"], settings={"secmi": {"t": 200}}) == key(attacks=["loss"])
    assert key(settings={"secmi": {"t": 100, "k": 10}}) == key()
    assert key(settings={"secmi": {"t": 200}}) != key()


# --- spellings of before -----------------------------------------------------------------------

FLAT = {
    "rank": 4, "lora_alpha": 32.0, "target_modules": ["to_q"], "num_vectors": 12, "placeholder_token": "<s2l>",
    "initializer_token": "person", "identifier": "sks", "class_noun": "dog", "prior_loss_weight": 1.0,
    "num_class_images": None, "class_sampler": {"num_inference_steps": 3}, "noise_sigma": 0.5,
    "noise_relative": False, "noise_target": "all",
}  # fmt: skip


def test_a_record_in_the_flat_spelling_keeps_the_settings_of_its_methods():
    config = FineTuneConfig.model_validate({"methods": ["lora"], "seed": 3} | FLAT)
    assert config.settings == {"lora": {"rank": 4, "lora_alpha": 32.0, "target_modules": ["to_q"]}} and config.seed == 3
    both = FineTuneConfig.model_validate({"methods": ["lora", "dreambooth"]} | FLAT)
    assert set(both.settings) == {"lora", "dreambooth"} and both.settings["dreambooth"]["class_noun"] == "dog"
    assert FineTuneConfig.model_validate({"methods": ["end_to_end"]} | FLAT).settings == {}
    assert set(FLAT) == {name for names in FLAT_SETTINGS.values() for name in names}


def test_a_short_form_goes_to_its_method():
    assert preset("demo", "Mira Solwyn", finetune={"rank": 16}).finetune.settings == {"lora": {"rank": 16}}
    named = preset("demo", "Mira Solwyn", finetune={"methods": ["db"], "class_noun": "dog"}).finetune
    assert named.methods == ("dreambooth",) and named.settings == {"dreambooth": {"class_noun": "dog"}}


@pytest.mark.parametrize(
    "finetune, reason",
    [
        ({"methods": ["end_to_end"], "rank": 16}, "rank of lora would change nothing: lora is not among the methods"),
        ({"settings": {"dreambooth": {"class_noun": "x"}}}, "class_noun of dreambooth would change nothing"),
        ({"rank": 16, "settings": {"lora": {"rank": 8}}}, "rank is given twice"),
    ],
)
def test_a_setting_is_never_dropped_without_a_word(finetune, reason):
    with pytest.raises(UserError, match=reason):
        preset("demo", "Mira Solwyn", finetune=finetune)


@pytest.mark.parametrize(
    "finetune, field",
    [
        (5, "finetune"),
        ({"rank": 3, "methods": 7}, "finetune.methods"),
        ({"rank": 3, "methods": [["lora"]]}, "finetune.methods.0"),
        ({"rank": 3, "settings": []}, "finetune.settings"),
        ({"rank": 3, "settings": {"lora": 8}}, "finetune.settings.lora"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(finetune, field):
    with pytest.raises(UserError) as error:
        checked(RunConfig, {"domain": {"name": "Mira Solwyn"}, "finetune": finetune})
    assert error.value.field == field


@pytest.mark.parametrize("own, field", [({"rank": 0}, "rank"), ({"rnk": 8}, "rnk")])
def test_a_wrong_setting_of_a_method_is_named(own, field):
    config = preset("demo", "Mira Solwyn", finetune={"settings": {"lora": own}})
    with pytest.raises(UserError) as error:
        catalogue.spelled_out(config.finetune)
    assert error.value.field == f"settings.lora.{field}"
