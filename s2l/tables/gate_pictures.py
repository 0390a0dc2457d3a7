"""The pictures that the study of the gates and the comparison of its signals are made on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s2l.config import SamplerConfig, SPSetConfig
from s2l.data.domain import ImageSet
from s2l.data.sp_set import prompt_of
from s2l.model.diffusion import DiffusionModel


def drawn_by(model: DiffusionModel, name: str, guidance: float, seeds: Sequence[int], steps: int) -> torch.Tensor:
    """An SP set of the person as saved pictures, one for each seed: (N, 3, H, W) uint8."""
    config = SPSetConfig()
    sampler = SamplerConfig(num_inference_steps=steps, guidance_scale=guidance)
    prompts = [prompt_of(config.prompts, name, config.suffix, seed) for seed in seeds]
    return (model.generate(prompts, seeds, sampler) * 255).round().to(torch.uint8)


def unnamed(images: torch.Tensor) -> ImageSet:
    """Pictures without captions, as a gate sees them: an upload may lie about what it shows."""
    return ImageSet(images, ("",) * len(images), ("",) * len(images))
