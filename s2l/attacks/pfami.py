"""PFAMI: a member lies at a peak of the likelihood, so a slight crop lowers its likelihood more."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, field_validator

from s2l.attacks.query import Query, noised
from s2l.attacks.registry import Timesteps, register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel


class PFAMISettings(Settings):
    """`crops`: share of the side that each crop keeps; `timesteps`: where the denoising error is taken.

    The authors take ten crops from .95 to .70 and t = 0, 50, ..., 450, which are 110 evaluations; the default spans
    the same crops with 20, at the timesteps of the Loss attack, with which it shares the errors of the whole image.
    """

    crops: Annotated[tuple[float, ...], Field(min_length=1, max_length=100)] = (0.95, 0.87, 0.78, 0.70)
    timesteps: Timesteps = (50, 100, 200, 300)

    @field_validator("crops")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.1 <= share < 1 for share in value):
            raise ValueError("each crop keeps a share of the side from 0.1 up to, not including, 1: write 0.95, not 95")
        return value


def centre_crop(images: torch.Tensor, share: float) -> torch.Tensor:
    """The central floor(share * H) pixels per side of (N, 3, H, W), resized back to (H, W), bilinear."""
    side = images.shape[-1]
    inner = max(1, int(side * share))
    first = (side - inner) // 2
    crop = images[..., first : first + inner, first : first + inner]
    return torch.nn.functional.interpolate(crop, size=(side, side), mode="bilinear", align_corners=False)


@register_attack(
    "pfami",
    title="PFAMI",
    source="Fu et al. 2023, A Probabilistic Fluctuation based Membership Inference Attack for Diffusion Models",
    settings=PFAMISettings,
    evaluations=lambda settings: len(settings.timesteps) * (1 + len(settings.crops)),
    formula="−mean over crops and t of L_t(x) − L_t(crop of x), L_t as in Loss",
    asks=lambda settings: noised(settings.timesteps),
)
def score(model: DiffusionModel, query: Query, settings: PFAMISettings) -> torch.Tensor:
    """Minus the mean over crops and t of L_t(x) - L_t(crop x): (N,). The metric variant, PFAMI_Met.

    L_t(x)   ||n - eps(z_t, t, c)||^2 averaged over latent entries, z_t from the encoded x
    n        noise, the same for an image and all its crops: only the image changes
    """

    def error(seen: Query) -> torch.Tensor:
        return sum(seen.denoising_error(model, t, draw) for draw, t in enumerate(settings.timesteps))

    whole, pixels = error(query), query.floats()
    fall = torch.zeros_like(whole)
    for share in settings.crops:
        fall += whole - error(query.altered(latents=query.encoded(model, centre_crop(pixels, share))))
    return -fall / (len(settings.crops) * len(settings.timesteps))
