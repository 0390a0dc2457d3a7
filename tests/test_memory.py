"""Presets by a device's memory, and what happens when it runs out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from s2l import attacks
from s2l import finetune as ft
from s2l.config import AuditConfig, FineTuneConfig, SamplerConfig
from s2l.data import sp_set
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.model.memory import GB, PRESETS, SD1_MAP, fitted, halving, preset_for
from s2l.pipeline.stages import SP_SET, Stages
from s2l.store import Store

NAME = "Mira Solwyn"
FAST = SamplerConfig(num_inference_steps=2)
CUDA = torch.device("cuda")  # only its name is used


@pytest.mark.parametrize(
    "gigabytes, expected", [(4, 8), (7.6, 8), (11.8, 12), (15.9, 16), (23.6, 24), (32, 24), (40, 40), (141, 40)]
)
def test_a_device_gets_the_preset_of_its_size(gigabytes, expected):
    assert preset_for(int(gigabytes * GB)).gigabytes == expected


def test_more_memory_never_means_less():
    for smaller, larger in pairwise(PRESETS):
        assert smaller.batch_size <= larger.batch_size and smaller.train_batch_size <= larger.train_batch_size
        assert smaller.gradient_checkpointing >= larger.gradient_checkpointing


def test_a_preset_is_for_stable_diffusion_and_grows_for_smaller_models():
    preset = PRESETS[0]
    assert fitted(preset, SD1_MAP, CUDA) == preset
    larger = fitted(preset, SD1_MAP * 9 // 4, CUDA)  # 768 pixels
    assert larger.batch_size == larger.train_batch_size == 1
    lab = fitted(preset, 64 * 16 * 16, CUDA)
    assert lab.batch_size > 32 and not lab.gradient_checkpointing and not lab.vae_slicing
    assert fitted(preset, 64 * 16 * 16, torch.device("cpu")).batch_size == 32


def test_what_the_user_asks_for_wins(tiny_checkpoint):
    asked = Runtime("cpu", "float32", batch_size=3, train_batch_size=2)
    assert vars(DiffusionModel.load(str(tiny_checkpoint), asked).runtime) == vars(asked)
    model = DiffusionModel.load(str(tiny_checkpoint), Runtime("cpu", "float32"))
    assert (model.runtime.batch_size, model.runtime.train_batch_size) == (32, 32)


# --- out of memory ---------------------------------------------------------------------------


class Full:
    """Breaks a method as a full GPU does, whenever it is given more than `room` images."""

    def __init__(self, room: int):
        self.room, self.sizes = room, []

    def __call__(self, real):
        def method(x, *arguments, **named):
            if len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            self.sizes.append(len(x))
            return real(x, *arguments, **named)

        return method


@pytest.fixture
def model(tiny_model):
    tiny_model.runtime = replace(tiny_model.runtime, train_batch_size=4)
    tiny_model.one_core_per_batch = False  # as on a GPU, whose memory this is about
    return tiny_model


def test_a_stage_halves_the_batch_says_so_and_gives_the_same(model, tmp_path, monkeypatch, capsys):
    prompts, seeds = [f"a photo of {NAME}"] * 4, range(4)
    expected = model.generate(prompts, seeds, FAST)
    full = Full(room=5)  # with guidance four images are eight predictions
    monkeypatch.setattr(model, "eps", full(model.eps))
    folder = Stages(Store(tmp_path))(
        SP_SET, "key", lambda place: sp_set.generate_images(model, prompts, seeds, FAST, place)
    )
    drawn = sp_set.load_images(folder).floats()
    assert (drawn - expected).abs().max() < 2 / 255
    assert set(full.sizes) == {4} and model.runtime.batch_size == 2
    assert capsys.readouterr().err.splitlines() == ["SP set: out of memory; continuing with half the batch"]


def test_pictures_that_were_drawn_before_memory_ran_out_are_kept(model, tmp_path, monkeypatch):
    drawn, decode = [], model.decode_latents

    def run_out_later(z):
        drawn.append(len(z))
        if len(drawn) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(z)

    monkeypatch.setattr(model, "decode_latents", run_out_later)
    place = tmp_path / "sp"
    images = halving(lambda: sp_set.generate_images(model, [NAME] * 8, range(8), FAST, place), "sp_set")
    assert len(images) == 8 and drawn == [4, 4, 2, 2]


def test_attacks_go_on_with_half_the_batch(model, monkeypatch, capsys):
    images = ImageSet(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), (NAME,) * 4, tuple("abcd"))
    query = attacks.make_query(model, images)
    expected = attacks.run_attack("loss", model, query, AuditConfig())
    monkeypatch.setattr(model, "eps", Full(room=2)(model.eps))
    found = halving(lambda: attacks.run_attack("loss", model, query, AuditConfig()), "attack loss")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert "half the batch" in capsys.readouterr().err


def test_it_is_halved_once(model, monkeypatch):
    monkeypatch.setattr(model, "eps", Full(room=1)(model.eps))
    with pytest.raises(UserError, match="--batch-size"):
        halving(lambda: model.generate([NAME] * 4, range(4), FAST), "sp_set")
    assert model.runtime.batch_size == 2


def test_a_single_image_that_does_not_fit(model, monkeypatch):
    model.runtime = replace(model.runtime, batch_size=1, train_batch_size=1)
    monkeypatch.setattr("s2l.model.memory._LIVE", {model})
    monkeypatch.setattr(model, "eps", Full(room=0)(model.eps))
    with pytest.raises(UserError, match="not even one image"):
        halving(lambda: model.generate([NAME], [0], FAST), "sp_set")


def test_other_errors_are_not_mistaken_for_full_memory(model):
    def work():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        halving(work, "sp_set")
    assert model.runtime.batch_size == 4


def trained(model, folder, **runtime) -> list[float]:
    model.runtime = replace(model.runtime, **runtime)
    images = ImageSet(torch.arange(6 * 3 * 32 * 32).reshape(6, 3, 32, 32).byte(), (NAME,) * 6, tuple("abcdef"))
    ft.finetune(model, images, FineTuneConfig(max_train_steps=3, train_batch_size=6), folder, NAME)
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("at_once", [4, 1])
def test_a_training_step_in_parts_is_the_same_step(model, tmp_path, at_once):
    """4 does not divide 6: the parts are of unequal size."""
    whole = trained(model, tmp_path / "whole", train_batch_size=6)
    assert trained(model, tmp_path / "parts", train_batch_size=at_once) == pytest.approx(whole, rel=1e-4)


def test_gradient_checkpointing_trains_the_same(model, tmp_path):
    plain = trained(model, tmp_path / "plain")
    copied = model.copy

    def copy_with_less():
        tuned = copied()
        tuned.memory = replace(tuned.memory, gradient_checkpointing=True)
        return tuned

    model.copy = copy_with_less
    assert trained(model, tmp_path / "checkpointing") == pytest.approx(plain, rel=1e-4)
