"""What an attack can use: the images under test, their noise, and the predictions that attacks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from s2l.data.domain import ImageSet
from s2l.model.diffusion import DiffusionModel

Prediction = tuple  # ("clean", t) or ("noised", t, draw): one that several attacks may ask for

MEMO_LIMIT = 32  # tensors of a batch's latents; the default suite needs 12


def clean(t: int) -> frozenset[Prediction]:
    """The prediction that `Query.clean_eps` keeps at timestep t."""
    return frozenset({("clean", t)})


def noised(timesteps: Sequence[int]) -> frozenset[Prediction]:
    """The predictions that `Query.noised_eps` keeps at these timesteps, with draw i at the i-th of them."""
    return frozenset(("noised", t, draw) for draw, t in enumerate(timesteps))


@dataclass
class Memo:
    """Predictions of one model for one batch, kept for the next attack that needs the same ones.

    Made by `Query.remembering` and dropped with its batch, so it never outlives a change of the weights. It holds at
    most MEMO_LIMIT tensors (N, C, h, w); what does not fit is computed again. Never change a kept tensor in place.
    """

    model: DiffusionModel
    kept: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def once(self, model: DiffusionModel, key: tuple, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        if model is not self.model:
            return compute()
        if key in self.kept:
            return self.kept[key]
        value = compute()
        if len(self.kept) < MEMO_LIMIT:
            self.kept[key] = value
        return value


@dataclass(frozen=True)
class Query:
    """N images under test, seen by one model.

    images      (N, 3, H, W) uint8, as they came; `floats()` for (N, 3, H, W) float32 in [0, 1]
    latents     z0, (N, C, h, w), the scaled posterior mode
    captions    one per image, as the attacker knows them
    embeddings  c, (N, L, D), of the captions
    indices     the position of each image in the whole set: noise is drawn from it, so that a
                score depends neither on the batch nor on which other images are tested
    seed        of the noise; the same before and after fine-tuning
    memo        predictions that attacks share; None: every prediction is made when asked for
    """

    images: torch.Tensor
    latents: torch.Tensor
    captions: tuple[str, ...]
    embeddings: torch.Tensor
    indices: tuple[int, ...]
    seed: int = 0
    memo: Memo | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.latents)

    def floats(self) -> torch.Tensor:
        """(N, 3, H, W) float32 in [0, 1]."""
        return self.images.float() / 255

    # --- parts and variants: none of them inherits the memo, which is valid for exactly these images only ---

    def part(self, some: slice | Sequence[int]) -> Query:
        """Some of the images, in the order given, each with its own index and hence its own noise."""
        rows = range(len(self))[some] if isinstance(some, slice) else [int(i) for i in some]
        return Query(
            self.images[some],
            self.latents[some],
            tuple(self.captions[i] for i in rows),
            self.embeddings[some],
            tuple(self.indices[i] for i in rows),
            self.seed,
        )

    def altered(self, **changes) -> Query:
        """The same images and noise with other `latents` (a crop) or `embeddings` (another caption)."""
        return replace(self, memo=None, **changes)

    def remembering(self, model: DiffusionModel) -> Query:
        """The same query with an empty memo for the predictions of `model`."""
        return replace(self, memo=Memo(model))

    # --- noise and predictions ---

    def _once(self, model: DiffusionModel, key: tuple, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        return compute() if self.memo is None else self.memo.once(model, key, compute)

    def noise(self, model: DiffusionModel, draw: int = 0) -> torch.Tensor:
        """n, standard normal (N, C, h, w): the `draw`-th noise of these images."""
        # Hashed, because torch's CPU generator uses only 32 bits of a seed: three numbers packed into it would collide.
        seeds = [int(np.random.SeedSequence([self.seed, draw, i]).generate_state(1)[0]) for i in self.indices]
        return self._once(model, ("noise", draw), lambda: model.noise(seeds))

    def clean_eps(self, model: DiffusionModel, t: int) -> torch.Tensor:
        """eps(z0, t, c), (N, C, h, w): the clean latent fed at timestep t. One evaluation, shared by attacks."""
        return self._once(model, ("clean", t), lambda: model.eps(self.latents, t, self.embeddings))

    def noised_eps(self, model: DiffusionModel, t: int, draw: int = 0) -> torch.Tensor:
        """eps(z_t, t, c), (N, C, h, w), with z_t from the `draw`-th noise. One evaluation, shared by attacks."""

        def compute() -> torch.Tensor:
            zt = model.add_noise(self.latents, self.noise(model, draw), t)
            return model.eps(zt, t, self.embeddings)

        return self._once(model, ("noised", t, draw), compute)

    def denoising_error(self, model: DiffusionModel, t: int, draw: int = 0) -> torch.Tensor:
        """||n - eps(z_t, t, c)||^2 averaged over latent entries, (N,). One evaluation, shared by attacks."""
        return (self.noised_eps(model, t, draw) - self.noise(model, draw)).square().mean(dim=(1, 2, 3))


def make_query(
    model: DiffusionModel,
    images: ImageSet,
    seed: int = 0,
    captions: Sequence[str] | None = None,
    indices: Sequence[int] | None = None,
) -> Query:
    """Encode images and captions once with `model`.

    `captions` replaces the images' own; `indices` says where the images stand in the whole set when only some of it
    is given (default: 0, 1, 2, ...). The query takes 3HW bytes per image plus its float32 latent and embedding.
    """
    captions = tuple(captions) if captions is not None else images.captions
    indices = tuple(int(i) for i in indices) if indices is not None else tuple(range(len(images)))
    for what, given in (("captions", captions), ("indices", indices)):
        if len(given) != len(images):
            raise ValueError(f"{len(images)} images need {len(images)} {what}, not {len(given)}")
    return Query(
        images=images.images,
        latents=model.encode_images(images.images),
        captions=captions,
        embeddings=model.encode_prompts(captions),
        indices=indices,
        seed=seed,
    )
