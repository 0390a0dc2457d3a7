"""The release audit: weights that give away more than the base model are withheld, and others are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from s2l import finetune
from s2l.cli import main
from s2l.config import FineTuneConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.pipeline import release
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.unshake import FineTuned
from s2l.store import read_json, write_json


def photos(n: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, 32, 32), np.uint8))
    return ImageSet(images, ("a photo",) * n, tuple(map(str, range(n))))


def person(i: int) -> Domain:
    return Domain(f"person {i}", MembershipSplit(photos(20, i), photos(30, 100 + i)), key=f"person {i}")


def audited(parts_of, n_people: int, monkeypatch, tiny_model) -> dict:
    """The audit of scores that `parts_of(domain, rng)` gives, (N, 3), members first."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(release, "loss_parts", lambda base, tuned, domain, config, stages: parts_of(domain, rng))
    people = [person(i) for i in range(n_people)]
    return release.release_audit(Subject.of(tiny_model), FineTuned(Subject.of(tiny_model, "tuned")), people)


def parts(members_better: float):
    """Losses around 1 whose tuned ones are lower by that much for members."""

    def make(domain, rng):
        n = len(domain.membership.all())
        base, noise = rng.uniform(0.8, 1.2, n), rng.uniform(-0.01, 0.01, n)
        tuned = base + noise
        tuned[: len(domain.membership.members)] -= members_better
        return np.column_stack([base, tuned, np.full(n, 0.01)])

    return make


@pytest.mark.parametrize("n_people", [1, 5])
def test_weights_that_leak_more_are_withheld(n_people, monkeypatch, tiny_model):
    found = audited(parts(0.3), n_people, monkeypatch, tiny_model)
    tuned = found["attackers"][0]
    assert found["refused"] and tuned["leaks"] and tuned["difference"]["low"] > found["threshold"] == 0
    assert [row["attacker"] for row in found["attackers"]] == list(release.ATTACKERS)
    assert len(found["scores"]["pair"]) == len(found["canaries"]) == n_people
    assert len(found["scores"]["base"][0]["held_out"]) == 30
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("n_people", [1, 5])
def test_weights_that_changed_nothing_are_released(n_people, monkeypatch, tiny_model):
    found = audited(parts(0.0), n_people, monkeypatch, tiny_model)
    assert not found["refused"] and not any(row["leaks"] for row in found["attackers"])


def test_a_leak_that_only_the_pair_shows_is_found(monkeypatch, tiny_model):
    """The tuned model alone says less about everybody, but members' losses rose more: the base beside it tells."""
    found = audited(parts(-0.3), 4, monkeypatch, tiny_model)
    leaks = {row["attacker"]: row["leaks"] for row in found["attackers"]}
    assert not leaks["tuned"] and leaks["pair"] and found["refused"]


def test_the_three_intervals_share_one_level(monkeypatch, tiny_model):
    found = audited(parts(0.0), 1, monkeypatch, tiny_model)
    assert {round(row["difference"]["confidence"], 6) for row in found["attackers"]} == {round(1 - 0.1 / 3, 6)}


def test_the_canaries_are_those_whom_the_upload_resembles(tiny_lab):
    lab = find_lab("lab")
    who = lab.people[2]
    members = release.canaries_of(lab, photos(1, 0), len(lab.people), 3)
    theirs = next(domain for domain in members if domain.name == who.name).membership.members
    assert release.canaries_of(lab, theirs.subset(range(5)), 2, 3)[0].name == who.name
    with pytest.raises(UserError, match="needs canaries"):
        release.release_audit(None, None, [], stages=Stages())


@pytest.fixture
def tuned_folder(tiny_lab, tiny_model, tmp_path):
    """Two steps of LoRA on noise, as `finetune` writes them."""
    from s2l.model.diffusion import DiffusionModel, Runtime

    model = DiffusionModel.load("lab", Runtime("cpu", "float32", 8))
    config = FineTuneConfig(max_train_steps=2, train_batch_size=4)
    finetune.finetune(model, photos(8, 5), config, tmp_path / "tuned", "Mira Solwyn")
    return tmp_path / "tuned"


def saved(images: ImageSet, folder):
    folder.mkdir(parents=True)
    for i, image in enumerate(images.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def test_the_command_judges_weights_after_the_upload(tuned_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(release, "CANARIES", 2)
    monkeypatch.setattr(release, "HELD_OUT", 6)
    upload = saved(photos(6, 0), tmp_path / "upload")
    words = ["gate", "--upload", str(upload), "--tuned", str(tuned_folder), "--alpha", "0.1", "--device", "cpu"]
    words += ["--gates", "near_members", "--batch-size", "8"]
    code = main([*words, "--out", str(tmp_path / "a")])
    record = read_json(tmp_path / "a" / "gate.json")
    assert code == (3 if record["refused"] else 0), capsys.readouterr().err
    assert record["release"]["attack"] == "loss" and len(record["release"]["canaries"]) == 2
    assert "un-shaken" in str(record["release"]) and "the tuned model alone" in capsys.readouterr().out
    # Two folders take the place of the lab's people.
    private, held = saved(photos(4, 1), tmp_path / "p"), saved(photos(5, 2), tmp_path / "h")
    main([*words, "--private", str(private), "--held-out", str(held), "--out", str(tmp_path / "b")])
    canary = read_json(tmp_path / "b" / "gate.json")["release"]["canaries"]
    assert canary == [{"name": "p", "members": 4, "held_out": 5}]


@pytest.mark.brings(
    "Tuned models", "Weights of another base model for `gate --tuned`", "refused before anything is judged"
)
def test_bad_input_is_one_sentence(tuned_folder, tmp_path, capsys):
    upload = saved(photos(4, 0), tmp_path / "upload")
    (tmp_path / "empty").mkdir()
    record = read_json(tuned_folder / "config.json")
    write_json(tuned_folder / "config.json", record | {"base_model": "another"})
    for words, says in (
        (["--upload", str(upload), "--tuned", str(tuned_folder)], "fine-tuned from another model"),
        (["--upload", str(tmp_path / "empty")], "no usable image"),
        (["--upload", str(upload), "--tuned", str(tmp_path / "none")], "no such file or folder"),
        (["--upload", str(upload), "--held-out", str(upload)], "--held-out is for the release audit"),
        (["--upload", str(upload), "--private", str(upload), "--tuned", str(tuned_folder)], "--private and --held-out"),
    ):
        assert main(["gate", "--out", str(tmp_path / "out"), "--device", "cpu", *words]) == 2
        err = capsys.readouterr().err
        assert says in err and err.strip().splitlines()[-1].startswith("Error: "), err
    assert not (tmp_path / "out").exists()
