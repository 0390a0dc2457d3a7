"""What an attack may look at, and the noise it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from s2l.domain import ImageSet
from s2l.model import DiffusionModel


@dataclass(frozen=True)
class Query:
    """N images under test, seen by one model.

    images      (N, 3, H, W) float32 in [0, 1]
    latents     z0, (N, C, h, w), the scaled posterior mode
    captions    one a image, as the attacker knows them
    embeddings  c, (N, L, D), of the captions
    indices     the position of each image in the whole set: noise is drawn from it, so that a
                score depends neither on the batch nor on which other images are tested
    seed        of the noise; the same before and after fine-tuning
    """

    images: torch.Tensor
    latents: torch.Tensor
    captions: tuple[str, ...]
    embeddings: torch.Tensor
    indices: tuple[int, ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.latents)

    def noise(self, model: DiffusionModel, draw: int = 0) -> torch.Tensor:
        """Standard normal (N, C, h, w) for the `draw`-th use of noise on these images."""
        return model.noise([((self.seed * 10_007 + draw) << 24) + i for i in self.indices])

    def part(self, some: slice) -> Query:
        return Query(
            self.images[some], self.latents[some], self.captions[some], self.embeddings[some], self.indices[some],
            self.seed,
        )  # fmt: skip


def make_query(
    model: DiffusionModel, images: ImageSet, seed: int = 0, captions: Sequence[str] | None = None
) -> Query:
    """Encode images and captions once with `model`; `captions` replaces the images' own."""
    captions = tuple(captions) if captions is not None else images.captions
    floats = images.floats()
    return Query(
        images=floats,
        latents=model.encode_images(floats),
        captions=captions,
        embeddings=model.encode_prompts(captions),
        indices=tuple(range(len(images))),
        seed=seed,
    )
