"""Cheaper and stronger extraction: which seeds to denoise, and which noise prediction to follow.

Both are options of the extraction stage and are compared at the same number of UNet evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from s2l.config import SamplerConfig
from s2l.model import DiffusionModel


@torch.inference_mode()
def text_noise_magnitude(
    model: DiffusionModel, prompts: Sequence[str], seeds: Sequence[int], sampler: SamplerConfig
) -> torch.Tensor:
    """||eps(z_T, c) - eps(z_T, empty)||_2 at the sampler's first step: (N,), two UNet evaluations an image.

    Large where the text pulls hard from pure noise, which memorised prompts do (Wen et al. 2024,
    Detecting, Explaining, and Mitigating Memorization in Diffusion Models, eq. 3).
    """
    t = model.first_timestep(sampler)
    empty, parts = model.encode_prompts([""]), []
    size = model.runtime.batch_size
    for first in range(0, len(prompts), size):
        some = slice(first, first + size)
        c, z = model.encode_prompts(prompts[some]), model.noise(seeds[some])
        both = model.eps(torch.cat([z, z]), t, torch.cat([c, empty.expand(len(c), -1, -1)]))
        conditional, unconditional = both.chunk(2)
        parts.append((conditional - unconditional).flatten(1).norm(dim=1).cpu())
    return torch.cat(parts)


def promising(magnitudes: torch.Tensor, keep: int) -> list[int]:
    """The positions of the `keep` largest magnitudes, in their original order."""
    if not 1 <= keep <= len(magnitudes):
        raise ValueError(f"keep must be between 1 and {len(magnitudes)}, not {keep}")
    return sorted(torch.topk(magnitudes, keep).indices.tolist())


def extrapolated(base: DiffusionModel, tuned: DiffusionModel, w: float) -> Callable:
    """A `predict` for `tuned.generate` that follows eps_base + w (eps_tuned - eps_base).

    w = 1 is the tuned model, w > 1 goes on in the direction in which fine-tuning moved it (FineXtract,
    Wu et al. 2025, with S2L's own before/after pair). Two UNet passes a step.
    """

    def predict(z: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        e_base = base.eps(z, t, c)
        return e_base + w * (tuned.eps(z, t, c) - e_base)

    return predict
