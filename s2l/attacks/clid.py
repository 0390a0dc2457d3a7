"""CLiD: a model overfits an image with its caption more than without, so losing the caption costs a member more."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field

from s2l.attacks.query import Query, noised
from s2l.attacks.registry import Timesteps, register_attack
from s2l.config import Settings
from s2l.model.diffusion import DiffusionModel


class CLiDSettings(Settings):
    """`timesteps` as in the published code; `parts` the caption is cut into (0: only the empty caption remains)."""

    timesteps: Timesteps = (440, 450, 460)
    parts: int = Field(3, ge=0, le=20)


def reductions(caption: str, parts: int = 3) -> tuple[str, ...]:
    """C, the reduced captions: its first, middle and last third, cut between words, and the empty caption.

    Method 1 of the paper's section 3.5. A caption with fewer words than parts has empty ones among them.
    """
    words = caption.split()
    cuts = [round(len(words) * i / parts) for i in range(parts + 1)] if parts else []
    return (*(" ".join(words[a:b]) for a, b in pairwise(cuts)), "")


@register_attack(
    "clid",
    title="CLiD",
    source="Zhai et al. 2024, Membership Inference on Text-to-image Diffusion Models via Conditional Likelihood "
    "Discrepancy",
    settings=CLiDSettings,
    evaluations=lambda settings: len(settings.timesteps) * (2 + settings.parts),
    formula="α S(mean D) + (1 − α) S(−L), D = ‖eps(z_t, c*) − n‖² − ‖eps(z_t, c) − n‖², L = ‖eps(z_t, c) − n‖²",
    asks=lambda settings: noised(settings.timesteps),
    components=("discrepancy", "likelihood"),
)
def score(model: DiffusionModel, query: Query, settings: CLiDSettings) -> torch.Tensor:
    """The two components, (N, 2), each higher = member: the mean of D over C (equation 14) and L (equation 15).

    D(c*)   E_t[||eps(z_t, t, c*) - n||^2 - ||eps(z_t, t, c) - n||^2]: how much worse the reduced caption c* explains x
    L       -E_t[||eps(z_t, t, c) - n||^2], averaged over latent entries
    n       noise, the same for all captions

    Equation 16 combines them as alpha * S(mean D) + (1 - alpha) * S(L). S and alpha need calibration data: that is
    `calibration.Combination`. Without it the score is the first column, alpha = 1: S is monotone, so no scaling is
    needed, and what is lost is only the help of L.
    """

    def error(seen: Query) -> torch.Tensor:
        return sum(seen.denoising_error(model, t, draw) for draw, t in enumerate(settings.timesteps))

    full, discrepancy = error(query), torch.zeros(len(query), device=model.device)
    reduced = [reductions(caption, settings.parts) for caption in query.captions]
    for captions in zip(*reduced, strict=True):  # the same reduction of every image
        discrepancy += error(query.altered(embeddings=model.encode_prompts(captions))) - full
    samples = len(settings.timesteps)
    return torch.stack([discrepancy / (samples * (settings.parts + 1)), -full / samples], dim=1)
