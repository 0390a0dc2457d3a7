"""What a fine-tuning method's file offers, by kind.

parameters, perturbation   prepare, save, load
objective                  objective
any                        map_caption, if captions call the person by another word afterwards
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.finetune.catalogue import FINETUNERS, weight_methods
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Progress


@dataclass(frozen=True)
class Examples:
    """What the loop trains on.

    latents   z0, (N, C, h, w)
    captions  one per latent
    weights   (N,) loss weight of each example
    groups    (N,) 0 for the instance images, 1 for prior (class) images; a step sees equally many of each
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    weights: torch.Tensor
    groups: torch.Tensor


class WeightMethod(Protocol):
    """A file that changes weights."""

    def prepare(self, model: DiffusionModel, config: FineTuneConfig) -> list[nn.Parameter]:
        """The parameters that train, attached so that step 0 is the base model.

        A perturbation changes the model here and returns none.
        """

    def save(self, model: DiffusionModel, folder: Path, config: FineTuneConfig) -> None:
        """Write exactly those parameters, safetensors only."""

    def load(self, model: DiffusionModel, folder: Path, config: FineTuneConfig, scale: float = 1.0) -> None:
        """Read them into a base model, their change multiplied by `scale`: 1 as trained, -1 the opposite change.

        A file may leave `scale` out; its method then cannot be un-shaken in weights.
        """


class ObjectiveMethod(Protocol):
    """A file that changes what is trained on, and with which loss."""

    def objective(
        self, model: DiffusionModel, examples: Examples, config: FineTuneConfig, folder: Path, progress: Progress
    ) -> Examples:
        """The examples to train on instead; `model` is the base model, `folder` is for pictures that it generates."""


class CaptionMap(Protocol):
    def __call__(self, caption: str, name: str, config: FineTuneConfig) -> str:
        """The caption to use after this method for the person called `name`."""


def weights_of(name: str) -> WeightMethod:
    """The file of a method that changes weights."""
    return cast(WeightMethod, FINETUNERS.known(name).load_module())


def check_scalable(methods: Sequence[str], scale: float) -> None:
    """Raises UserError for a combination with a method whose file cannot multiply its change by `scale`."""
    for name in weight_methods(methods):
        if scale != 1 and "scale" not in inspect.signature(weights_of(name).load).parameters:
            raise UserError(
                f"the fine-tuning method {name!r} cannot be un-shaken in weights, because its `load` takes no scale: "
                "un-shake in scores instead (--unshake-space scores)"
            )


def objective_of(name: str) -> ObjectiveMethod | None:
    """The file of a method that changes the objective; None for every other method."""
    method = FINETUNERS.known(name)
    return cast(ObjectiveMethod, method.load_module()) if method.kind == "objective" else None


def caption_map(name: str) -> CaptionMap | None:
    """How a method changes captions; None if the person keeps the name."""
    return cast("CaptionMap | None", getattr(FINETUNERS.known(name).load_module(), "map_caption", None))


def renaming_methods(methods: Sequence[str]) -> list[str]:
    """The methods of a combination that put a new word in the place of the person's name in captions."""
    return [name for name in methods if caption_map(name) is not None]
