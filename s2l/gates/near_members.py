"""Near members: an upload that shows one of the owner's private photos almost pixel by pixel."""

from __future__ import annotations

import torch

from s2l.config import Settings
from s2l.gates.registry import Upload, register_gate
from s2l.measure.distances import pairwise_l2
from s2l.model.diffusion import DiffusionModel


class NearMembersSettings(Settings):
    """No settings: the distance alone decides."""


@register_gate(
    "near_members",
    title="Near members",
    question="Do these pictures copy private photos that the model was trained on?",
    formula="−min over private photos p of l2(x, p)",
    source="Carlini et al. 2023, Extracting Training Data from Diffusion Models (the distance)",
    settings=NearMembersSettings,
    needs_private=True,
)
def score(model: DiffusionModel, upload: Upload, settings: NearMembersSettings) -> torch.Tensor:
    """Minus the l2 to the nearest private photo: (N,), in [-1, 0]."""
    if upload.private is None:
        raise ValueError("this gate compares with private photos, but none were given")
    return -torch.from_numpy(pairwise_l2(upload.pictures.images, upload.private.images).min(axis=1))
