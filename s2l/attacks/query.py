"""What an attack can use: the images under test, their noise, and the predictions that attacks share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from s2l.config import AuditConfig
from s2l.data.domain import ImageSet
from s2l.model.diffusion import DiffusionModel

Prediction = tuple  # ("clean", t) or ("noised", t, draw): one that several attacks may ask for

POSTERIOR = 2**32  # the draw of the autoencoder's noise: none of an attack's
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
    latents     z0, (N, C, h, w), the scaled posterior's mode, or a sample of it
    captions    one per image, as the attacker knows them
    embeddings  c, (N, L, D), of the captions
    indices     what the noise of each image is drawn from: its content's number (`content_numbers`), or its position in
                the whole set. A score never depends on the batch
    posterior   the content's number of each image, if the autoencoder's posterior is sampled; () for its mode
    seed        of the noise; the same before and after fine-tuning
    memo        predictions that attacks share; None: every prediction is made when asked for
    """

    images: torch.Tensor
    latents: torch.Tensor
    captions: tuple[str, ...]
    embeddings: torch.Tensor
    indices: tuple[int, ...]
    seed: int = 0
    posterior: tuple[int, ...] = ()
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
            tuple(self.posterior[i] for i in rows) if self.posterior else (),
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
        return self._once(model, ("noise", draw), lambda: model.noise(_seeds(self.seed, draw, self.indices)))

    def encoded(self, model: DiffusionModel, x: torch.Tensor) -> torch.Tensor:
        """z0, (N, C, h, w), of changed pictures x (N, 3, H, W) of these images: mode or sample, as for `latents`."""
        return _encoded(model, x, self.seed, self.posterior)

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


def _seeds(seed: int, draw: int, numbers: Sequence[int]) -> list[int]:
    # Hashed, because torch's CPU generator uses only 32 bits of a seed: three numbers packed into it would collide.
    return [int(np.random.SeedSequence([seed, draw, i]).generate_state(1)[0]) for i in numbers]


def _encoded(model: DiffusionModel, x: torch.Tensor, seed: int, posterior: Sequence[int]) -> torch.Tensor:
    """The latents of pictures: the mode, or with the numbers of `posterior` a sample with noise of its own."""
    if not posterior:
        return model.encode_images(x)
    return model.encode_images(x, model.noise(_seeds(seed, POSTERIOR, posterior)))


def content_numbers(images: torch.Tensor) -> tuple[int, ...]:
    """(N, 3, H, W) uint8 -> for each picture the first 64 bits of its pixels' sha256.

    Copies of one photo have one number, hence the same noise and, with the same caption, the same score.
    """
    digests = (hashlib.sha256(picture.numpy().tobytes()).digest() for picture in images.cpu())
    return tuple(int.from_bytes(digest[:8], "big") for digest in digests)


def query_of(model: DiffusionModel, images: ImageSet, config: AuditConfig, captions: Sequence[str]) -> Query:
    """`make_query` with the seed, the noise and the latents of an audit."""
    contents = content_numbers(images.images)
    numbers = contents if config.noise == "content" else None
    return make_query(
        model, images, config.seed, captions, numbers, posterior=contents if config.latents == "sample" else ()
    )


def make_query(
    model: DiffusionModel,
    images: ImageSet,
    seed: int = 0,
    captions: Sequence[str] | None = None,
    indices: Sequence[int] | None = None,
    posterior: Sequence[int] = (),
) -> Query:
    """Encode images and captions once with `model`.

    `captions` replaces the images' own; `indices` is what their noise is drawn from (default: 0, 1, 2, ...), and
    `posterior` samples the autoencoder's posterior. The query takes 3HW bytes per image plus its float32 latent and
    embedding.
    """
    captions = tuple(captions) if captions is not None else images.captions
    indices = tuple(int(i) for i in indices) if indices is not None else tuple(range(len(images)))
    for what, given in (("captions", captions), ("indices", indices)):
        if len(given) != len(images):
            raise ValueError(f"{len(images)} images need {len(images)} {what}, not {len(given)}")
    return Query(
        images=images.images,
        latents=_encoded(model, images.images, seed, posterior),
        captions=captions,
        embeddings=model.encode_prompts(captions),
        indices=indices,
        seed=seed,
        posterior=tuple(posterior),
    )
