"""Secure fine-tuning: refused uploads train nothing, weights leave after the audit only, and limits hold."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from PIL import Image

from s2l.errors import UserError
from s2l.jobs import secure
from s2l.store import Store, read_json, write_json


def upload(folder, n=16, side=32, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def verdict(refused: bool) -> dict:
    limit = {"value": -0.5, "alpha": 0.05, "false_alarm": 0.0, "interval": {}, "n_groups": 4}
    return {"gate": "own_output", "refused": refused, "statistic": -0.2, "threshold": limit}


def gate(refused: bool):
    return lambda *a, **k: {"refused": refused, "verdicts": [verdict(refused)], "notes": [], "pictures": []}


def attackers(leaks: bool) -> list[dict]:
    change = {"difference": 0.1, "low": 0.05, "high": 0.15}
    return [{"attacker": "pair", "title": "both models", "auc": 0.8, "leaks": leaks, "difference": change}]


@pytest.fixture
def asked(tmp_path, tiny_lab):
    upload(tmp_path / "job" / "pictures")
    write_json(tmp_path / "job" / "request.json", {"person": "Mira Solwyn", "steps": 1, "rank": 1})
    return tmp_path / "job"


def test_a_refused_upload_trains_nothing(asked, monkeypatch):
    monkeypatch.setattr("s2l.gates.check.check_upload", gate(True))
    monkeypatch.setattr("s2l.finetune.finetune", lambda *a, **k: pytest.fail("trained"))
    answer = secure.process(asked)
    assert answer["refused"] and answer["release"] is None and not (asked / "weights.zip").exists()
    assert "refuses the upload: its mean score -0.200 exceeds the threshold -0.500" in answer["reasons"][0]


@pytest.mark.parametrize("leaks", [True, False])
def test_weights_leave_only_after_the_audit(asked, monkeypatch, leaks):
    monkeypatch.setattr("s2l.gates.check.check_upload", gate(False))
    audit = {"refused": leaks, "base_auc": 0.7, "attackers": attackers(leaks)}
    monkeypatch.setattr("s2l.pipeline.release.release_audit", lambda *a, **k: audit)
    monkeypatch.setattr(secure, "HELD_OUT", 3)
    answer = secure.process(asked)
    assert answer == read_json(asked / "answer.json") and answer["refused"] == leaks
    assert (asked / "weights.zip").exists() != leaks
    if leaks:
        assert "withholds the weights: both models" in answer["reasons"][0]
    else:
        names = zipfile.ZipFile(asked / "weights.zip").namelist()
        assert names == ["weights/config.json", "weights/pytorch_lora_weights.safetensors"]


@pytest.mark.brings("Visitors", "Too few pictures, steps or a rank beyond the limits, `secure_finetune`", "refused")
@pytest.mark.parametrize(
    ("n", "steps", "rank", "says"),
    [(3, 5, 4, "from 16 to 128 pictures"), (16, 101, 4, "100"), (16, 0, 4, "1"), (16, 5, 9, "8"), (16, "x", 4, "int")],
)
def test_limits_are_one_sentence_and_nothing_stays(tmp_path, n, steps, rank, says):
    paths = upload(tmp_path / "given", n)
    with pytest.raises(UserError, match=says):
        secure.ask(Store(tmp_path / "cache"), paths, "Mira Solwyn", steps, rank)
    assert not any(path.exists() for path in paths) and not list((tmp_path / "cache").glob("uploads/*"))


def test_what_went_wrong_is_said_without_paths(tmp_path, monkeypatch):
    store = Store(tmp_path / "cache")
    paths = upload(tmp_path / "given")
    monkeypatch.setattr(secure.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 1})())
    with pytest.raises(UserError, match="could not be processed") as error:
        secure.ask(store, paths, "Ada", 1, 1)
    assert str(tmp_path) not in str(error.value) and not list((tmp_path / "cache").glob("uploads/*"))
    folder = tmp_path / "job"
    monkeypatch.setattr(secure, "process", lambda folder: (_ for _ in ()).throw(UserError(f"no image in {folder}/x")))
    folder.mkdir()
    assert secure.main(folder) == 2 and read_json(folder / "refusal.json") == {"error": "no image in the upload/x"}
