"""A little of everything on a random-weight model: do these versions of the libraries fit together at all?

`python3 start.py test --newest` and `--oldest` run it in environments of their own. It says nothing about numbers.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from s2l import cli
from s2l.attacks import ATTACKS
from s2l.config import RunConfig, preset
from s2l.data import sp_set
from s2l.finetune import FINETUNERS, finetune, load_finetuned
from s2l.finetune.catalogue import legal_combinations
from s2l.finetune.method import weights_of
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.options import FIELDS
from s2l.pipeline.experiment import run
from s2l.store import Store

pytestmark = pytest.mark.smoke

NAME = "Mira Solwyn"
CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
TINY = {
    "sp_set": {"set_size": 2, "sampler": {"num_inference_steps": 2}},
    "finetune": {"max_train_steps": 1, "train_batch_size": 2},
    "audit": {"attacks": ["loss"]},
    "extraction": {"n_generations": 2, "sampler": {"num_inference_steps": 2}},
}
DOMAIN = {"name": NAME, "n_members": 2, "n_nonmembers": 2}
SMALL = f"--domain '{NAME}' --preset quick --n-nonmembers 2 --set-size 2 --steps 1 --n-generations 2 --attacks loss"
# One value of every option that `run` has.
VALUES = {
    "model": "lab", "members": "photos/in", "nonmembers": "photos/out", "n-nonmembers": "4",
    "calibration-share": "0.5", "prompt": "a photo of {name}", "set-size": "3", "together": "Taro Quillan",
    "guidance": "2", "method": "lora", "steps": "2", "learning-rate": "1e-4", "rank": "2", "train-batch-size": "1",
    "attacks": "pia", "noise": "position", "latents": "sample", "n-generations": "3", "seed-pool": "5",
    "guidance-w": "2", "unshake": "1", "unshake-space": "scores", "seed": "3", "mitigation": "flat_start",
    "epsilon": "8",
}  # fmt: skip
NEEDS = {"unshake-space": "--unshake 1", "epsilon": "--train-batch-size 1"}  # beside an option
FOLDERS = ("members", "nonmembers", "calibration-share")


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> DiffusionModel:
    return DiffusionModel.load(str(tiny_checkpoint), CPU)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """The working directory, with photos/in and photos/out."""
    monkeypatch.chdir(tmp_path)
    for part, start in (("in", 0), ("out", 100)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for i in range(4):
            noise = torch.randint(256, (70, 70, 3), generator=torch.Generator().manual_seed(start + i))
            Image.fromarray(noise.byte().numpy()).save(tmp_path / "photos" / part / f"{i}.jpg", quality=90)
    return tmp_path


def s2l(line: str) -> None:
    assert cli.main(shlex.split(line)) == 0


@pytest.mark.parametrize("methods", legal_combinations(), ids="+".join)
@pytest.mark.parametrize("text_encoder", [False, True])
def test_every_combination_of_methods_trains_and_is_read_back(model, tmp_path, methods, text_encoder):
    parts = {"methods": methods, "train_text_encoder": text_encoder}
    if "dreambooth" in methods:
        parts["settings"] = {"dreambooth": {"num_class_images": 1, "class_sampler": {"num_inference_steps": 1}}}
    config = preset("quick", NAME, finetune=TINY["finetune"] | parts).finetune
    images = sp_set.generate_sp_set(model, NAME, preset("quick", NAME, **TINY).sp_set, tmp_path / "sp")
    finetune(model, images, config, tmp_path / "tuned", NAME)
    tuned = load_finetuned(model, tmp_path / "tuned")
    assert all(torch.isfinite(p).all() for p in tuned.unet.parameters())
    assert all(weights_of(name) is not None for name in FINETUNERS if FINETUNERS.known(name).kind != "objective")


def test_a_run_with_every_attack(tiny_lab, tmp_path):
    config = preset("quick", DOMAIN, **TINY | {"audit": {"attacks": sorted(ATTACKS)}})
    record = run(config, Store(tmp_path / "c"), CPU).record
    assert set(record["attacks"]) == set(ATTACKS)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "mixed"])
def test_a_run_in_every_precision(tiny_lab, photos, dtype):
    s2l(f"run {SMALL} --dtype {dtype} --out out")
    assert (photos / "out" / "report.html").stat().st_size > 10_000


def test_every_option_of_a_run_has_a_value_here():
    assert set(VALUES) == set(FIELDS)
    assert RunConfig(domain=DOMAIN)


@pytest.mark.parametrize("option", [name for name in VALUES if name not in FOLDERS])
def test_every_option_of_a_run(tiny_lab, photos, option):
    words = shlex.split(SMALL)
    if f"--{option}" in words:
        at = words.index(f"--{option}")
        del words[at : at + 2]
    s2l(f"run {shlex.join(words)} --dtype float32 --{option} '{VALUES[option]}' {NEEDS.get(option, '')} --out out")
    assert json.loads((photos / "out" / "result.json").read_text())["kind"] == "run"


def test_photos_of_ones_own_through_all_commands(tiny_lab, foreign_checkpoint, photos):
    folders = "--members photos/in --nonmembers photos/out"
    base = f"--model {foreign_checkpoint} --i-have-permission --dtype float32"
    small = SMALL.replace("--n-nonmembers 2", "--n-nonmembers 4")
    s2l(f"run {small} {base} {folders} --calibration-share 0.5 --out out")
    s2l(f"sp-gen --domain '{NAME}' --preset quick --set-size 2 {base} --out sp")
    s2l(f"finetune --sp-set sp --domain '{NAME}' --preset quick --steps 1 {base} --logdir tuned")
    s2l(f"attack --domain '{NAME}' --preset quick --tuned tuned {base} {folders} --attacks secmi --out attack.json")
    s2l(f"extract --domain '{NAME}' --preset quick -n 2 --tuned tuned {base} {folders} --out extracted")
    s2l(f"audit --domain '{NAME}' --preset quick --tuned tuned --n-generations 2 {base} {folders} --out audited")
    s2l(f"split-check {folders}")
    s2l("methods")
    s2l("attacks")


def test_the_page_is_built(tiny_lab, tmp_path, monkeypatch):
    from s2l.jobs.store import Jobs
    from s2l.ui.backend import Backend
    from s2l.ui.layout import build

    assert build(Backend(Jobs(Store(tmp_path / "c")))).get_config_file()["components"]


def test_tables_of_captions_in_parquet(photos):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from s2l.data.photos import read_photos

    table = pa.table({"file_name": ["0.jpg", "1.jpg"], "text": ["one", "two"]})
    pq.write_table(table, photos / "photos" / "in" / "metadata.parquet")
    assert {"one", "two"} <= set(read_photos(photos / "photos" / "in", 64, "x", what="members").captions)
