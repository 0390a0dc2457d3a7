"""The autoencoder of a lab, trained on public photos only: it never sees a private photo."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from s2l.errors import UserError
from s2l.labs import shipped_lab
from s2l.model.saved import load_state
from s2l.pretrain.data import encode, scaled, step_generator
from s2l.pretrain.recipe import Autoencoder, Recipe

CHECKPOINT_STEPS = 250


def _save_state(path: Path, **state) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _load_state(path: Path) -> dict | None:
    return load_state(path, "this part of the training starts again")


def _log(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def take_over(pipe: StableDiffusionPipeline, name: str) -> None:
    """Replace the pipeline's autoencoder with a shipped lab's. Raises UserError if the widths differ."""
    vae = AutoencoderKL.from_pretrained(shipped_lab(name).folder / "vae", dtype=torch.float32)
    if tuple(vae.config.block_out_channels) != tuple(pipe.vae.config.block_out_channels):
        raise UserError(f"the autoencoder of the lab {name!r} has other widths than the recipe asks for")
    pipe.vae.load_state_dict(vae.state_dict())
    pipe.vae.register_to_config(scaling_factor=vae.config.scaling_factor)


def train_vae(
    pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, settings: Autoencoder, work: Path
) -> None:
    """Train `pipe.vae` on `pool`, (N, 3, H, W) uint8, with L1 + MSE reconstruction and very little KL.

    Its scaling factor becomes 1 / the standard deviation of its latents. A stopped training resumes from `work`.
    """
    vae = pipe.vae
    if (final := _load_state(work / "vae.done.pt")) is not None:
        vae.load_state_dict(final["vae"])
        vae.register_to_config(scaling_factor=final["scaling_factor"])
        return
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    start = 0
    if (state := _load_state(work / "vae.pt")) is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        _log(f"vae: resumed at step {start}")
    vae.train()
    clock = time.time()
    for step in range(start, settings.steps):
        # Linear warm-up, then cosine to zero: the last thousands of steps sharpen the edges.
        warm = min(1.0, (step + 1) / 100)
        decay = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * warm * decay
        generator = step_generator(recipe, 1, step)
        x = scaled(pool[torch.randint(len(pool), (settings.batch_size,), generator=generator)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            z = posterior.mean.float() + 0.1 * posterior.std.float() * noise
            reconstruction = vae.decode(z).sample.float()
        error = reconstruction - x
        loss = error.abs().mean() + 4 * error.square().mean() + 1e-6 * posterior.kl().float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            l2 = (error.square().mean().sqrt() / 2).item()  # on the [0, 1] scale
            speed = (step + 1 - start) * settings.batch_size / (time.time() - clock)
            _log(f"vae {step + 1}/{settings.steps} l2 {l2:.4f}  {speed:.0f} images/s")
        if (step + 1) % CHECKPOINT_STEPS == 0:
            _save_state(work / "vae.pt", vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    vae.eval()
    latents = encode(vae, pool[:512], scaling_factor=1.0)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    _save_state(work / "vae.done.pt", vae=vae.state_dict(), scaling_factor=vae.config.scaling_factor)


def train_decoder(
    pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, settings: Autoencoder, work: Path
) -> None:
    """Train only the decoder of `pipe.vae`, to invert the frozen encoder (posterior mode); mostly squared error.

    `pool` is (N, 3, H, W) uint8. A stopped training resumes from `work`.
    """
    vae = pipe.vae
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.decoder_learning_rate, weight_decay=0.0, fused=True)
    start = 0
    if (state := _load_state(work / "decoder.pt")) is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    vae.eval()
    for step in range(start, settings.decoder_steps):
        warm = min(1.0, (step + 1) / 100)
        decay = 0.5 * (1 + math.cos(math.pi * step / settings.decoder_steps))
        optimizer.param_groups[0]["lr"] = settings.decoder_learning_rate * warm * decay
        generator = step_generator(recipe, 3, step)
        x = scaled(pool[torch.randint(len(pool), (settings.batch_size,), generator=generator)])
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction = vae.decode(z).sample.float()
        error = reconstruction - x
        loss = 0.5 * error.abs().mean() + 10 * error.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            _log(f"decoder {step + 1}/{settings.decoder_steps} l2 {(error.square().mean().sqrt() / 2).item():.4f}")
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == settings.decoder_steps:
            _save_state(work / "decoder.pt", vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
