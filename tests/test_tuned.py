"""What people bring as the fine-tuned model: made by the libraries themselves, and applied as the libraries do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from s2l import cli
from s2l.cli import base as cli_base
from s2l.config import FineTuneConfig, UnshakeConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.errors import UserError
from s2l.finetune import hypernetwork
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.model.lora_names import original_names
from s2l.pipeline.subject import Subject
from s2l.pipeline.tuned import caption_notes, read_tuned
from s2l.pipeline.unshake import unshaken
from s2l.training import CHECKPOINT
from tests import sd_layout

CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
NAME = "Mira Solwyn"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYWHERE = [*ATTENTION, "proj_in", "ff.net.0.proj", "conv1", "conv_shortcut", "time_emb_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sd_layout.write_folder(tmp_path_factory.mktemp("tuned") / "sd1")


@pytest.fixture(scope="module")
def base(folder):
    return DiffusionModel.load(str(folder), CPU)


@pytest.fixture
def plain(folder):
    """The base model in plain diffusers."""
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def weights(pipe) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part in ("unet", "text_encoder")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }


def equal(one, other, tolerance=1e-6) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=tolerance) for n in one)


def eps(model, caption=f"a photo of {NAME}") -> torch.Tensor:
    z = model.noise([1, 2])
    return model.eps(z, 500, model.encode_prompts([caption] * 2))


def same_predictions(model, pipe, caption) -> bool:
    """Whether the product's model predicts what the plain pipeline does, caption and all."""
    z = model.noise([1, 2])
    ours = model.eps(z, 500, model.encode_prompts([caption] * 2))
    context = pipe.encode_prompt([caption] * 2, "cpu", 1, False)[0]
    return torch.allclose(ours, pipe.unet(z, 500, context).sample, atol=1e-5)


# --- LoRA ----------------------------------------------------------------------------------------


def trained(module, targets, rank=4, alpha=6.0, **more):
    """A LoRA of peft with weights that a training could have left."""
    wrapped = get_peft_model(module, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return wrapped


def in_diffusers(pipe, path, alpha=6.0, metadata=True, targets=EVERYWHERE):
    """A LoRA of UNet and text encoder as diffusers' own scripts save it."""
    layers, said = {}, {}
    for part, own in (("unet", targets), ("text_encoder", ["q_proj", "v_proj", "fc1"])):
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=own)
        module = getattr(pipe, part)
        module.add_adapter(config)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        layers[part] = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        said[part] = module.peft_config["default"].to_dict() if metadata else None
    StableDiffusionPipeline.save_lora_weights(
        path,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"],
        unet_lora_adapter_metadata=said["unet"],
        text_encoder_lora_adapter_metadata=said["text_encoder"],
    )
    return path / "pytorch_lora_weights.safetensors"


def in_kohya(modules, rank=4, alpha=2.0, old="lora_te_") -> dict[str, torch.Tensor]:
    """The tensors of a kohya file for these layers, {"unet": {name: layer}, "text_encoder": {...}}."""
    state, generator = {}, torch.Generator().manual_seed(5)
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", f"{old}text_model_")):
        for name, layer in modules.get(part, {}).items():
            stem, shape = prefix + name.removeprefix("text_model.").replace(".", "_"), layer.weight.shape
            up = (shape[0], rank, *(1 for _ in shape[2:]))
            state[f"{stem}.lora_down.weight"] = 0.1 * torch.randn(rank, *shape[1:], generator=generator)
            state[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(up, generator=generator)
            state[f"{stem}.alpha"] = torch.tensor(alpha)
    return state


def layers_of(module, ends) -> dict:
    return {name: layer for name, layer in module.named_modules() if name.endswith(tuple(ends))}


def fused(pipe, source, **more) -> dict[str, torch.Tensor]:
    """Weights after plain diffusers loaded the LoRA."""
    pipe.load_lora_weights(source, **more)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return weights(pipe)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of diffusers (`pytorch_lora_weights.safetensors`, or its folder), with alpha in the metadata or without",
    "loaded; alpha is applied, and is the rank where the file is silent",
)
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_lora_of_diffusers_is_what_diffusers_makes_of_it(base, folder, plain, tmp_path, metadata, whole_folder):
    file = in_diffusers(plain, tmp_path / "lora", metadata=metadata, targets=ATTENTION)
    tuned = read_tuned(base, file.parent if whole_folder else file)
    fresh = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    before = weights(fresh)
    reference = fused(fresh, file.parent)
    assert not equal(before, reference)
    assert equal(weights(tuned.subject.load().pipe), reference) and equal(weights(base.pipe), before)
    assert "LoRA of diffusers" in tuned.notes[0]
    assert any("scale is 1" in note for note in tuned.notes) is not metadata


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of diffusers whose layers have names of two kinds (attention `.lora.down.`, others `.lora_A.`)",
    "loaded whole (diffusers 0.42 drops the attention without a word)",
)
def test_mixed_names_lose_nothing(base, plain, tmp_path):
    file = in_diffusers(plain, tmp_path / "lora")
    names = load_file(file).keys()
    assert any(".lora.down." in name for name in names) and any("unet" in n and ".lora_A." in n for n in names)
    plain.fuse_lora()
    plain.unload_lora_weights()
    assert equal(weights(read_tuned(base, file).subject.load().pipe), weights(plain))


