"""Every weight of every part is accounted for: what is missing, left over or misshapen is refused by name."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from s2l.errors import UserError
from s2l.model.checkpoints import locate
from s2l.model.diffusion import DiffusionModel, Runtime
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return sd_layout.write_folder(tmp_path_factory.mktemp("loading") / "sd1")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


def rename(path, change):
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def weights(model, part):
    return getattr(model, part).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("part", FILES)
def test_weights_load_as_diffusers_loads_them(original, part):
    plain = StableDiffusionPipeline.from_pretrained(original, torch_dtype=torch.float32)
    assert same(weights(DiffusionModel.load(str(original), CPU), part), getattr(plain, part).state_dict())


@pytest.mark.brings(
    "Models",
    "Weights saved by a wrapper (`module.`, `_orig_mod.`)",
    "loaded under their plain names; a note says so",
)
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
@pytest.mark.parametrize("part", FILES)
def test_wrapped_names_are_unwrapped_and_said(original, folder, capfd, part, wrapper):
    rename(folder / FILES[part], lambda name: wrapper + name)
    model = DiffusionModel.load(str(folder), CPU)
    assert same(weights(model, part), weights(DiffusionModel.load(str(original), CPU), part))
    assert part in "".join(model.notes) and part in capfd.readouterr().err


@pytest.mark.brings(
    "Models",
    "Weights saved with peft's adapters around them (`base_layer`)",
    "loaded as the plain weights",
)
def test_base_layers_of_peft_are_unwrapped(original, folder):
    rename(folder / FILES["unet"], lambda name: name.replace("to_q.weight", "to_q.base_layer.weight"))
    model = DiffusionModel.load(str(folder), CPU)
    assert model.notes and same(weights(model, "unet"), weights(DiffusionModel.load(str(original), CPU), "unet"))


@pytest.mark.brings(
    "Models",
    "A part whose weights are missing, unexpected or of another shape",
    "refused; the sentence names the weights",
)
@pytest.mark.parametrize("part", FILES)
def test_missing_unexpected_and_misshapen_weights_are_refused_by_name(folder, part):
    path = folder / FILES[part]
    whole = load_file(path)
    name = next(name for name, tensor in whole.items() if tensor.ndim == 2)
    for damaged, reason in (
        ({k: v for k, v in whole.items() if k != name}, "lacks"),
        (whole | {"foreign.weight": torch.zeros(3)}, "no place for"),
        (whole | {name: whole[name][:-1].clone()}, "of shape"),
    ):
        save_file(damaged, path)
        with pytest.raises(UserError, match=reason) as error:
            DiffusionModel.load(str(folder), CPU)
        assert part in str(error.value) and "\n" not in str(error.value)
        assert (name if reason != "no place for" else "foreign.weight").removeprefix("text_model.") in str(error.value)


def test_harmless_leftovers_are_not_mentioned(folder, capfd):
    path = folder / FILES["text_encoder"]
    more = {"text_model.embeddings.position_ids": torch.arange(4), "text_projection.weight": torch.zeros(2, 2)}
    save_file(load_file(path) | more, path)
    assert DiffusionModel.load(str(folder), CPU).notes == () and "copy:" not in capfd.readouterr().err


@pytest.fixture
def single_file(folder, tmp_path):
    """A single file with the configuration of its small networks in the folder beside it."""
    for path in FILES.values():
        (folder / path).unlink()
    shutil.move(folder, tmp_path / "small")
    return sd_layout.write_single_file(tmp_path / "small.safetensors", sd_layout.build())


@pytest.mark.brings(
    "Models",
    "A single file with foreign or incomplete weights",
    "refused; the sentence names the weights",
)
@pytest.mark.parametrize(
    "name, reason",
    [
        ("model.diffusion_model.foreign.weight", "unet has no place for"),
        ("first_stage_model.foreign.weight", "vae has no place for"),
        ("cond_stage_model.transformer.text_model.foreign.weight", "text_encoder has no place for"),
    ],
)
def test_foreign_weights_of_a_single_file_are_refused_by_name(single_file, name, reason):
    save_file(load_file(single_file) | {name: torch.ones(3)}, single_file)
    with pytest.raises(UserError, match=reason) as error:
        DiffusionModel.load(str(single_file), CPU)
    assert "foreign.weight" in str(error.value)


@pytest.mark.brings("Models", "A single file without VAE", "refused with one sentence")
def test_a_single_file_without_autoencoder_is_a_sentence(single_file):
    left = {name: x for name, x in load_file(single_file).items() if not name.startswith("first_stage_model.")}
    save_file(left, single_file)
    with pytest.raises(UserError, match="has no vae"):
        DiffusionModel.load(str(single_file), CPU)


def test_leftovers_of_training_in_a_single_file_are_not_mentioned(single_file, capfd):
    ema = {f"model_ema.{i}": torch.ones(2) for i in range(3)}
    names = ("betas", "sqrt_one_minus_alphas_cumprod", "first_stage_model.loss.x")
    more = {name: torch.ones(2) for name in names}
    more |= {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(4)}
    save_file(load_file(single_file) | ema | more, single_file)
    assert DiffusionModel.load(str(single_file), CPU).notes == () and "small.safetensors:" not in capfd.readouterr().err


# --- files that are no weights -------------------------------------------------------------------


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGED = {
    "git-lfs pointer": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    ),
    "not a whole": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "not a readable": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "not a regular file": pipe,
    "without any weights": lambda path: save_file({}, path),
}


@pytest.mark.brings(
    "Models",
    "A git-lfs pointer, an empty, cut or irregular file as weights",
    "refused before anything is loaded",
)
@pytest.mark.parametrize("reason", DAMAGED)
@pytest.mark.parametrize("part", FILES)
def test_damaged_weights_are_a_sentence_before_anything_is_read(folder, part, reason):
    DAMAGED[reason](folder / FILES[part])
    with pytest.raises(UserError, match=reason) as error:
        locate(str(folder))
    assert FILES[part] in str(error.value)


@pytest.mark.brings("Models", "A folder that only has `*.fp16.safetensors`", "loaded; a note names the variant")
@pytest.mark.parametrize("part", FILES)
def test_a_folder_with_a_variant_only_loads_it_and_says_so(original, folder, part):
    path = folder / FILES[part]
    path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    model = DiffusionModel.load(str(folder), CPU)
    assert part in model.notes[0] and "fp16" in model.notes[0]
    assert same(weights(model, part), weights(DiffusionModel.load(str(original), CPU), part))


@pytest.mark.brings("Models", "Weights that are infinite, or overflow in float16", "refused, with what to try")
def test_infinite_and_overflowing_weights_are_refused_with_advice(folder):
    path = folder / FILES["vae"]
    whole = load_file(path)
    name = next(iter(whole))
    save_file(whole | {name: torch.full_like(whole[name], 1e30)}, path)
    DiffusionModel.load(str(folder), CPU)
    with pytest.raises(UserError, match="as float16: try float32"):
        DiffusionModel.load(str(folder), Runtime("cpu", "float16"))
    save_file(whole | {name: torch.full_like(whole[name], float("nan"))}, path)
    with pytest.raises(UserError, match="NaN or infinity in .* in the file"):
        DiffusionModel.load(str(folder), CPU)
