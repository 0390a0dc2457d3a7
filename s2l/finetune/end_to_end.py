"""End-to-end: every weight of the UNet trains, the text encoder's too where asked.

The plain fine-tuning that the paper compares the other methods with. The autoencoder stays as it
is. On an SP set whose prompts do not contain the name this is the paper's out-of-domain control.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from s2l.config import FineTuneConfig
from s2l.model.diffusion import DiffusionModel


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """All parameters of the UNet, and of the text encoder with `train_text_encoder`."""
    parts = [model.unet] + ([model.text_encoder] if config.train_text_encoder else [])
    return [p for part in parts for p in part.parameters()]


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write `unet/` (and `text_encoder/`) in diffusers layout: they can replace those of a checkpoint."""
    model.unet.save_pretrained(folder / "unet")
    if config.train_text_encoder:
        model.text_encoder.save_pretrained(folder / "text_encoder")


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Replace the base model's networks by the saved ones."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=model.dtype, use_safetensors=True)
    model.pipe.unet = unet.to(model.device)
    if config.train_text_encoder:
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=model.dtype, use_safetensors=True)
        model.pipe.text_encoder = text.to(model.device)
