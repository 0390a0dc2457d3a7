"""Own output: the model's autoencoder changes its own pictures least."""

from __future__ import annotations

import torch

from s2l.config import Settings
from s2l.gates.registry import Upload, register_gate
from s2l.model.diffusion import DiffusionModel


class OwnOutputSettings(Settings):
    """No settings: the autoencoder alone decides."""


@register_gate(
    "own_output",
    title="Own output",
    question="Were these pictures drawn by the model itself?",
    formula="−‖x − D(E(x))‖ / √n: what the autoencoder changes in the picture",
    source="Ricker, Lukovnikov & Fischer 2024, AEROBLADE (with l2 in place of LPIPS)",
    settings=OwnOutputSettings,
)
def score(model: DiffusionModel, upload: Upload, settings: OwnOutputSettings) -> torch.Tensor:
    """Minus the l2 between a picture and its reconstruction: (N,), at most 0.

    x     the picture, pixels in [0, 1]
    E, D  encoder (posterior mode) and decoder of the autoencoder

    A picture that the model generated is an output of D, and D(E(x)) returns it almost unchanged; a photo loses detail.
    """
    pictures = upload.pictures.images
    scores = []
    for part in pictures.split(model.runtime.batch_size):
        reconstruction = model.decode_latents(model.encode_images(part)).cpu()
        scores.append(-(reconstruction - part.float() / 255).square().mean(dim=(1, 2, 3)).sqrt())
    return torch.cat(scores)
