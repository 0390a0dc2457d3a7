"""Small checkpoints of random weights in Stable Diffusion's own layouts: diffusers folders and single files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel

from s2l.pretrain.networks import build_tokenizer

LAYERS = 2  # residual blocks a level, as in Stable Diffusion
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def build(prediction_type: str = "epsilon", version: int = 1, safety_checker: bool = False) -> StableDiffusionPipeline:
    """SD 1.x (version 1) or 2.x (version 2: linear projections, heads by level) with 16-pixel pictures."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                hidden_act="quick_gelu" if version == 1 else "gelu",
                projection_dim=32,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        vae = AutoencoderKL(
            sample_size=16,
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            layers_per_block=LAYERS,
            norm_num_groups=8,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=LAYERS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4 if version == 1 else (2, 4),
            use_linear_projection=version == 2,
            norm_num_groups=16,
        )
        checker = _safety_checker() if safety_checker else None
    if version == 1:
        scheduler = PNDMScheduler(skip_prk_steps=True, prediction_type=prediction_type, **NOISE)
    else:
        scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type, **NOISE)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor() if safety_checker else None,
        requires_safety_checker=safety_checker,
    )


def _safety_checker() -> StableDiffusionSafetyChecker:
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = part | {"image_size": 16, "patch_size": 8}
    return StableDiffusionSafetyChecker(CLIPConfig(text_config=part, vision_config=vision, projection_dim=16))


def write_folder(folder: Path, **options) -> Path:
    build(**options).save_pretrained(folder)
    return folder


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_of(repository: Path, cache: Path) -> Callable[..., str]:
    """`snapshot_download` of a hub with one repository: copies the files that the patterns allow. Keeps its calls."""

    def download(**options) -> str:
        download.calls.append(options)
        folder = cache / "snapshots" / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        files = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]
        allowed, ignored = options["allow_patterns"], options["ignore_patterns"]
        if not options["local_files_only"]:
            for name in filter_repo_objects(files, allow_patterns=allowed, ignore_patterns=ignored):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(repository / name, folder / name)
        return str(folder)

    download.calls = []
    return download


# --- single files: the names of the original training code -----------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
PARTS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def unet_name(name: str) -> str:
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name):
        way, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        first = block * (LAYERS + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + LAYERS + 1}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{first + LAYERS}.1.{rest}"  # of the block without attention
        place = f"input_blocks.{1 + first + layer}" if way == "down" else f"output_blocks.{first + layer}"
        return f"{place}.0.{_in_resnet(rest)}" if kind == "resnets" else f"{place}.1.{rest}"
    for ours, theirs in PARTS.items():
        if name.startswith(f"{ours}."):
            rest = name.removeprefix(f"{ours}.")
            return f"{theirs}.{_in_resnet(rest) if 'resnets' in ours else rest}"
    raise ValueError(name)


def _in_resnet(rest: str) -> str:
    layer, _, what = rest.partition(".")
    return f"{RESNET[layer]}.{what}"


def _vae_name(name: str) -> str:
    levels = 2
    name = re.sub(
        r"decoder\.up_blocks\.(\d)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name
    )  # counted from the pixels
    name = re.sub(r"encoder\.down_blocks\.(\d)", r"encoder.down.\1", name)
    name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = (
        name.replace("resnets", "block").replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    )
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return name


OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "fc1": "c_fc",
    "fc2": "c_proj",
}


def _open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIP text model under OpenCLIP's names, which keep the three projections of attention in one tensor."""
    found, joint = {}, {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if projection := re.fullmatch(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)", name):
            joint.setdefault(f"{projection[1]}.in_proj_{projection[3]}", {})[projection[2]] = tensor
        else:
            found[name] = tensor
    found |= {name: torch.cat([parts[x] for x in "qkv"]) for name, parts in joint.items()}
    return {f"cond_stage_model.model.{name}": tensor for name, tensor in found.items()}


def write_single_file(path: Path, pipe: StableDiffusionPipeline, version: int = 1) -> Path:
    """The weights of `pipe` under the names of the original code, as in sd-v1-4.safetensors."""
    weights = {f"model.diffusion_model.{unet_name(k)}": v for k, v in pipe.unet.state_dict().items()}
    for name, tensor in pipe.vae.state_dict().items():
        # Attention was written as 1 x 1 convolutions.
        conv = "attentions" in name and tensor.ndim == 2
        weights[f"first_stage_model.{_vae_name(name)}"] = tensor[:, :, None, None] if conv else tensor
    if version == 2:
        weights |= _open_clip(pipe.text_encoder.state_dict())
    for name, tensor in pipe.text_encoder.state_dict().items() if version == 1 else ():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path
