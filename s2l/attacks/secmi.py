"""SecMI: deterministic inversion to t, one step on and one back; members come back closer."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from s2l.attacks.query import Query, clean
from s2l.attacks.registry import register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel


class SecMISettings(Settings):
    """t=140, k=10 is the authors' setting for Stable Diffusion; t=100, k=10 the one for DDPM."""

    t: int = Field(140, ge=1, le=998)
    k: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _whole_steps(self):
        if self.t % self.k or self.t + self.k > 999:
            raise ValueError(f"t must be a multiple of k and t + k at most 999, not t={self.t}, k={self.k}")
        return self


def ddim_step(model: DiffusionModel, z: torch.Tensor, eps: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Move z from timestep `source` to `target` along the deterministic DDIM path (Song et al. 2021, eq. 12)."""
    a_source, a_target = model.alpha(source, 1), model.alpha(target, 1)
    z0 = (z - (1 - a_source).sqrt() * eps) / a_source.sqrt()
    return a_target.sqrt() * z0 + (1 - a_target).sqrt() * eps


@register_attack(
    "secmi",
    title="SecMI",
    source="Duan et al. 2023, Are Diffusion Models Vulnerable to Membership Inference Attacks? (SecMI-stat)",
    settings=SecMISettings,
    evaluations=lambda settings: settings.t // settings.k + 2,
    formula="−‖z'_t − z_t‖²: z_t by DDIM inversion, z'_t one step on and one back",
    asks=lambda settings: clean(0),
)
def score(model: DiffusionModel, query: Query, settings: SecMISettings) -> torch.Tensor:
    """Minus ||z'_t - z_t||^2, summed over latent entries: (N,).

    z_t    reached from z0 (taken as the latent at timestep 0) in steps of k, with eps evaluated
           at the source timestep
    z'_t   one step on to t + k, then one step back
    """
    c, z = query.embeddings, query.latents
    for source in range(0, settings.t, settings.k):
        eps = query.clean_eps(model, 0) if source == 0 else model.eps(z, source, c)
        z = ddim_step(model, z, eps, source, source + settings.k)
    t, beyond = settings.t, settings.t + settings.k
    on = ddim_step(model, z, model.eps(z, t, c), t, beyond)
    back = ddim_step(model, on, model.eps(on, beyond, c), beyond, t)
    return -(back - z).square().sum(dim=(1, 2, 3))