@pytest.mark.brings(
    "Tuned models", "A LoRA of diffusers before 0.22 (`.lora.down.weight`, `.processor.to_q_lora.`)", "loaded"
)
@pytest.mark.parametrize("old", [False, True])
def test_older_names_of_diffusers_are_read(base, folder, plain, tmp_path, old):
    file = in_diffusers(plain, tmp_path / "lora", metadata=False, targets=ATTENTION)
    state = {}
    for name, tensor in load_file(file).items():
        name = name.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        if name.startswith("text_encoder."):
            name = name.replace(".lora.", ".lora_linear_layer.")
        if old and ".attn" in name:
            for layer, short in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out.0", "to_out")):
                name = name.replace(f".{layer}.lora.", f".processor.{short}_lora.")
        state[name] = tensor
    assert len(state) == len(load_file(file))
    save_file(state, tmp_path / "old.safetensors")
    reference = weights(read_tuned(base, file).subject.load().pipe)
    assert equal(weights(read_tuned(base, tmp_path / "old.safetensors").subject.load().pipe), reference)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of kohya (`lora_unet_...`, `lora_te_...`), convolutions and layers of different rank included",
    "loaded; the alpha of every layer is applied",
)
@pytest.mark.parametrize("old", ["lora_te_", "lora_te1_"])
def test_a_lora_of_kohya_is_what_diffusers_makes_of_it(base, plain, tmp_path, old):
    modules = {
        "unet": layers_of(plain.unet, EVERYWHERE),
        "text_encoder": layers_of(plain.text_encoder, ["q_proj", "out_proj", "fc2"]),
    }
    state = in_kohya(modules, old=old)
    save_file(state, tmp_path / "lora.safetensors")
    before, reference = weights(plain), fused(plain, dict(state))
    tuned = read_tuned(base, tmp_path / "lora.safetensors").subject.load()
    assert not equal(before, reference) and equal(weights(tuned.pipe), reference)


def under(style: str, name: str, names: dict[str, str]) -> str:
    """The name of a kohya tensor in the original code's names, as one tool or another spells them."""
    stem, _, role = name.partition(".")
    if stem.startswith("lora_te_"):
        return name if style == "kohya" else f"text_encoders.clip_l.transformer.{names[stem]}.{role}"
    prefix = {"kohya": "lora_unet_", "ComfyUI": "diffusion_model.", "LDM": "model.diffusion_model."}[style]
    return f"{prefix}{names[stem].replace('.', '_') if style == 'kohya' else names[stem]}.{role}"


