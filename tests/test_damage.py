"""Files of the cache that a full disk, a power cut or a bad copy damaged: made again, with the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from s2l.config import merged, preset
from s2l.damage import KINDS, damage, damaged_files
from s2l.errors import UserError
from s2l.model.saved import load_state
from s2l.pipeline.experiment import load_result, run
from s2l.pretrain.data import public_pool
from s2l.pretrain.recipe import RECIPES
from s2l.progress import Cancelled
from s2l.store import Store, read_json
from s2l.training import CHECKPOINT, LOG
from tests.test_experiment import CPU, SMALL

EVERY_STAGE = {
    "finetune": {"methods": ("lora", "dreambooth"), "num_class_images": 2, "train_text_encoder": True},
    "extraction": {"seed_pool": 3},
    "unshake": {"w": 1.0, "space": "scores"},
}
STAGES = {
    "sp_set", "class_images", "finetune", "images", "scores", "seeds", "loss_parts", "generations", "audit", "result",
}  # fmt: skip
WAYS = {
    "cut": lambda content: content[: len(content) * 2 // 5],  # half of a log of two lines may be one whole line
    "empty": lambda content: b"",
    "garbled": lambda content: bytes(byte ^ 0x5A for byte in content),
}


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, tmp_path_factory):
    """(configuration, root of a cache with every stage of a run, its result's record)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2L_LAB", str(tiny_checkpoint))
        domain = {"name": "Mira Solwyn", "n_members": 2, "n_nonmembers": 2}
        config = preset("quick", domain, **merged(SMALL, EVERY_STAGE))
        root = tmp_path_factory.mktemp("finished") / "cache"
        return config, root, run(config, Store(root), CPU).record


def numbers(record: dict) -> dict:
    return {part: record[part] for part in ("key", "attacks", "extraction", "unshake", "domain")}


@pytest.mark.brings("Numbers", "A cut, empty or garbled file in the cache", "made again with a note; equal numbers")
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_of_any_stage_is_made_again(finished, tiny_lab, tmp_path, way, capsys):
    config, root, record = finished
    shutil.copytree(root, tmp_path / "cache")
    store, hurt, kinds = Store(tmp_path / "cache"), [], set()
    for entry in (store.root / "stages").glob("*/*"):
        for file in (f for f in entry.rglob("*") if f.suffix in KINDS and f.stat().st_size):
            file.write_bytes(WAYS[way](file.read_bytes()))
            hurt.append(file)
            kinds.add(entry.parent.name)
    assert {f.suffix for f in hurt} >= {".json", ".safetensors", ".png"}
    assert kinds == STAGES
    again = run(config, store, CPU)
    assert numbers(again.record) == numbers(record)
    said = capsys.readouterr().err
    for file in hurt:
        assert f"{file.relative_to(store.root / 'stages').as_posix()} is " in said
    assert not [entry for entry in (store.root / "stages").glob("*/*") if damaged_files(entry)]
    assert len(again.images("after")) == 2
    run(config, store, CPU)
    assert "made again" not in capsys.readouterr().err


def test_one_damaged_stage_alone_is_made_again(finished, tiny_lab, tmp_path, capsys):
    config, root, record = finished
    shutil.copytree(root, tmp_path / "cache")
    store = Store(tmp_path / "cache")
    scores = sorted((store.root / "stages" / "scores").glob("*/*.safetensors"))[0]
    scores.write_bytes(b"")
    again = run(config, store, CPU).record
    assert numbers(again) == numbers(record)
    stages = {name: stage for name, stage in again["stages"].items() if name != "total"}
    assert [stage["key"] for stage in stages.values() if not stage["cached"]] == [scores.parent.name]


def test_a_picture_that_is_gone_is_drawn_again(finished, tiny_lab, tmp_path, capsys):
    config, root, _ = finished
    shutil.copytree(root, tmp_path / "cache")
    store = Store(tmp_path / "cache")
    picture = next((store.root / "stages" / "sp_set").glob("*/*.png"))
    before = picture.read_bytes()
    picture.unlink()
    run(config, store, CPU)
    assert picture.read_bytes() == before and "is missing; it is made again" in capsys.readouterr().err


def test_a_damaged_result_is_none(finished, tmp_path):
    _, root, record = finished
    shutil.copytree(root, tmp_path / "cache")
    store = Store(tmp_path / "cache")
    assert load_result(record["key"], store).key == record["key"]
    (store.path("result", record["key"]) / "result.json").write_bytes(b'{"attacks": {')
    with pytest.raises(KeyError):
        load_result(record["key"], store)


@pytest.mark.brings("Numbers", "A cut, empty or garbled training checkpoint", "the training starts again, with a note")
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_starts_the_training_again(finished, tiny_lab, tmp_path, way, capsys):
    config, _, record = finished
    store = Store(tmp_path / "cache")

    def stop(event):
        if event.stage == "finetune" and event.step == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(config, store, CPU, stop)
    (state,) = store.root.rglob(CHECKPOINT)
    content = state.read_bytes()
    state.write_bytes(WAYS[way](content))
    capsys.readouterr()
    assert numbers(run(config, store, CPU).record) == numbers(record)
    assert "training.pt is " in capsys.readouterr().err
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(content[:1000] + content[:1000])  # outside the cache: in a folder of --out
    assert load_state(state, "the training starts again") is None and not state.exists()
    assert "training.pt cannot be read (" in (said := capsys.readouterr().err) and "starts again" in said


def test_a_log_without_its_last_line_is_written_again(finished, tiny_lab, tmp_path):
    config, root, _ = finished
    shutil.copytree(root, tmp_path / "cache")
    store = Store(tmp_path / "cache")
    (log,) = (store.root / "stages" / "finetune").glob(f"*/{LOG}")
    whole = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    log.write_text(log.read_text()[:-9])
    run(config, store, CPU)
    assert [json.loads(line)["loss"] for line in log.read_text().splitlines()] == whole


def test_what_is_whole_is_left_alone(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text("{}\n")
    (tmp_path / "notes.txt").write_text("")
    torch.save({"x": torch.ones(3)}, tmp_path / "x.pt")
    np.savez(tmp_path / "y.npz", y=np.ones(3))
    assert damaged_files(tmp_path) == {}
    (tmp_path / "y.npz").write_bytes((tmp_path / "y.npz").read_bytes()[:-30])
    assert damaged_files(tmp_path) == {"y.npz": "is cut or garbled"}
    assert damage(tmp_path / "nowhere.json") == "is cut or garbled"


def test_json_that_cannot_be_read_names_its_file(tmp_path):
    (tmp_path / "request.json").write_text('{"model": "la')
    with pytest.raises(UserError, match=r"request.json is cut or garbled .*: delete it, and the command that wrote it"):
        read_json(tmp_path / "request.json")


def test_a_labs_photos_and_latents_are_made_again(tmp_path, capsys):
    recipe = RECIPES["quick"]
    first = public_pool(recipe, tmp_path)
    (tmp_path / "public.npy").write_bytes((tmp_path / "public.npy").read_bytes()[:500])
    assert torch.equal(public_pool(recipe, tmp_path), first)
    assert "public.npy cannot be read" in capsys.readouterr().err
    for content in (b"", b"garbage"):
        Path(tmp_path / "latents.pt").write_bytes(content)
        assert load_state(tmp_path / "latents.pt", "the photos are encoded again") is None
        assert "the photos are encoded again" in capsys.readouterr().err
