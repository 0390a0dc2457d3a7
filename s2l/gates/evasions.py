"""What somebody can do to pictures of the model's own before uploading them, so that a gate does not see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from s2l.gates.own_output_jpeg import compressed

LANCZOS = Image.Resampling.LANCZOS
CROP = 0.05  # of each side's length, taken off around the middle


def _plain(images: torch.Tensor) -> torch.Tensor:
    return images


def _each(change: Callable[[Image.Image], Image.Image], images: torch.Tensor) -> torch.Tensor:
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]
    return torch.stack([torch.from_numpy(np.array(change(p))).permute(2, 0, 1) for p in pictures])


def _cropped(image: Image.Image) -> Image.Image:
    w, h = image.size
    x, y = w * CROP / 2, h * CROP / 2
    return image.resize((w, h), LANCZOS, (x, y, w - x, h - y))


def _resized(image: Image.Image) -> Image.Image:
    """Twice as large and back: how a picture travels through an upscaler."""
    w, h = image.size
    return image.resize((2 * w, 2 * h), Image.Resampling.BICUBIC).resize((w, h), LANCZOS)


def _noisy(sigma: float, images: torch.Tensor) -> torch.Tensor:
    """`sigma` in units of the whole range of a pixel; the noise depends on nothing but a picture's place."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator) * 255 * sigma
    return (images.float() + noise).round().clamp(0, 255).to(torch.uint8)


EVASIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "untouched": _plain,
    "JPEG 75": partial(compressed, quality=75),
    "JPEG 50": partial(compressed, quality=50),
    "cropped by 5 %": partial(_each, _cropped),
    "noise, sigma .02": partial(_noisy, 0.02),
    "noise, sigma .05": partial(_noisy, 0.05),
    "upscaled and back": partial(_each, _resized),
}
MIXED = "half honest photos"  # half of the upload replaced by held-out photos of the person