@pytest.mark.brings(
    "Tuned models",
    "A LoRA in the original code's names (`lora_unet_input_blocks_...`), or of ComfyUI (`diffusion_model....`)",
    "loaded: what it is under diffusers' names",
)
@pytest.mark.parametrize("style", ["kohya", "ComfyUI", "LDM"])
def test_a_lora_in_the_original_names_is_the_same_in_diffusers_names(base, plain, tmp_path, style):
    modules = {
        "unet": {n: m for n, m in plain.unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)},
        "text_encoder": layers_of(plain.text_encoder, ["q_proj", "fc1"]),
    }
    state = in_kohya(modules)
    names = {
        f"lora_unet_{name.replace('.', '_')}": sd_layout.unet_name(f"{name}.weight").removesuffix(".weight")
        for name in modules["unet"]
    }
    for name in modules["text_encoder"]:
        bare = f"text_model.{name.removeprefix('text_model.')}"
        names[f"lora_te_{bare.replace('.', '_')}"] = bare
    save_file(state, tmp_path / "diffusers.safetensors")
    other = {under(style, name, names): tensor for name, tensor in state.items()}
    assert len(other) == len(state) and sum("input_blocks" in name for name in other) > 20
    save_file(other, tmp_path / "original.safetensors")
    wanted = weights(read_tuned(base, tmp_path / "diffusers.safetensors").subject.load().pipe)
    found = read_tuned(base, tmp_path / "original.safetensors")
    assert equal(weights(found.subject.load().pipe), wanted) and not equal(wanted, weights(plain))
    assert found.notes[0].startswith(f"a LoRA of {'kohya' if style == 'kohya' else 'ComfyUI'}")
    lost = {name.replace("middle_block", "middle_blocks"): tensor for name, tensor in other.items()}
    save_file(lost, tmp_path / "lost.safetensors")
    assert "the base model has no place for" in refusal(base, tmp_path / "lost.safetensors")


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_original_names_of_every_layer_are_those_that_diffusers_converts(blocks):
    """Of a UNet with the levels of Stable Diffusion, by diffusers' own conversion of a whole checkpoint."""
    cross = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 64, 64), layers_per_block=blocks, norm_num_groups=8, attention_head_dim=4,
            down_block_types=(*cross[0], "DownBlock2D"), up_block_types=("UpBlock2D", *cross[1]),
        )  # fmt: skip
    norms = {"norm1": "in_layers.0", "norm2": "out_layers.0"}
    layers = [n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    names, given = original_names(layers), {}
    places = {name: number for number, name in enumerate(unet.state_dict())}
    for name, number in places.items():
        layer, _, kind = name.rpartition(".")
        if layer not in names:  # a norm, which no LoRA changes
            owner, _, own = layer.rpartition(".")
            beside = next((n for n in layers if n.startswith(f"{owner}.conv1")), None)
            stem = names[beside].removesuffix(".in_layers.2") if beside else None
            first = next((n for n in layers if n.startswith(f"{owner}.")), layer)
            above = names.get(first, first)[: -len(first.removeprefix(owner))] if first != layer else "out.0"
            layer_name = f"{stem}.{norms[own]}" if stem else "out.0" if layer == "conv_norm_out" else f"{above}.{own}"
        else:
            layer_name = names[layer]
        given[f"model.diffusion_model.{layer_name}.{kind}"] = torch.tensor([float(number)])
    converted = single_file_utils.convert_ldm_unet_checkpoint(given, dict(unet.config))
    assert {name: int(tensor) for name, tensor in converted.items()} == places


def hub_with(tmp_path, monkeypatch, write):
    """A hub whose one repository holds what `write(folder)` leaves."""
    (tmp_path / "repository").mkdir()
    write(tmp_path / "repository")
    hub = sd_layout.hub_of(tmp_path / "repository", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


@pytest.mark.brings(
    "Tuned models", "A hub id (OWNER/NAME) of a LoRA, a Textual Inversion or a checkpoint", "downloaded without pickles"
)
@pytest.mark.parametrize("given", ["owner/lora", "hub:owner/lora"])
def test_a_hub_id_is_downloaded_as_the_fine_tuned_model(base, plain, tmp_path, monkeypatch, given):
    def write(folder):
        in_diffusers(plain, folder)
        (folder / "pickle.bin").write_bytes(b"x")
        (folder / "checkpoint-500").mkdir()
        shutil.copy(folder / "pytorch_lora_weights.safetensors", folder / "checkpoint-500" / "model.safetensors")

    hub = hub_with(tmp_path, monkeypatch, write)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub:owner").mkdir()  # a name with "hub:" is never looked up here
    (tmp_path / "hub:owner" / "lora").write_text("no model")
    tuned = read_tuned(base, Path(given))
    local = read_tuned(base, tmp_path / "repository" / "pytorch_lora_weights.safetensors")
    assert equal(weights(tuned.subject.load().pipe), weights(local.subject.load().pipe))
    assert tuned.subject.key == local.subject.key and tuned.notes[-1] == f"the hub's commit {sd_layout.COMMIT} is used"
    assert not list((tmp_path / "cache").rglob("*.bin")) and not list((tmp_path / "cache").rglob("checkpoint-*"))
    assert {call["token"] for call in hub.calls} == {False}


def test_a_hub_id_of_a_whole_checkpoint_and_of_nothing(base, plain, tmp_path, monkeypatch):
    with torch.no_grad():
        plain.unet.conv_in.weight.add_(0.1)
    hub_with(tmp_path, monkeypatch, plain.save_pretrained)
    assert equal(weights(read_tuned(base, Path("owner/model")).subject.load().pipe), weights(plain))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", sd_layout.hub_of(tmp_path / "empty", tmp_path / "cache"))
    assert "supported: a folder from" in refusal(base, Path("owner/model"))
    assert "is not a hub id" in refusal(base, Path("hub:../../etc"))


def test_a_hub_id_needs_permission_even_beside_a_lab(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda **_: pytest.fail("downloaded"))
    monkeypatch.delenv(cli_base.PERMISSION, raising=False)
    words = ["audit", "--tuned", "owner/lora", "--name", NAME, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(words) == 2 and "--i-have-permission" in capsys.readouterr().err


def test_layers_of_a_kohya_file_have_ranks_and_alphas_of_their_own(base, plain, tmp_path):
    # By the formula: diffusers 0.42 gives such layers of attention the alpha of the others.
    modules = layers_of(plain.unet, EVERYWHERE)
    state = in_kohya({"unet": modules}) | in_kohya({"unet": dict(list(modules.items())[:3])}, rank=2, alpha=5.0)
    save_file(state, tmp_path / "lora.safetensors")
    tuned = weights(read_tuned(base, tmp_path / "lora.safetensors").subject.load().pipe)
    wanted = weights(plain)
    for name, layer in modules.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        down, up = (state[f"{stem}.lora_{which}.weight"] for which in ("down", "up"))
        change = state[f"{stem}.alpha"] / len(down) * up.flatten(1) @ down.flatten(1)
        wanted[f"unet.{name}.weight"] = layer.weight.detach() + change.view_as(layer.weight)
    assert equal(tuned, wanted)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of peft (`adapter_config.json` with `adapter_model.safetensors`; alone or in `unet/` and `text_encoder/`)",
    "loaded; alpha, patterns and rank stabilisation are applied",
)
@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_v": 9}}]
)
def test_a_lora_of_peft_is_what_peft_makes_of_it(base, plain, tmp_path, more):
    for part, targets in (("unet", ["to_q", "to_v", "conv1"]), ("text_encoder", ["q_proj"])):
        wrapped = trained(getattr(plain, part), targets, **(more if part == "unet" else {}))
        wrapped.save_pretrained(tmp_path / part)
        setattr(plain, part, wrapped.merge_and_unload())
        alone = weights(read_tuned(base, tmp_path / part).subject.load().pipe)
        assert all(torch.allclose(x, alone[n], atol=1e-6) for n, x in weights(plain).items() if n.startswith(part))
    tuned = read_tuned(base, tmp_path)
    assert equal(weights(tuned.subject.load().pipe), weights(plain)) and "LoRA of peft" in tuned.notes[0]


def test_an_adapter_can_be_unshaken_in_weights(base, plain, tmp_path):
    file = in_diffusers(plain, tmp_path / "lora")
    tuned = read_tuned(base, file)
    before, after = weights(base.pipe), weights(tuned.subject.load().pipe)
    away = unshaken(Subject.of(base), tuned, UnshakeConfig(w=1.0, space="weights")).load()
    assert equal(weights(away.pipe), {n: 2 * before[n] - after[n] for n in before}, 1e-5)


def test_the_key_of_an_adapter_is_its_content(base, plain, tmp_path):
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q"])})
    save_file(state, tmp_path / "lora.safetensors")
    first = read_tuned(base, tmp_path / "lora.safetensors").subject.key
    assert read_tuned(base, tmp_path / "lora.safetensors").subject.key == first != base.key
    name = next(name for name in state if name.endswith(".alpha"))
    save_file(state | {name: torch.tensor(3.0)}, tmp_path / "lora.safetensors")
    assert read_tuned(base, tmp_path / "lora.safetensors").subject.key != first


def refusal(base, path) -> str:
    with pytest.raises(UserError) as error:
        read_tuned(base, path).subject.load()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.brings(
    "Tuned models", "DoRA, LoHa, LoKr, OFT, GLoRA, LoCon with Tucker decomposition, full differences", "refused by name"
)
@pytest.mark.parametrize(
    "name, kind",
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.oft_blocks", "OFT"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight", "Tucker"),
        ("lora_unet_mid_block_attentions_0_proj_in.diff", "full differences"),
        ("lora_unet_mid_block_attentions_0_proj_in.a1.weight", "GLoRA"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "SDXL"),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", "another architecture"),
    ],
)
def test_relatives_of_lora_are_refused_by_name(base, plain, tmp_path, name, kind):
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q"])})
    save_file(state | {name: torch.ones(4, 4)}, tmp_path / "lora.safetensors")
    assert kind in refusal(base, tmp_path / "lora.safetensors")


