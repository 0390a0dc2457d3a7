"""Cheaper and stronger extraction: which seeds to denoise, which noise prediction to follow, and what both cost.

Notation
    evaluation   one forward pass of one latent through the UNet: the unit of cost
    pool         the seeds that are screened; `n_generations` of them are denoised
    w            how far to go from the base model's noise prediction to the fine-tuned model's: 0 base, 1 fine-tuned,
                 > 1 beyond

**Only the base model chooses the seeds, once for before and after.** For each seed, before and after then differ in the
weights only. If the fine-tuned model chose its own, "after" would mix the effect of fine-tuning with that of choosing,
and every fine-tuning method would use other seeds. The attacker has the base model, and its cost counts in both stages.

Sources: Wen et al. 2024, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models"; Wu et al. 2025,
"Leveraging Model Guidance to Extract Training Data from Personalized Diffusion Models" (FineXtract).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from s2l.config import ExtractionConfig, SamplerConfig
from s2l.data.sp_set import prompt_of
from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel
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
        conditional, unconditional = both.chunk(2)
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


def extrapolated(base: DiffusionModel, tuned: DiffusionModel, w: float, captions: Mapping[str, str]) -> Callable:
    """A `generate` that follows eps_base + w (eps_tuned - eps_base), two UNet passes where one model needs one.

    w = 1 is the fine-tuned model; w > 1 goes further in the direction of the fine-tuning (FineXtract, here with S2L's
    own before/after pair). Each model reads the prompt with its own text encoder and in its own words:
    `captions` gives the base model's caption for the tuned model's, where they differ. With the tuned caption, the base
    model would not know DreamBooth's identifier, and Textual Inversion, which does not change the UNet, would have no
    effect. Guidance is linear, so each prediction is in effect guided by its own unconditional one.

    Raises:
        UserError: when latents or text embeddings of the two models differ in size: they cannot be mixed.
    """
    for what, sizes in (
        ("latents", (base.latent_shape, tuned.latent_shape)),
        ("text embeddings", (base.unet.config.cross_attention_dim, tuned.unet.config.cross_attention_dim)),
    ):
        if sizes[0] != sizes[1]:
            raise UserError(f"guidance_w needs two models of one architecture; their {what} have sizes {sizes}")

    def encode(prompts: Sequence[str]) -> torch.Tensor:
        """(N, L, 2D): the base model's context beside the tuned model's."""
        base_context = base.encode_prompts([captions.get(prompt, prompt) for prompt in prompts])
        return torch.cat([base_context, tuned.encode_prompts(prompts)], dim=-1)

    def predict(z: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        c_base, c_tuned = c.chunk(2, dim=-1)
        e_base = base.eps(z, t, c_base)
        return e_base + w * (tuned.eps(z, t, c_tuned) - e_base)

    return partial(tuned.generate, predict=predict, encode=encode)


def after_generate(
    base: DiffusionModel, tuned: DiffusionModel, config: ExtractionConfig, plain: Sequence[str], mapped: Sequence[str]
) -> Callable:
    """The `generate` of the after stage: the tuned model's own, or the extrapolated one (`config.guidance_w`).

    `plain` are the base model's captions and `mapped` the tuned model's, image by image.
    """
    if config.guidance_w is None:
        return tuned.generate
    return extrapolated(base, tuned, config.guidance_w, dict(zip(mapped, plain, strict=True)))


# --- what it costs -------------------------------------------------------------------------------------------------


def generation_cost(config: ExtractionConfig, when: str) -> Cost:
    """UNet evaluations of the generations `when` = "before" or "after", the choice of seeds included in both.

    Screening a seed costs 2. A denoising step costs 1, or 2 under guidance, and twice that when the extrapolated
    prediction (after only) evaluates both models.
    """
    sampler = config.sampler
    models = 2 if when == "after" and config.guidance_w is not None else 1
    per_step = models * (1 if sampler.guidance_scale == 1 else 2)
    selection = 2 * config.seed_pool if config.seed_pool is not None else 0
    denoising = config.n_generations * sampler.num_inference_steps * per_step
    return Cost(selection, denoising, selection + denoising)
