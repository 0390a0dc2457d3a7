"""The list of fine-tuning methods and their legal combinations.

A method is *parameters x objective*. Some say which parameters train, DreamBooth says on what data
and with what loss, Gaussian noise trains nothing. A combination is data, ("lora", "dreambooth"):
parameters are united, and at most one method may change the objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from s2l.config import FineTuneConfig
from s2l.errors import UserError, unknown
from s2l.model.diffusion import DiffusionModel


@dataclass(frozen=True)
class Examples:
    """What the loop trains on.

    latents   z0, (N, C, h, w)
    captions  one a latent
    weights   (N,) loss weight of each example
    groups    (N,) 0 for the instance images, 1 for prior (class) images; a step sees as many of each
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    weights: torch.Tensor
    groups: torch.Tensor


def unchanged(caption: str, name: str, config: FineTuneConfig) -> str:
    """The `map_caption` of a method after which the domain is still called by its name."""
    return caption


@dataclass(frozen=True)
class Finetuner:
    """One fine-tuning method.

    kind           "parameters", "objective" or "perturbation"
    trains         one plain sentence for people: what changes in the model
    learning_rate  its own default, looked at on the lab's calibration people (docs/lab.md); None where nothing of its
                   own trains
    prepare        (model, config) -> the parameters that train, attached so that step 0 is the base
                   model; a perturbation changes the model here and returns none
    save, load     (model, folder, config): write and read exactly those parameters, safetensors only
    objective      (base model, examples, config, folder, progress) -> examples; `folder` is for the
                   pictures it draws
    map_caption    (caption, name, config) -> the caption that addresses the domain after this method
    """

    name: str
    title: str
    source: str
    trains: str
    kind: Literal["parameters", "objective", "perturbation"]
    learning_rate: float | None = None
    prepare: Callable[[DiffusionModel, FineTuneConfig], list[nn.Parameter]] | None = None
    save: Callable[[DiffusionModel, Path, FineTuneConfig], None] | None = None
    load: Callable[[DiffusionModel, Path, FineTuneConfig], None] | None = None
    objective: Callable[..., Examples] | None = None
    map_caption: Callable[[str, str, FineTuneConfig], str] = unchanged


FINETUNERS: dict[str, Finetuner] = {}

# Spellings of the original authors and short forms.
ALIASES = {
    "db": "dreambooth", "ti": "textual_inversion", "hn": "hypernetwork", "e2e": "end_to_end",
    "end2end": "end_to_end", "noise": "gaussian_noise",
}  # fmt: skip


def register_finetuner(method: Finetuner) -> Finetuner:
    """Make a method known under its name."""
    if method.name in FINETUNERS:
        raise ValueError(f"the fine-tuning method {method.name!r} is registered twice")
    FINETUNERS[method.name] = method
    return method


def legal_combinations() -> list[tuple[str, ...]]:
    """Every combination that `parse` accepts, single methods first."""
    names = list(FINETUNERS)
    sets = [c for size in range(1, len(names) + 1) for c in combinations(names, size)]
    return [c for c in sets if _problem(c) is None]


def weight_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The methods of a combination that change weights.

    An objective alone has no parameters of its own: it trains the whole UNet, as end-to-end does.
    """
    return tuple(m for m in methods if FINETUNERS[m].kind != "objective") or ("end_to_end",)


def _problem(methods: tuple[str, ...]) -> str | None:
    """Why a combination makes no sense, or None."""
    kinds = [FINETUNERS[m].kind for m in methods]
    if len(set(methods)) < len(methods):
        return "a method is named twice"
    if "perturbation" in kinds and len(methods) > 1:
        return "Gaussian noise trains nothing and stands alone"
    if kinds.count("objective") > 1:
        return "at most one method may change the objective"
    if "end_to_end" in methods and len(methods) > 1:
        rest = ", and dreambooth alone is its combination with it" if "dreambooth" in methods else ""
        return f"end_to_end already trains the whole UNet{rest}"
    return None


def parse(text: str) -> tuple[str, ...]:
    """Read "lora+dreambooth" (or "lora_db") into method names, in the order of the registry.

    The order is always the same, so one combination has one name. Raises UserError for anything
    that is no legal combination.
    """
    text = text.strip().lower().replace("-", "_")
    names = [text] if text in FINETUNERS else [part.strip() for part in text.replace(" ", "+").split("+")]
    names = [name for name in names if name]
    if len(names) == 1 and names[0] not in FINETUNERS:
        # The authors' spelling joins short names with an underscore: lora_db, db_hn.
        short = names[0].split("_")
        if all(part in FINETUNERS or part in ALIASES for part in short):
            names = short
    methods = tuple(ALIASES.get(name, name) for name in names)
    for given, name in zip(names, methods, strict=True):
        if name not in FINETUNERS:
            hint = "; a + combines two, such as lora+dreambooth (`python -m s2l methods` lists every combination)"
            raise UserError(f"{unknown('fine-tuning method', given, FINETUNERS)}{hint}")
    problem = _problem(methods) if methods else "it names no method"
    if problem is not None:
        legal = ", ".join("+".join(c) for c in legal_combinations())
        raise UserError(f"{text!r} is no legal combination: {problem}. Legal: {legal}")
    return tuple(name for name in FINETUNERS if name in methods)
