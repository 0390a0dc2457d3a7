"""The search for settings: measured person by person, on calibration people only, and never twice."""

from __future__ import annotations

import pytest

from s2l.cli import main
from s2l.labs import default_lab, shipped_labs
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import run
from s2l.store import Store, read_json
from s2l.tables import search
from s2l.tables.search import SEARCHES, Search, Trial, configs, run_search

TINY = {
    "domain": {"n_members": 12, "n_nonmembers": 12},
    "sp_set": {"set_size": 4, "sampler": {"num_inference_steps": 2}},
    "finetune": {"max_train_steps": 2, "train_batch_size": 2},
    "extraction": {"n_generations": 4, "sampler": {"num_inference_steps": 2}},
}


@pytest.fixture
def tiny_search(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("S2L_LAB", str(tiny_checkpoint))
    trials = (
        Trial("gentle", {"finetune": {"learning_rate": 1e-4}}, 2),
        Trial("strong", {"finetune": {"learning_rate": 1e-2}}),
    )
    monkeypatch.setitem(SEARCHES, "tiny", Search("A tiny one", trials, TINY))
    return "tiny"


def test_a_search_goes_on_where_it_was(tiny_search, tmp_path, monkeypatch):
    store, runtime = Store(tmp_path / "cache"), Runtime("cpu", "float32")
    run_search(tiny_search, tmp_path / "results", "gentle", 1, store, runtime)
    runs = []
    monkeypatch.setattr(search, "run", lambda config, *more: runs.append(config) or run(config, *more))
    table = run_search(tiny_search, tmp_path / "results", store=store, runtime=runtime)
    first, second = default_lab().names("calibration")[:2]
    assert [(config.domain.name, config.finetune.learning_rate) for config in runs] == [(second, 1e-4), (first, 1e-2)]
    assert table == read_json(tmp_path / "results" / "tiny.json")
    gentle, strong = table["rows"]
    assert (gentle["people"], strong["people"]) == ([first, second], [first])
    again = run(runs[0], store, runtime).record["attacks"]["secmi"]
    assert gentle["differences"]["secmi"][1] == round(again["difference"]["difference"], 4)
    assert gentle["before"]["secmi"][1] == round(again["before"]["auc"], 4)


def test_every_declared_search_uses_calibration_people_only():
    calibration = default_lab().names("calibration")
    for each in SEARCHES.values():
        if each.model.removeprefix("lab:") in [lab.name for lab in shipped_labs()]:
            for _, config in configs(each):
                assert {config.domain.name, *(config.sp_set.together or ())} <= set(calibration)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serch"], "unknown search"),
        (["search", "--only", "magic"], "no trial of this search contains 'magic'"),
        (["search", "--people", "9"], "between 1 and 8 calibration people"),
    ],
)
def test_what_no_search_has_is_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main(["search", *arguments, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
