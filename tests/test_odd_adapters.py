"""LoRA in odd forms: what the file says of itself is applied or said, and what means more than a LoRA is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from s2l.errors import UserError
from s2l.model.adapters import read_adapter
from tests import sd_layout

RANK = 4


@pytest.fixture(scope="module")
def unet():
    return sd_layout.build().unet


def matrices(unet, ends=("to_q", "to_k", "to_v", "to_out.0")):
    """{layer: (down, up)}"""
    generator, found = torch.Generator().manual_seed(5), {}
    for name, layer in unet.named_modules():
        if name.endswith(ends) and isinstance(layer, nn.Linear | nn.Conv2d):
            shape = layer.weight.shape
            down = torch.randn(RANK, *shape[1:], generator=generator)
            found[name] = down, torch.randn(shape[0], RANK, *(1 for _ in shape[2:]), generator=generator)
    return found


def kohya(unet, alpha=None, **more):
    state = {}
    for name, (down, up) in matrices(unet, **more).items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        if alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(alpha)
    return state


def peft(unet, adapter="", prefix="unet."):
    state = {}
    for name, (down, up) in matrices(unet).items():
        state |= {f"{prefix}{name}.lora_A{adapter}.weight": down, f"{prefix}{name}.lora_B{adapter}.weight": up}
    return state


def write(path, state, metadata=None):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def read(unet, path):
    return read_adapter(path, {"unet": unet})


def refused(unet, path) -> str:
    with pytest.raises(UserError) as error:
        read(unet, path)
    assert "\n" not in str(error.value)
    return str(error.value)


def alphas(adapter) -> set[float]:
    return set(adapter.parts["unet"][0].alpha_pattern.values())


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of kohya whose alpha stands only in the metadata (`ss_network_alpha`, `conv_alpha`)",
    "applied, and said",
)
@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({"ss_network_alpha": "1"}, {1.0}),
        ({"ss_network_alpha": "2", "ss_network_args": '{"conv_dim": "4", "conv_alpha": "0.5"}'}, {2.0, 0.5}),
        ({"ss_network_alpha": "2", "ss_network_args": '{"conv_dim": "4"}'}, {2.0, 1.0}),
        ({"ss_network_alpha": "None"}, {float(RANK)}),
        ({}, {float(RANK)}),
    ],
)
def test_an_alpha_in_the_metadata_of_kohya_counts(unet, tmp_path, metadata, expected):
    state = kohya(unet, ends=("to_q", "conv1"))
    adapter = read(unet, write(tmp_path / "lora.safetensors", state, metadata))
    assert alphas(adapter) == expected
    said = "have the alpha of the metadata" if expected != {float(RANK)} else "it has no alpha for the unet"
    assert any(said in note for note in adapter.notes)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of kohya whose alphas contradict its metadata",
    "the alphas of the layers count, and it is said",
)
def test_alphas_that_contradict_the_metadata_are_said(unet, tmp_path):
    path = write(tmp_path / "lora.safetensors", kohya(unet, 2.0), {"ss_network_alpha": "1"})
    adapter = read(unet, path)
    assert alphas(adapter) == {2.0} and any("such as 2 where the metadata says 1" in note for note in adapter.notes)
    path = write(tmp_path / "lora.safetensors", kohya(unet), {"ss_network_alpha": "much"})
    assert "ss_network_alpha of" in refused(unet, path) and "a number is needed" in refused(unet, path)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA whose metadata or settings name its base model, SDXL among others",
    "said and stored; a base that is none of Stable Diffusion 1.x or 2.x with a warning",
)
@pytest.mark.parametrize(
    "metadata, said",
    [
        ({"ss_base_model_version": "sd_v1"}, "trained on 'sd_v1', says its ss_base_model_version"),
        (
            {"ss_sd_model_name": "mine", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
            "xl-v1-base/lora'.*not Stable",
        ),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl_base_v1-0.*which is not Stable Diffusion 1.x or 2.x"),
    ],
)
def test_the_base_model_that_a_lora_names_is_said(unet, tmp_path, metadata, said):
    notes = read(unet, write(tmp_path / "lora.safetensors", kohya(unet, 2.0), metadata)).notes
    assert any(re.search(said, note) for note in notes)


@pytest.mark.brings(
    "Tuned models", "A LoRA whose settings name a text encoder of which it holds no matrices", "loaded; said"
)
def test_settings_of_a_part_without_matrices_are_said(unet, tmp_path):
    settings = {"text_encoder.r": 4, "text_encoder.lora_alpha": 16}
    path = write(tmp_path / "lora.safetensors", peft(unet), {"lora_adapter_metadata": json.dumps(settings)})
    assert any("name a LoRA of the text_encoder, but it holds no" in note for note in read(unet, path).notes)


@pytest.mark.brings("Tuned models", "A LoRA saved under an adapter's name (`lora_A.mira.weight`)", "loaded; said")
def test_an_adapter_of_another_name_is_the_same(unet, tmp_path):
    plain = read(unet, write(tmp_path / "plain.safetensors", peft(unet)))
    named = read(unet, write(tmp_path / "named.safetensors", peft(unet, ".mira")))
    one, other = plain.parts["unet"][1], named.parts["unet"][1]
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert "its adapter is called 'mira'" in named.notes
    both = peft(unet, ".mira") | peft(unet, ".taro")
    assert "several adapters (mira, taro)" in refused(unet, write(tmp_path / "both.safetensors", both))


@pytest.mark.brings("Tuned models", "A LoRA with biases, or with LyCORIS's scalars", "refused by name")
@pytest.mark.parametrize(
    "name, kind",
    [
        ("unet.mid_block.attentions.0.proj_in.lora_B.bias", "a LoRA with biases (lora_bias)"),
        ("lora_unet_mid_block_attentions_0_proj_in.scalar", "scalars beside its matrices"),
    ],
)
def test_more_than_a_lora_is_refused_by_name(unet, tmp_path, name, kind):
    path = write(tmp_path / "lora.safetensors", peft(unet) | {name: torch.ones(1)})
    assert kind in refused(unet, path) and name in refused(unet, path)


@pytest.mark.brings(
    "Tuned models",
    "Settings of peft that are no numbers where numbers are needed",
    "refused: which one, and what is needed",
)
@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"lora_alpha": "4"}, "has lora_alpha '4', where a number is needed"),
        ({"lora_alpha": None}, "has lora_alpha None, where a number is needed"),
        ({"rank_pattern": {"to_q": "4"}}, "where a whole number above 0 is needed for each name"),
        ({"rank_pattern": [4]}, "an object of names and numbers is needed"),
        ({"alpha_pattern": {"to_q": True}}, "where a number is needed for each name"),
        ({"r": 4.0}, "has r 4.0, where a whole number above 0 is needed"),
        ({"r": -4}, "has r -4, where a whole number above 0 is needed"),
    ],
)
@pytest.mark.parametrize("in_metadata", [False, True])
def test_settings_that_are_no_numbers_are_a_sentence(unet, tmp_path, settings, reason, in_metadata):
    whole = {"r": RANK, "lora_alpha": 4, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]} | settings
    if in_metadata:
        said = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in whole.items()})}
        path = write(tmp_path / "lora.safetensors", peft(unet), said)
    else:
        write(tmp_path / "adapter_model.safetensors", peft(unet, prefix="base_model.model."))
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | whole))
        path = tmp_path
    assert reason in refused(unet, path)


@pytest.mark.brings("Tuned models", "`adapter_config.json` with a byte order mark", "read")
def test_settings_of_peft_with_a_byte_order_mark_are_read(unet, tmp_path):
    write(tmp_path / "adapter_model.safetensors", peft(unet, prefix="base_model.model."))
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(said | {"base_model_name_or_path": "mine"}), encoding="utf-8-sig")
    adapter = read(unet, tmp_path)
    assert adapter.parts["unet"][0].lora_alpha == 8 and "it was trained on 'mine'" in adapter.notes[0]
    path.write_text(json.dumps(said | {"lora_alpha": float("nan")}))
    assert "adapter_config.json cannot be read as JSON: NaN is not a number" in refused(unet, tmp_path)
