"""Baselines: the same work as the scripts in the literature do it.

They are slow on purpose: one image at a time, nothing cached, nothing batched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from peft import LoraConfig

from s2l.attacks.secmi import SecMISettings, ddim_step
from s2l.config import FineTuneConfig
from s2l.data.domain import ImageSet
from s2l.finetune.catalogue import LoRASettings, settings_of
from s2l.model.diffusion import DiffusionModel

STEPS = 50  # the default of diffusers' pipeline, which the published scripts do not change


def sample(model: DiffusionModel, prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float) -> None:
    """Diffusers' pipeline with the checkpoint's own scheduler, 50 steps, one image per call."""
    with torch.autocast(model.device.type, enabled=model.device.type == "cuda"):  # as in the authors' script
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = torch.Generator(model.device).manual_seed(seed)
            model.pipe(prompt, num_inference_steps=STEPS, guidance_scale=guidance_scale, generator=generator)


@torch.no_grad()
def secmi(model: DiffusionModel, images: ImageSet, settings: SecMISettings) -> torch.Tensor:
    """SecMI-stat with the published schedule: (N,) scores, higher = member.

    Per image, 19 steps of inversion up to t + 5k, 19 of denoising down to 0, and a decoded picture: 38 UNet evaluations
    (at t = 140, k = 10), although the score is final after the step back from t + k.
    """
    t, k = settings.t, settings.k
    top, scores = t + 5 * k, []
    for image, caption in zip(images.images, images.captions, strict=True):
        z = model.encode_images(image[None].float() / 255)
        c = model.encode_prompts([caption])
        for source in range(0, top, k):
            eps = model.eps(z, source, c)
            if source == t:
                z_t = z
            if source == t + k:
                scores.append(-(ddim_step(model, z, eps, source, t) - z_t).square().sum(dim=(1, 2, 3)))
            z = ddim_step(model, z, eps, source, source + k)
        for source in range(top, 0, -k):
            z = ddim_step(model, z, model.eps(z, source, c), source, source - k)
        model.decode_latents(z).cpu()
    return torch.cat(scores)


def train_steps(model: DiffusionModel, images: ImageSet, config: FineTuneConfig, steps: int) -> None:
    """A plain LoRA training loop in float32 that encodes its images and captions at every step."""
    tuned = model.copy()
    lora = settings_of("lora", LoRASettings, config)
    tuned.unet.add_adapter(
        LoraConfig(r=lora.rank, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules))
    )
    parameters = [p for p in tuned.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(len(images), (config.train_batch_size,), generator=generator).tolist()
        with torch.no_grad():
            x = images.images[index].to(tuned.device).float() / 127.5 - 1
            z0 = tuned.vae.encode(x.to(tuned.vae.dtype)).latent_dist.sample().float() * tuned.vae.config.scaling_factor
            tokens = tuned.tokenize([images.captions[i] for i in index])
            c = tuned.text_encoder(tokens)[0]
        noise, t = torch.randn_like(z0), torch.randint(1000, (len(z0),), device=tuned.device)
        out = tuned.unet_output(tuned.unet, tuned.add_noise(z0, noise, t), t, c)
        loss = (out - tuned.training_target(z0, noise, t)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) l2 of (N, 3, H, W) and (M, 3, H, W) uint8, one pair at a time."""
    x, y = (images.astype(np.float32) / 255 for images in (a, b))
    return np.array([[np.sqrt(np.mean((one - other) ** 2)) for other in y] for one in x])
