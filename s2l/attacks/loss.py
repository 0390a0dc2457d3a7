"""Loss attack: members are denoised with a smaller error."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from s2l.attacks.query import Query
from s2l.attacks.registry import register_attack
from s2l.config import Settings
from s2l.model import DiffusionModel

Timestep = Annotated[int, Field(ge=0, le=999)]


class LossSettings(Settings):
    """`timesteps`: the denoising error is averaged over them, one noise draw each."""

    timesteps: tuple[Timestep, ...] = (50, 100, 200, 300)


@register_attack(
    "loss",
    title="Loss",
    source="Matsumoto, Miura & Yanai 2023, Membership Inference Attacks against Diffusion Models",
    settings=LossSettings,
    evaluations=lambda settings: len(settings.timesteps),
)
def score(model: DiffusionModel, query: Query, settings: LossSettings) -> torch.Tensor:
    """Minus the mean over t of ||n - eps(z_t, t, c)||^2, averaged over latent entries: (N,).

    n      noise, fixed by the image's index and the timestep's position
    z_t    sqrt(a_t) z0 + sqrt(1 - a_t) n
    eps    predicted noise, (N, C, h, w)
    """
    error = torch.zeros(len(query), device=model.device)
    for draw, t in enumerate(settings.timesteps):
        noise = query.noise(model, draw)
        zt = model.add_noise(query.latents, noise, t)
        error += (model.eps(zt, t, query.embeddings) - noise).square().mean(dim=(1, 2, 3))
    return -error / len(settings.timesteps)
