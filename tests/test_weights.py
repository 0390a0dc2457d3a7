"""The weights that the page offers to download load into plain diffusers, by the lines that come with them."""

from __future__ import annotations

import zipfile

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from s2l.config import preset
from s2l.data.sp_set import ImageSet
from s2l.finetune import finetune
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.record import Result
from s2l.store import Store
from s2l.ui import weights
from s2l.ui.backend import Backend
from s2l.worlds.people import LAB_NAMES

NAME = LAB_NAMES[0]


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    return DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=8))


@pytest.fixture(scope="module")
def sp_set(base):
    side = base.resolution
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, (f"a photo of {NAME}",) * 4, tuple("abcd"))


def run_of(store: Store, methods: list[str], folder: str = "tuned") -> Result:
    config = preset("quick", NAME, finetune={"methods": methods, "max_train_steps": 1, "learning_rate": 1e-2})
    record = {
        "key": "f00d" * 6, "config": config.model_dump(mode="json"), "folders": {"finetune": folder},
        "model": {"name": "lab"},
    }  # fmt: skip
    return Result(record, store)


@pytest.mark.parametrize("methods", [["lora"], ["textual_inversion"], ["end_to_end"]])
def test_the_download_loads_by_its_own_lines(base, sp_set, tiny_checkpoint, tmp_path, monkeypatch, methods):
    store = Store(tmp_path / "cache")
    result = run_of(store, methods)
    config = preset("quick", NAME, finetune=result.record["config"]["finetune"]).finetune
    finetune(base, sp_set, config, store.root / "tuned", NAME)
    path = Backend.open(store).weights_zip(result)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "taken")
    monkeypatch.chdir(tmp_path / "taken")
    lines = (tmp_path / "taken" / "weights" / "README.txt").read_text()
    code = lines[lines.index("from diffusers") : lines.index("\n\nThe captions")]
    said = {"BASE": str(tiny_checkpoint), "UNet2DConditionModel": UNet2DConditionModel, "CLIPTextModel": CLIPTextModel}
    plain = StableDiffusionPipeline.from_pretrained(tiny_checkpoint, safety_checker=None)
    exec(code, said)
    changed = said["pipe"]
    captions = ["a photo of <s2l>" if methods == ["textual_inversion"] else f"a photo of {NAME}"]
    with torch.no_grad():
        c0, c1 = (pipe.encode_prompt(captions, "cpu", 1, False)[0] for pipe in (plain, changed))
        x, t = torch.zeros(1, *(plain.unet.config.in_channels, 8, 8)), torch.tensor([500])
        differ = (plain.unet(x, t, c0).sample - changed.unet(x, t, c1).sample).abs().max()
    assert differ > 1e-6


def test_no_download_where_no_weights_are_kept(tmp_path):
    store = Store(tmp_path / "cache")
    assert weights.files_of(run_of(store, ["lora"], "gone")) == []
    (store.root / "empty").mkdir(parents=True)
    (store.root / "empty" / "config.json").write_text("{}")
    assert Backend.open(store).weights_zip(run_of(store, ["gaussian_noise"], "empty")) is None
