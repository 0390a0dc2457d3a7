"""PIA and PIAN: for a member, the noise predicted for the clean image is predicted again at timestep t."""

from __future__ import annotations

import math

import torch

from s2l.attacks.query import Query, clean
from s2l.attacks.registry import Timestep, register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel

SOURCE = "Kong et al. 2024, An Efficient Membership Inference Attack for the Diffusion Model by Proximal Initialization"


class PIASettings(Settings):
    """`t`: the timestep of the second prediction; 200 is where the authors' DDPM results are best."""

    t: Timestep = 200


def _proximal_distance(model: DiffusionModel, query: Query, e0: torch.Tensor, t: int) -> torch.Tensor:
    """R_{t,4}^4 = ||e0 - eps(sqrt(a_t) z0 + sqrt(1 - a_t) e0, t, c)||_4^4, summed over latent entries: (N,).

    Equation 9 of the paper; the fourth power instead of its root, as in the published code: the order is the same.
    """
    zt = model.add_noise(query.latents, e0, t)
    return (e0 - model.eps(zt, t, query.embeddings)).pow(4).sum(dim=(1, 2, 3))


@register_attack(
    "pia",
    title="PIA",
    source=SOURCE,
    settings=PIASettings,
    evaluations=lambda settings: 2,
    formula="−‖e0 − eps(√a z0 + √(1 − a) e0, t, c)‖₄⁴, e0 = eps(z0, 0, c)",
    asks=lambda settings: clean(0),
)
def score_pia(model: DiffusionModel, query: Query, settings: PIASettings) -> torch.Tensor:
    """Minus R_{t,4}^4: (N,).

    e0     eps(z0, 0, c), (N, C, h, w), predicted for the clean latent; it stands in for the noise
    z_t    sqrt(a_t) z0 + sqrt(1 - a_t) e0, a point of the trajectory that z0 and e0 determine
    """
    return -_proximal_distance(model, query, query.clean_eps(model, 0), settings.t)


@register_attack(
    "pian",
    title="PIAN",
    source=SOURCE,
    settings=PIASettings,
    evaluations=lambda settings: 2,
    formula="PIA with e0 rescaled to a mean absolute value of √(2/π)",
    asks=lambda settings: clean(0),
)
def score_pian(model: DiffusionModel, query: Query, settings: PIASettings) -> torch.Tensor:
    """PIA with e0 rescaled, image by image, so that mean|e0| is that of standard normal noise: (N,).

    E|x| = sqrt(2 / pi) for x ~ N(0, 1). Equation 10 as its text and the published code mean it; as printed it
    multiplies by sqrt(pi / 2) and gives mean|e0| = sqrt(pi / 2).
    """
    e0 = query.clean_eps(model, 0)
    e0 = e0 * math.sqrt(2 / math.pi) / e0.abs().mean(dim=(1, 2, 3), keepdim=True)
    return -_proximal_distance(model, query, e0, settings.t)
