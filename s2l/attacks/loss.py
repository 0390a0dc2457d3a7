"""Loss attack: members are denoised with a smaller error."""

from __future__ import annotations

import torch

from s2l.attacks.query import Query, noised
from s2l.attacks.registry import Timesteps, register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel


class LossSettings(Settings):
    """`timesteps`: the denoising error is averaged over them, one noise draw each."""

    timesteps: Timesteps = (50, 100, 200, 300)


@register_attack(
    "loss",
    title="Loss",
    source="Matsumoto, Miura & Yanai 2023, Membership Inference Attacks against Diffusion Models",
    settings=LossSettings,
    evaluations=lambda settings: len(settings.timesteps),
    formula="−mean over t of ‖n − eps(z_t, t, c)‖²",
    asks=lambda settings: noised(settings.timesteps),
)
def score(model: DiffusionModel, query: Query, settings: LossSettings) -> torch.Tensor:
    """Minus the mean over t of ||n - eps(z_t, t, c)||^2, averaged over latent entries: (N,).

    n      noise, fixed by the image and the timestep's position in the list
    z_t    sqrt(a_t) z0 + sqrt(1 - a_t) n
    eps    predicted noise, (N, C, h, w)
    """
    error = torch.zeros(len(query), device=model.device)
    for draw, t in enumerate(settings.timesteps):
        error += query.denoising_error(model, t, draw)
    return -error / len(settings.timesteps)
