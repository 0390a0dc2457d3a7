"""What the autoencoder changes in a picture, beside what it changes in its own output: a help for gates.

    residue(x)   x - D(E(x)), where E is the encoder (posterior mode) and D the decoder
    excess(x)    log ||residue(x)|| - log ||residue(y)||, where y = D(E(x))

A picture that the model generated is an output of D, and its residue is about that of y. A photo has detail that no
output of D has, so its residue is larger. The difference of logarithms takes out how much detail a picture shows: the
residue alone is small for every smooth picture too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from s2l.model.diffusion import DiffusionModel

LEAST = 1e-4  # of a residue: below a grey level, where a ratio would say nothing


def decoded(model: DiffusionModel, x: torch.Tensor) -> torch.Tensor:
    """D(E(x)) of pixels (N, 3, H, W) in [0, 1], on the CPU."""
    return model.decode_latents(model.encode_images(x)).cpu()


def excess(
    model: DiffusionModel,
    images: torch.Tensor,
    seen: Callable[[torch.Tensor], torch.Tensor] = lambda residue: residue,
    saved: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """(N,) float32 from images (N, 3, H, W) uint8, about 0 for outputs of D and larger for photos.

    `seen` is what counts of a residue, such as its coarse part. `saved` does to y what was done to the pictures, such
    as a compression, so that its traces are in both residues; it maps uint8 to uint8.
    """

    def of(some: slice) -> torch.Tensor:
        x = images[some].float() / 255
        y = decoded(model, x)
        first = _size(seen(x - y))
        if saved is not None:
            y = saved((y * 255).round().to(torch.uint8)).float() / 255
        return (first / _size(seen(y - decoded(model, y)))).log()

    return torch.cat([part for group in model.batches(len(images)) for part in model.together(of, group)])


def _size(residue: torch.Tensor) -> torch.Tensor:
    return residue.square().mean(dim=(1, 2, 3)).sqrt().clamp(min=LEAST)