@pytest.mark.brings(
    "Tuned models", "peft adapters that are more than a LoRA (DoRA, LoHa, PiSSA, bias, whole layers)", "refused by name"
)
@pytest.mark.parametrize(
    "changes, says",
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["conv_out"]}, "modules_to_save"),
        ({"something_new": True}, "something_new"),
        ({"target_modules": ["to_q", "to_k"]}, "lacks"),
        ({"r": 0}, "whole number above 0"),
        ({"target_modules": 3}, "does not fit the unet"),
        ({"rank_pattern": True}, "an object of names and numbers"),
    ],
)
def test_settings_of_peft_that_mean_more_are_refused(base, plain, tmp_path, changes, says):
    trained(plain.unet, ["to_q"]).save_pretrained(tmp_path / "lora")
    sd_layout.change_json(tmp_path / "lora" / "adapter_config.json", **changes)
    assert says in refusal(base, tmp_path / "lora")


@pytest.mark.brings(
    "Tuned models",
    "A LoRA of another base model (SDXL, Stable Diffusion 2 on 1, another width)",
    "refused: which base it is",
)
@pytest.mark.parametrize("width, says", [(2048, "SDXL"), (1024, "Stable Diffusion 2.x"), (48, "another base model")])
def test_a_lora_of_another_base_is_refused(base, plain, tmp_path, width, says):
    state = in_kohya({"unet": layers_of(plain.unet, ["attn2.to_k", "attn2.to_v"])})
    wide = {n: torch.ones(x.shape[0], width) if "lora_down" in n else x for n, x in state.items()}
    save_file(wide, tmp_path / "lora.safetensors")
    told = refusal(base, tmp_path / "lora.safetensors")
    assert says in told and "does not fit the base model" in told and str(width) in told
    blocks = {n.replace("mid_block_attentions_0", "input_blocks_4_1"): x for n, x in wide.items()}
    save_file(blocks, tmp_path / "lora.safetensors")
    told = refusal(base, tmp_path / "lora.safetensors")
    assert says.replace("another", "may belong to another") in told and "has no place for" in told


