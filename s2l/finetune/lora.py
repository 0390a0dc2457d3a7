"""LoRA: low-rank updates of the attention projections (Hu et al. 2022), by peft."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.finetune.catalogue import LoRASettings, settings_of
from s2l.model.adapters import fold, read_adapter
from s2l.model.diffusion import DiffusionModel

WEIGHTS = "pytorch_lora_weights.safetensors"  # the name diffusers looks for
TEXT_TARGETS = ("q_proj", "v_proj")


def _adapter(settings: LoRASettings, targets: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        init_lora_weights="gaussian",  # up-projection at zero: step 0 is the base model
        target_modules=list(targets),
    )


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """Attach adapters to the UNet's attention, and to the text encoder's if `train_text_encoder` is set."""
    settings = settings_of("lora", LoRASettings, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            model.unet.add_adapter(_adapter(settings, settings.target_modules))
        except ValueError as error:
            raise UserError(f"target_modules {list(settings.target_modules)} match no layer of this UNet") from error
        parts = [model.unet]
        if config.train_text_encoder:
            model.text_encoder.add_adapter(_adapter(settings, TEXT_TARGETS))
            parts.append(model.text_encoder)
    return [p for part in parts for name, p in part.named_parameters() if "lora_" in name]


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write `pytorch_lora_weights.safetensors`, which plain diffusers loads with load_lora_weights."""

    def layers(part):
        return convert_state_dict_to_diffusers(get_peft_model_state_dict(part))

    def metadata(part):
        return part.peft_config["default"].to_dict()

    text = model.text_encoder if config.train_text_encoder else None
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers(model.unet),
        text_encoder_lora_layers=layers(text) if text is not None else None,
        unet_lora_adapter_metadata=metadata(model.unet),
        text_encoder_lora_adapter_metadata=metadata(text) if text is not None else None,
    )


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Read the adapters and fold `scale` times them into the weights: attacks then run at the base model's speed.

    Not by `load_lora_weights`: with `target_modules` beyond attention it drops the attention's adapters, whose names
    `save` spells in another way, without a word.
    """
    modules = {"unet": model.unet, "text_encoder": model.text_encoder}
    fold(read_adapter(folder / WEIGHTS, modules), modules, scale)
