"""Gaussian noise: N(0, sigma^2) on the weights. No data, no training.

The paper's control: does *any* shake make the model leak? Its sigmas (2e-4, 8e-4, 3.2e-3) are
absolute; `noise_relative` measures sigma in each tensor's own standard deviation instead, so that
models whose weights have another scale can be compared.

    w'  =  w + sigma n            n ~ N(0, 1), one random stream per tensor
    w'  =  w + sigma std(w) n     with `noise_relative`

Only the settings are saved: the noise of a tensor comes from the seed and the tensor's name, so a
part of the model gets the same noise whichever other parts are perturbed.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.finetune.catalogue import GaussianNoiseSettings, settings_of
from s2l.model.diffusion import DiffusionModel


def targets(model: DiffusionModel, target: str) -> dict[str, nn.Parameter]:
    """{"unet.conv_in.weight": parameter}: those whose name contains `target`, or all."""
    parts = {"unet": model.unet, "text_encoder": model.text_encoder}
    named = {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}
    chosen = {name: p for name, p in named.items() if target in ("all", "") or target in name}
    if not chosen:
        raise UserError(
            f"no weight has noise_target {target!r} in its name; allowed: all, unet, text_encoder, "
            "or a part of a name such as attn2, mid_block or to_q"
        )
    return chosen


@torch.no_grad()
def add_noise(model: DiffusionModel, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Add `scale` times the noise of the settings."""
    settings = settings_of("gaussian_noise", GaussianNoiseSettings, config)
    for name, weight in targets(model, settings.noise_target).items():
        # One hash of both, because PyTorch's generator uses only the lowest 32 bits of a seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {name}".encode()))
        noise = torch.randn(weight.shape, generator=generator).to(weight.device)
        spread = weight.float().std(correction=0) if settings.noise_relative else 1.0
        weight.copy_(weight.float() + scale * settings.noise_sigma * spread * noise)


def prepare(model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
    """Add the noise. Returns no parameters: nothing trains."""
    add_noise(model, config)
    return []


def save(model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
    """Write nothing: the settings determine the noise."""


def load(model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
    """Draw the same noise again, `scale` times as strong."""
    add_noise(model, config, scale)