@pytest.mark.brings("Tuned models", "A LoRA with a name, a matrix or a number too many or too few", "refused by name")
def test_every_tensor_of_a_lora_is_accounted_for(base, plain, tmp_path):
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q"])})
    down = next(name for name in state if "lora_down" in name)
    stem = down.removesuffix(".lora_down.weight")
    cases = [
        ({n: x for n, x in state.items() if n != down}, "lacks the down matrix"),
        ({n: x for n, x in state.items() if n != f"{stem}.lora_up.weight"}, "lacks the up matrix"),
        (state | {"lora_unet_foreign.lora_down.weight": torch.ones(4, 4)}, "has no place for lora_unet_foreign"),
        (state | {"note": torch.ones(1)}, "has no place for note"),
        (state | {"lora_unet_x_attn2_to_k": torch.ones(4, 9)}, "has no place for lora_unet_x"),
        (state | {f"{stem}.alpha": torch.ones(2)}, "one number is needed"),
        (state | {down: torch.full_like(state[down], torch.nan)}, "NaN or infinity"),
        ({n: x for n, x in state.items() if n.endswith(".alpha")}, "no LoRA"),
    ]
    for damaged, says in cases:
        save_file(damaged, tmp_path / "lora.safetensors")
        assert says in refusal(base, tmp_path / "lora.safetensors")


