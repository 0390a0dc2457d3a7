"""Cheaper and stronger extraction: which seeds to denoise, which noise prediction to follow, and what both cost.

Notation
    evaluation   one forward pass of one latent through the UNet: the unit of cost
    pool         the seeds that are screened; `n_generations` of them are denoised
    w            how far to go from the base model's noise prediction to the fine-tuned model's: 0 base, 1 fine-tuned,
                 > 1 beyond

**Only the base model chooses the seeds, once for before and after.** For each seed, before and after then differ in the
weights only. If the fine-tuned model chose its own, "after" would mix the effect of fine-tuning with that of choosing,
and every fine-tuning method would use other seeds. The attacker has the base model; the cost counts before and after.

Sources: Wen et al. 2024, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models"; Wu et al. 2025,
"Leveraging Model Guidance to Extract Training Data from Personalized Diffusion Models" (FineXtract).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from s2l.config import ExtractionConfig, SamplerConfig, UnshakeConfig
from s2l.data.sp_set import prompt_of
from s2l.model import mitigation
from s2l.model.diffusion import DiffusionModel
from s2l.model.extrapolated import Extrapolated
from s2l.model.finite import finite
from s2l.progress import Event, Progress, silent


class Draws(NamedTuple):
    """What to generate: for each picture, the prompt as the base model gets it, and the seed."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """UNet evaluations of all generations of one model: screening seeds, denoising, and their sum."""

    selection: int
    denoising: int
    unet_evaluations: int


# --- which seeds ---------------------------------------------------------------------------------------------------


def candidates(config: ExtractionConfig, name: str) -> Draws:
    """The whole pool: `config.pool_size` seeds, each with the prompt that it draws from the mix."""
    seeds = range(config.seed, config.seed + config.pool_size)
    return Draws(tuple(prompt_of(config.prompts, name, "", seed) for seed in seeds), tuple(seeds))


@torch.inference_mode()
def text_noise_magnitude(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    progress: Progress = silent,
) -> torch.Tensor:
    """||eps(z_T, c) - eps(z_T, empty)||_2 at the sampler's first step: (N,) float32, 2 UNet evaluations per image.

    Large if the text has a strong effect on pure noise, as memorised prompts have (Wen et al. 2024, eq. 3).
    """
    t = model.first_timestep(sampler)
    empty, parts = model.encode_prompts([""]), []
    size = model.runtime.batch_size
    for first in range(0, len(prompts), size):
        some = slice(first, first + size)
        c, z = model.encode_prompts(prompts[some]), model.noise(seeds[some])
        both = model.eps(torch.cat([z, z]), t, torch.cat([c, empty.expand(len(c), -1, -1)]))
        conditional, unconditional = finite(both, "choosing seeds", model.dtype).chunk(2)
        parts.append((conditional - unconditional).flatten(1).norm(dim=1).cpu())
        progress(Event("choose seeds", min(first + size, len(prompts)), len(prompts)))
    return torch.cat(parts)


def promising(pool: Draws, magnitudes: torch.Tensor, keep: int) -> Draws:
    """The `keep` draws of the pool with the largest magnitudes (N,), in the pool's order; ties go to the lower seed.

    Raises:
        ValueError: for a number of magnitudes that is not the pool's, or `keep` not in 1..N.
    """
    if len(magnitudes) != len(pool.seeds):
        raise ValueError(f"{len(magnitudes)} magnitudes for a pool of {len(pool.seeds)} seeds: one per seed")
    if not 1 <= keep <= len(magnitudes):
        raise ValueError(f"keep must be between 1 and {len(magnitudes)}, not {keep}")
    indices = sorted(torch.argsort(-magnitudes, stable=True)[:keep].tolist())
    return Draws(tuple(pool.prompts[i] for i in indices), tuple(pool.seeds[i] for i in indices))


def draws(base: DiffusionModel, config: ExtractionConfig, name: str, progress: Progress = silent) -> Draws:
    """The draws for both models: the whole pool, or what the base model chooses from it (`config.seed_pool`)."""
    pool = candidates(config, name)
    if config.seed_pool is None:
        return pool
    magnitudes = text_noise_magnitude(base, *pool, config.sampler, progress)
    return promising(pool, magnitudes, config.n_generations)


# --- which noise prediction ----------------------------------------------------------------------------------------


def after_generate(
    base: DiffusionModel, tuned: DiffusionModel, config: ExtractionConfig, plain: Sequence[str], mapped: Sequence[str]
) -> Callable:
    """The function that generates the pictures after: the tuned model's `generate`, or one that goes beyond it.

    `plain` are the base model's captions and `mapped` the tuned model's, image by image. w = 1 is the fine-tuned model;
    w > 1 goes further in the direction of the fine-tuning (FineXtract, here with S2L's own before/after pair).
    """
    if config.guidance_w is None:
        return tuned.generate
    captions = dict(zip(mapped, plain, strict=True))
    return Extrapolated(base, tuned, -config.guidance_w, lambda prompt: captions.get(prompt, prompt)).generate


# --- what it costs -------------------------------------------------------------------------------------------------


def evaluations_per_prediction(unshake: UnshakeConfig | None) -> int:
    """UNet evaluations of one noise prediction of the model after: 2 if un-shake mixes two models' predictions."""
    return 2 if unshake is not None and unshake.space == "scores" else 1


def generation_cost(config: ExtractionConfig, when: str, unshake: UnshakeConfig | None = None) -> Cost:
    """UNet evaluations of the generations `when` = "before" or "after", the choice of seeds included in both.

    Screening a seed costs 2. A denoising step costs 1, or 2 under guidance, and twice that when the prediction (after
    only) mixes those of both models. A mitigation can add to it.
    """
    sampler = config.sampler
    both = config.guidance_w is not None or evaluations_per_prediction(unshake) == 2
    models = 2 if when == "after" and both else 1
    per_step = models * (1 if sampler.guidance_scale == 1 else 2)
    selection = 2 * config.seed_pool if config.seed_pool is not None else 0
    start = models * mitigation.evaluations(sampler)
    denoising = config.n_generations * (sampler.num_inference_steps * per_step + start)
    return Cost(selection, denoising, selection + denoising)
