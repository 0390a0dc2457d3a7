"""End-to-end: every weight of the UNet trains and, if chosen, of the text encoder.

The plain fine-tuning that the paper compares the other methods with. The autoencoder does not
change. On an SP set whose prompts do not contain the name this is the paper's out-of-domain control.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from s2l.config import FineTuneConfig
from s2l.model.diffusion import DiffusionModel
from s2l.model.extrapolated import step_away


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """All parameters of the UNet, and of the text encoder with `train_text_encoder`."""
    parts = [model.unet] + ([model.text_encoder] if config.train_text_encoder else [])
    return [p for part in parts for p in part.parameters()]


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write `unet/` (and `text_encoder/`) in diffusers layout: they can replace those of a checkpoint."""
    model.unet.save_pretrained(folder / "unet")
    if config.train_text_encoder:
        model.text_encoder.save_pretrained(folder / "text_encoder")


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Replace the base model's networks by the saved ones, or by base + scale (saved - base)."""
    dtype = model.dtype if scale == 1 else torch.float32  # a small change survives scaling in full precision only
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype, use_safetensors=True)
    model.pipe.unet = _scaled(model, model.unet, unet, scale)
    if config.train_text_encoder:
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, use_safetensors=True)
        model.pipe.text_encoder = _scaled(model, model.text_encoder, text, scale)


def _scaled(model: DiffusionModel, base: nn.Module, tuned: nn.Module, scale: float) -> nn.Module:
    step_away(base, tuned.to(model.device), scale)
    return tuned.to(model.dtype)