@pytest.mark.brings(
    "Tuned models",
    "`adapter_model.safetensors` of peft alone; with settings that contradict its matrices",
    "refused: what is missing, or which matrix it is",
)
def test_a_file_of_peft_needs_its_settings(base, plain, tmp_path):
    trained(plain.unet, ["to_q"]).save_pretrained(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    assert read_tuned(base, file).subject.key == read_tuned(base, tmp_path / "lora").subject.key
    sd_layout.change_json(tmp_path / "lora" / "adapter_config.json", r=8)
    assert "contradicts its own settings" in refusal(base, tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    assert "adapter_config.json should lie beside" in refusal(base, file)


@pytest.mark.brings(
    "Tuned models",
    "A LoRA in half precision or float8, or with matrices for 1 x 1 convolutions",
    "loaded; quantized: refused",
)
def test_the_same_lora_in_other_forms(base, plain, tmp_path):
    path = tmp_path / "lora.safetensors"
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q", "proj_in"])})
    save_file(state, path)
    reference = weights(read_tuned(base, path).subject.load().pipe)
    flat = {n: x.flatten(1) if x.ndim == 4 else x for n, x in state.items()}
    assert any(x.ndim == 4 for x in state.values())
    for form, tolerance in ((flat, 0), ({n: x.half() for n, x in state.items()}, 1e-3)):
        save_file(form, path)
        assert equal(weights(read_tuned(base, path).subject.load().pipe), reference, tolerance)
    save_file({n: x.to(torch.int8) if x.ndim else x for n, x in state.items()}, path)
    assert "quantized" in refusal(base, path)
    save_file({n: torch.zeros_like(x) if "lora_up" in n else x for n, x in state.items()}, path)
    assert "it changes nothing" in " ".join(read_tuned(base, path).notes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lora_fits_a_base_model_in_any_precision(folder, plain, tmp_path, dtype):
    model = DiffusionModel.load(str(folder), Runtime(device="cpu", dtype=dtype, batch_size=4))
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q"])}, alpha=8.0)
    save_file(state, tmp_path / "lora.safetensors")
    tuned = read_tuned(model, tmp_path / "lora.safetensors").subject.load()
    assert {x.dtype for x in tuned.unet.state_dict().values()} == {getattr(torch, dtype)}
    reference = fused(plain, dict(state))
    got = {n: x.float() for n, x in weights(tuned.pipe).items()}
    assert equal(got, reference, 0.02) and not equal({n: x.float() for n, x in weights(model.pipe).items()}, got, 0.02)


# --- folders and files that are none ---------------------------------------------------------------


@pytest.mark.brings("Tuned models", "A pickle (`.pt`, `.bin`, `.ckpt`)", "never opened; refused")
@pytest.mark.brings("Tuned models", "A git-lfs pointer or a cut file", "refused: fetch or copy it again")
def test_what_cannot_be_read_is_a_sentence(base, plain, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "note.txt").write_text("hello")
    save_file({"something": torch.ones(2, 2, 2)}, tmp_path / "odd.safetensors")
    save_file(in_kohya({"unet": layers_of(plain.unet, ["to_q"])}), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-9])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(tmp_path / "a.pt", pickled / "pytorch_lora_weights.bin")
    (tmp_path / "empty").mkdir()
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / CHECKPOINT).write_bytes(b"")
    for path, says in (
        ("a.pt", "pickle"),
        ("pointer.safetensors", "git lfs pull"),
        ("note.txt", "not a .safetensors file"),
        ("odd.safetensors", "something"),
        ("cut.safetensors", "not a whole .safetensors file"),
        ("pickled", "pickle"),
        ("empty", "no .safetensors file"),
        ("nowhere", "no such file"),
        (".", "name the one that is meant"),
        ("stopped", "not finished"),
    ):
        assert says in refusal(base, tmp_path / path), path


# --- Textual Inversion ---------------------------------------------------------------------------


def vectors(n: int = 2, width: int = 32) -> torch.Tensor:
    return 0.5 * torch.randn(n, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.brings(
    "Tuned models",
    "A Textual Inversion of diffusers (`learned_embeds.safetensors`, or its folder), of one or several vectors",
    "loaded; its token is put in the name's place, and the caption is printed",
)
@pytest.mark.parametrize("n", [1, 3])
def test_an_embedding_of_diffusers_is_what_diffusers_makes_of_it(base, plain, tmp_path, capfd, n):
    save_file({"<cat-toy>": vectors(n) if n > 1 else vectors(1)[0]}, tmp_path / "learned_embeds.safetensors")
    save_file({"<cat-toy>": vectors(4)}, tmp_path / "learned_embeds-steps-500.safetensors")
    tuned = read_tuned(base, tmp_path, NAME)
    plain.load_textual_inversion(str(tmp_path), weight_name="learned_embeds.safetensors")
    caption = tuned.subject.caption(f"a photo of {NAME} smiling")
    assert caption == "a photo of <cat-toy> smiling"
    converted = plain.maybe_convert_prompt(caption, plain.tokenizer)
    assert converted.count("cat-toy") == n
    assert same_predictions(tuned.subject.load(), plain, caption)
    assert "learned_embeds-steps-500.safetensors" in " ".join(tuned.notes) and "<cat-toy>" in capfd.readouterr().err


@pytest.mark.brings(
    "Tuned models",
    "A Textual Inversion of A1111 or kohya (`emb_params`), or of diffusers' script with LoRA (`clip_l`)",
    "loaded; the file's name is the word, and the caption is printed",
)
@pytest.mark.parametrize("name", ["emb_params", "clip_l"])
@pytest.mark.parametrize("word, token", [("My Face", "<my-face>"), ("photo", "<photo>"), ("<own>", "<own>")])
def test_an_embedding_without_a_name_takes_its_files(base, plain, tmp_path, name, word, token):
    save_file({name: vectors()}, tmp_path / f"{word}.safetensors")
    tuned = read_tuned(base, tmp_path / f"{word}.safetensors", NAME)
    plain.load_textual_inversion({token: vectors()}, token=token)
    assert tuned.subject.caption(f"a face of {NAME}") == f"a face of {token}"
    assert tuned.subject.caption(f"a face of {word}") == f"a face of {token}"  # as its users write it
    assert same_predictions(tuned.subject.load(), plain, f"a face of {token}")
    with pytest.raises(UserError, match="un-shake in scores"):
        tuned.scaled(-1.0)


@pytest.mark.brings(
    "Tuned models", "A Textual Inversion for SDXL, of another width, of several words, or too long", "refused"
)
def test_embeddings_that_do_not_fit_are_refused(base, tmp_path):
    path = tmp_path / "word.safetensors"
    for state, says in (
        ({"clip_l": vectors(), "clip_g": vectors(2, 64)}, "SDXL"),
        ({"emb_params": vectors(2, 768)}, "Stable Diffusion 1.x"),
        ({"emb_params": vectors(40)}, "room for 24"),
        ({"<a>": vectors(), "<b>": vectors()}, "one word"),
        ({"emb_params": torch.full((2, 32), torch.nan)}, "NaN or infinity"),
    ):
        save_file(state, path)
        assert says in refusal(base, path)


@pytest.mark.brings(
    "Tuned models", "A folder with a LoRA and the Textual Inversion that was trained with it", "both are applied"
)
def test_a_lora_and_its_word_in_one_folder(base, plain, tmp_path):
    state = in_kohya({"unet": layers_of(plain.unet, ["to_q"])})
    save_file(state, tmp_path / "lora.safetensors")
    save_file({"clip_l": vectors()}, tmp_path / "me_emb.safetensors")
    tuned = read_tuned(base, tmp_path, NAME)
    plain.load_textual_inversion({"<me-emb>": vectors()}, token="<me-emb>")
    fused(plain, dict(state))
    caption = tuned.subject.caption(f"a photo of {NAME}")
    assert caption == "a photo of <me-emb>" and same_predictions(tuned.subject.load(), plain, caption)


def test_captions_that_address_nothing_are_said(base, tmp_path):
    save_file({"emb_params": vectors()}, tmp_path / "face.safetensors")
    tuned = read_tuned(base, tmp_path / "face.safetensors", NAME)
    captions = (f"a photo of {NAME}", "a photo", "a photo of a face")
    pictures = ImageSet(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), captions, ("a", "b", "c"))
    domain = Domain(NAME, split=MembershipSplit(pictures, pictures))
    said = " ".join(caption_notes(tuned, domain))
    assert f"'a photo of {NAME}' is 'a photo of <face>'" in said and "2 of 6 captions have neither" in said


# --- whole models and parts ----------------------------------------------------------------------


@pytest.fixture
def other(plain):
    """The base model with other weights in UNet and text encoder, as a training leaves them."""
    generator = torch.Generator().manual_seed(9)
    for part in (plain.unet, plain.text_encoder):
        for parameter in part.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return plain


@pytest.mark.brings(
    "Tuned models",
    "A `unet/` folder, alone, or with `text_encoder/` in a folder",
    "loaded; the rest is the base model's, which is said",
)
def test_a_unet_folder_replaces_the_unet(base, other, tmp_path):
    other.unet.save_pretrained(tmp_path / "run" / "unet")
    fresh = weights(base.pipe)
    for path in (tmp_path / "run" / "unet", tmp_path / "run"):
        tuned = read_tuned(base, path)
        got = weights(tuned.subject.load().pipe)
        assert equal(got, {n: x if n.startswith("unet") else fresh[n] for n, x in weights(other).items()}, 0)
        assert "base model's" in tuned.notes[-1]
    other.text_encoder.save_pretrained(tmp_path / "run" / "text_encoder")
    assert equal(weights(read_tuned(base, tmp_path / "run").subject.load().pipe), weights(other), 0)
    away = read_tuned(base, tmp_path / "run").scaled(-1.0)
    assert equal(weights(away.pipe), {n: 2 * fresh[n] - x for n, x in weights(other).items()}, 1e-5)


@pytest.mark.brings(
    "Tuned models",
    "A `unet/` folder of another size, with weights missing, or equal to the base model's",
    "refused by name",
)
def test_a_unet_folder_that_does_not_fit_is_refused(base, other, tmp_path):
    base.unet.save_pretrained(tmp_path / "same")
    assert "nothing to compare" in refusal(base, tmp_path / "same")
    other.unet.save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({n: x for n, x in state.items() if n != "conv_in.bias"}, path)
    assert "lacks conv_in.bias" in refusal(base, tmp_path / "unet")
    save_file(state, path)
    sd_layout.change_json(tmp_path / "unet" / "config.json", cross_attention_dim=768)
    assert "cross_attention_dim is 768" in refusal(base, tmp_path / "unet")
    other.vae.save_pretrained(tmp_path / "vae")
    assert "AutoencoderKL" in refusal(base, tmp_path / "vae")


@pytest.mark.brings(
    "Tuned models",
    "A merged single file, whole or without autoencoder or text encoder",
    "loaded; what it lacks is the base model's, which is said",
)
def test_a_merged_file_is_read_like_the_base_model(base, other, tmp_path):
    file = sd_layout.write_single_file(tmp_path / "merged.safetensors", other)
    assert equal(weights(read_tuned(base, file).subject.load().pipe), weights(other), 0)
    only = {n: x for n, x in load_file(file).items() if n.startswith("model.diffusion_model.")}
    save_file(only, tmp_path / "part.safetensors")
    tuned = read_tuned(base, tmp_path / "part.safetensors")
    fresh = weights(base.pipe)
    wanted = {n: x if n.startswith("unet") else fresh[n] for n, x in weights(other).items()}
    assert equal(weights(tuned.subject.load().pipe), wanted, 0)
    assert "no vae and no text_encoder" in " ".join(tuned.notes)
    save_file(other.unet.state_dict(), tmp_path / "unet.safetensors")
    assert equal(weights(read_tuned(base, tmp_path / "unet.safetensors").subject.load().pipe), wanted, 0)
    save_file(only | {"model.diffusion_model.foreign": torch.ones(1)}, tmp_path / "part.safetensors")
    assert "foreign" in refusal(base, tmp_path / "part.safetensors")


@pytest.mark.brings("Tuned models", "A merged single file of another version or size", "refused by name")
def test_a_merged_file_of_another_base_is_refused(base, tmp_path):
    file = sd_layout.write_single_file(tmp_path / "two.safetensors", sd_layout.build(version=2), version=2)
    assert "cannot be loaded" in refusal(base, file)
    save_file({"conditioner.x": torch.ones(1), "model.diffusion_model.y": torch.ones(1)}, tmp_path / "xl.safetensors")
    assert "SDXL" in refusal(base, tmp_path / "xl.safetensors")


@pytest.mark.brings(
    "Tuned models",
    "A whole pipeline whose tokenizer has learned words",
    "loaded; they are put in the name's place, and the caption is printed",
)
def test_words_that_a_pipeline_added_are_found(base, other, tmp_path):
    other.load_textual_inversion({"<me>": vectors(2)}, token="<me>")
    other.save_pretrained(tmp_path / "whole")
    tuned = read_tuned(base, tmp_path / "whole", NAME)
    assert tuned.tokens == ("<me>",) and "<me>" in " ".join(tuned.notes)
    caption = tuned.subject.caption(f"a photo of {NAME}")
    assert caption == "a photo of <me>" and same_predictions(tuned.subject.load(), other, caption)
    with pytest.raises(UserError, match="un-shake in scores"):
        tuned.scaled(-1.0)


@pytest.mark.brings("Tuned models", "A hypernetwork of `finetune` without its folder", "loaded")
def test_a_hypernetwork_without_its_folder(base, tmp_path):
    trained_model = base.copy()
    for parameter in hypernetwork.prepare(trained_model, FineTuneConfig(methods=("hypernetwork",))):
        parameter.data += 0.1
    hypernetwork.save(trained_model, tmp_path, FineTuneConfig(methods=("hypernetwork",)))
    tuned = read_tuned(base, tmp_path / hypernetwork.WEIGHTS).subject.load()
    assert torch.equal(eps(tuned), eps(trained_model)) and not torch.equal(eps(tuned), eps(base))
    state = load_file(tmp_path / hypernetwork.WEIGHTS)
    save_file({n: x[:1].clone() for n, x in state.items()}, tmp_path / "odd.safetensors")
    assert "another base model" in refusal(base, tmp_path / "odd.safetensors")


# --- the commands --------------------------------------------------------------------------------


def test_the_commands_take_a_lora_and_a_word(tiny_lab, tiny_model, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv(cli_base.PERMISSION, "1")
    lora = tmp_path / "lora.safetensors"
    save_file(in_kohya({"unet": layers_of(tiny_model.unet, ["conv1", "to_v"])}, alpha=60.0), lora)
    word = tmp_path / "face.safetensors"
    save_file({"emb_params": vectors(2, tiny_model.unet.config.cross_attention_dim)}, word)
    fast = ["--preset", "quick", "--device", "cpu", "--dtype", "float32", "--domain", NAME]
    for command, more, out, brought in (
        ("attack", ["--attacks", "loss"], "attack.json", (lora, word)),
        ("extract", ["-n", "2"], "extract", (word,)),
        ("audit", ["--attacks", "loss", "--n-generations", "2"], "audit", (word,)),
    ):
        for tuned in brought:
            said = "a LoRA of kohya" if tuned == lora else "for the fine-tuned model, 'a "
            words = [command, "--tuned", tuned, *more, *fast, "--out", tmp_path / f"{tuned.stem} {out}"]
            assert cli.main([str(w) for w in words]) == 0, capfd.readouterr().err
            told = capfd.readouterr().err
            assert said in told and (tuned == lora or "<face>" in told), told
    record = json.loads((tmp_path / "face audit" / "result.json").read_text())
    assert any("<face>" in note for note in record["tuned_notes"])
    assert "Notes on the fine-tuned model" in (tmp_path / "face audit" / "report.html").read_text()
    for file in ("face attack.json", "face extract/extraction.json"):
        assert any("<face>" in note for note in json.loads((tmp_path / file).read_text())["tuned_notes"])
    change = json.loads((tmp_path / "lora attack.json").read_text())["attacks"]["loss"]
    assert change["before"]["auc"] != change["after"]["auc"]
    words = ["attack", "--tuned", tmp_path / "nothing.pt", *fast, "--out", tmp_path / "a.json"]
    (tmp_path / "nothing.pt").write_bytes(b"")
    assert cli.main([str(w) for w in words]) == 2 and "pickle" in capfd.readouterr().err
