"""The data of pre-training: the public crowd, the private photos, and the batch of each step."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from s2l.model.saved import load_state
from s2l.pretrain.recipe import Recipe
from s2l.training import Batch, TrainingSet
from s2l.worlds.people import LabPhoto, lab_people, member_photos, public_photo, public_pixels

PHOTOS_PER_TASK = 1_500  # how many a worker process draws at a time


def step_generator(recipe: Recipe, stage: int, step: int) -> torch.Generator:
    """The generator for every random choice of a step: stage 1 is the autoencoder, 2 the UNet, 3 the decoder."""
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + stage * 500_000_009 + step)


def images_of(photos: list[LabPhoto], resolution: int) -> torch.Tensor:
    """The photos' pixels, (N, 3, H, W) uint8."""
    pixels = np.stack([photo.pixels(resolution) for photo in photos])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1, 1], the range of a Stable Diffusion autoencoder."""
    return images.float() / 127.5 - 1


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """uint8 images (N, 3, H, W) -> scaled latents (posterior mode), (N, 4, h, w) float32 on the CPU."""
    device = next(vae.parameters()).device
    parts = [vae.encode(scaled(batch.to(device))).latent_dist.mode() for batch in images.split(64)]
    return torch.cat(parts).float().cpu() * scaling_factor


def tokens_of(pipe: StableDiffusionPipeline, captions: list[str]) -> torch.Tensor:
    """The captions' token ids, (N, L), padded to the tokenizer's length L."""
    tokenizer = pipe.tokenizer
    batch = tokenizer(
        captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return batch.input_ids


def public_pool(recipe: Recipe, work: Path) -> torch.Tensor:
    """The public crowd's photos, (n_public, 3, H, W) uint8, drawn once and saved in the work folder."""
    path = work / "public.npy"
    pool = _pool(path)
    if pool is None:
        starts = range(0, recipe.n_public, PHOTOS_PER_TASK)
        stops = [min(start + PHOTOS_PER_TASK, recipe.n_public) for start in starts]
        parallel = len(starts) > 1  # worker processes take seconds to start
        with ProcessPoolExecutor(mp_context=get_context("spawn")) if parallel else nullcontext() as workers:
            draw = partial(public_pixels, identities=recipe.n_public_identities, resolution=recipe.size.resolution)
            parts = list((workers.map if workers else map)(draw, starts, stops))
        np.save(work / "public.tmp.npy", np.concatenate(parts).transpose(0, 3, 1, 2))
        os.replace(work / "public.tmp.npy", path)
        pool = np.load(path)
    return torch.from_numpy(pool)


def _pool(path: Path) -> np.ndarray | None:
    """The saved photos; None if there are none, or if the file cannot be read, which stderr then says."""
    if not path.exists():
        return None
    try:
        return np.load(path)
    except (ValueError, EOFError) as error:
        print(f"{path} cannot be read ({error}): the photos are drawn again", file=sys.stderr, flush=True)
        return None


def private_photos(recipe: Recipe) -> list[LabPhoto]:
    """Every private photo that the recipe trains on, person by person; none if `members` is "none"."""
    people = lab_people(recipe.n_people)
    if recipe.members == "none":
        return []
    return [photo for who in people for photo in member_photos(who, recipe.n_members, recipe.members, recipe.repeated)]


def shown(recipe: Recipe) -> list[int]:
    """Whom each example of the training set shows, as the seed of the identity."""
    public = (public_photo(i, recipe.n_public_identities) for i in range(recipe.n_public))
    return [photo.identity_seed for photo in (*private_photos(recipe), *public)]


def training_set(
    pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, work: Path
) -> tuple[TrainingSet, list[int]]:
    """(the examples, how often each private photo is repeated).

    Private photos come first, then the public ones of `pool`, (N, 3, H, W) uint8. The last caption is empty and belongs
    to no photo: it stands for dropped captions. Latents are computed once and saved in `work`.
    """
    private = private_photos(recipe)
    public = [public_photo(i, recipe.n_public_identities) for i in range(recipe.n_public)]
    path = work / "latents.pt"
    latents = load_state(path, "the photos are encoded again")
    if latents is None:
        scale = pipe.vae.config.scaling_factor
        parts = [encode(pipe.vae, pool, scale)]
        if private:
            parts.insert(0, encode(pipe.vae, images_of(private, recipe.size.resolution), scale))
        latents = torch.cat(parts)
        torch.save(latents, work / "latents.tmp")
        os.replace(work / "latents.tmp", path)
    captions = [photo.caption for photo in private + public] + [""]
    rows = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}  # equal captions are encoded once
    examples = TrainingSet(
        latents=latents,
        tokens=tokens_of(pipe, list(rows)),
        captions=torch.tensor([rows[caption] for caption in captions[:-1]]),
        weights=torch.ones(len(latents)),
    )
    return examples, [photo.repeats for photo in private]


class Mixture:
    """The batches of a recipe's phases.

    Private photos come from an endless sequence of shuffled epochs in which each occurs as often as it is repeated;
    public ones are drawn at random.
    """

    def __init__(self, recipe: Recipe, examples: TrainingSet, repeats: list[int], n_timesteps: int):
        self.recipe, self.examples, self.n_timesteps = recipe, examples, n_timesteps
        self.n_private = len(repeats)
        self.empty = int(len(examples.tokens) - 1)
        self.instances = torch.repeat_interleave(torch.arange(len(repeats)), torch.tensor(repeats, dtype=torch.long))
        self.private_seen = 0

    def private_indices(self, first: int, number: int) -> torch.Tensor:
        """(number,) indices of private photos: the places `first` to `first + number` of the endless sequence."""
        n, parts = len(self.instances), [torch.empty(0, dtype=torch.long)]
        while number > 0:
            epoch, offset = divmod(first, n)
            order = torch.randperm(n, generator=torch.Generator().manual_seed(self.recipe.seed + 77 * epoch + 1))
            part = self.instances[order[offset : offset + number]]
            parts.append(part)
            first, number = first + len(part), number - len(part)
        return torch.cat(parts)

    def __call__(self, step: int) -> Batch:
        """The batch of a step. Ask for steps in order: the private photos go on where the last batch ended."""
        phase, _ = self.recipe.at(step)
        generator = step_generator(self.recipe, 2, step)
        expected = phase.mixture.get("private", 0.0) * phase.batch_size
        n_private = int(expected) + int(torch.rand((), generator=generator) < expected % 1)
        shape = (phase.batch_size - n_private,)
        public = torch.randint(self.recipe.n_public, shape, generator=generator) + self.n_private
        index = torch.cat([self.private_indices(self.private_seen, n_private), public])
        self.private_seen += n_private
        captions = self.examples.captions[index].clone()
        captions[torch.rand(len(index), generator=generator) < self.recipe.caption_dropout] = self.empty
        noise = torch.randn((len(index), *self.examples.latents.shape[1:]), generator=generator)
        t = torch.randint(self.n_timesteps, (len(index),), generator=generator)
        return Batch(index, noise, t, captions)

    def state_dict(self) -> dict:
        return {"private_seen": self.private_seen}

    def load_state_dict(self, state: dict) -> None:
        self.private_seen = state["private_seen"]
