"""SimA: the predicted noise is small where the model's training images are."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from s2l.attacks.query import Query, clean, noised
from s2l.attacks.registry import Timestep, Timesteps, register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel

SOURCE = "Rao, Qu & Moyer 2025, Score-based Membership Inference on Diffusion Models"


class SimASettings(Settings):
    """`t`: the timestep given to the UNet. The authors search 0, 10, ..., 190; at 0 PIA's first pass is shared."""

    t: Timestep = 100


class SimAMCSettings(Settings):
    """The Monte Carlo variant: `draws` noised latents at each of `timesteps`.

    `average` says what is averaged over the draws of one timestep: "norms", as in the paper's text, or "predictions",
    as in the authors' own runs according to replications: there the noise cancels before the norm is taken.
    """

    timesteps: Timesteps = (50, 100, 200, 300)
    draws: int = Field(1, ge=1, le=100)
    average: Literal["norms", "predictions"] = "norms"


def _norm(eps: torch.Tensor) -> torch.Tensor:
    """||eps||_4^4 = sum of eps^4 over latent entries: (N,)."""
    return eps.pow(4).sum(dim=(1, 2, 3))


@register_attack(
    "sima",
    title="SimA",
    source=SOURCE,
    settings=SimASettings,
    evaluations=lambda settings: 1,
    formula="−‖eps(z0, t, c)‖₄⁴: the clean latent fed at t",
    asks=lambda settings: clean(settings.t),
)
def score_sima(model: DiffusionModel, query: Query, settings: SimASettings) -> torch.Tensor:
    """Minus ||eps(z0, t, c)||_4^4: (N,). The clean latent is fed as it is, neither noised nor scaled, at timestep t."""
    return -_norm(query.clean_eps(model, settings.t))


@register_attack(
    "sima_mc",
    title="SimA-MC",
    source=SOURCE,
    settings=SimAMCSettings,
    evaluations=lambda settings: len(settings.timesteps) * settings.draws,
    formula="−mean over t and n of ‖eps(z_t, t, c)‖₄⁴",
    asks=lambda settings: noised(settings.timesteps * settings.draws),
)
def score_sima_mc(model: DiffusionModel, query: Query, settings: SimAMCSettings) -> torch.Tensor:
    """Minus the mean over t and noise draws of ||eps(z_t, t, c)||_4^4: (N,).

    z_t    sqrt(a_t) z0 + sqrt(1 - a_t) n
    n      noise, fixed by the image and the number of the draw; with one draw per timestep it is the noise of
           the Loss attack at the same place of its list, so the suite gets these predictions for free
    """
    total = torch.zeros(len(query), device=model.device)
    for i, t in enumerate(settings.timesteps):
        draws = [i + len(settings.timesteps) * j for j in range(settings.draws)]
        predictions = [query.noised_eps(model, t, draw) for draw in draws]
        if settings.average == "norms":
            total += sum(_norm(eps) for eps in predictions) / settings.draws
        else:
            total += _norm(sum(predictions) / settings.draws)
    return -total / len(settings.timesteps)
