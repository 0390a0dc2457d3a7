"""What a LoRA says of itself beside its matrices: peft's settings, kohya's alpha, the base model it was trained on.

peft keeps its settings in adapter_config.json, diffusers (since 0.34) in the file's metadata, and kohya leaves its own
in the metadata (https://github.com/kohya-ss/sd-scripts, `ss_network_alpha`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import nn

from s2l.errors import UserError
from s2l.model.headers import parse_json
from s2l.model.lora_names import SUPPORTED

METADATA = "lora_adapter_metadata"  # of diffusers: JSON of {"unet.r": 4, ...}
# Settings of peft that a plain LoRA may have; any other one that is set means more than this file folds.
SETTINGS = {
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "peft_type", "task_type", "auto_mapping",
    "peft_version", "base_model_name_or_path", "revision", "inference_mode", "megatron_core", "qalora_group_size",
    "runtime_config", "eva_config",
}  # fmt: skip
PLAIN = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}
RANKS, ALPHAS = ("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")
BASES = ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture", "base_model_name_or_path")
OTHER_BASES = re.compile(r"sdxl|xl-base|xl-v1|stable-diffusion-3|\bsd3|flux|cascade|pixart", re.IGNORECASE)
NETWORK_ALPHA, NETWORK_ARGS = "ss_network_alpha", "ss_network_args"


def stated_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, dict]:
    """{part: peft's settings} that diffusers left in a file's metadata."""
    if METADATA not in metadata:
        return {}
    try:
        whole = parse_json(metadata[METADATA])
        found: dict[str, dict] = defaultdict(dict)
        for name, value in whole.items():
            part, _, field = name.partition(".")
            found[part][field] = value
    except (ValueError, AttributeError):
        raise UserError(f"the metadata {METADATA} of {path} cannot be read") from None
    return dict(found)


def from_settings(settings: dict, path: Path) -> LoraConfig:
    """peft's own configuration. Raises UserError for settings that mean more than a plain LoRA, or are unknown."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise UserError(f"{path} holds an adapter of the kind {kind}, which is not supported: only LoRA is")
    for name, value in settings.items():
        if name not in SETTINGS and value and value not in PLAIN.get(name, ()):
            what = "DoRA (weight-decomposed LoRA)" if name == "use_dora" else f"a LoRA with {name} = {value!r}"
            raise UserError(f"{path} holds {what}, which is not supported; {SUPPORTED}")
        if name in (*RANKS, *ALPHAS):
            _check_numbers(name, value, path)
    fields = {field.name for field in dataclasses.fields(LoraConfig)} & SETTINGS - {"peft_type", "task_type"}
    own = {name: value for name, value in settings.items() if name in fields}
    try:
        return LoraConfig(**own | {"init_lora_weights": False, "inference_mode": False})
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has settings that peft refuses: {str(error).strip().split(chr(10))[0]}") from None


def _check_numbers(name: str, value: Any, path: Path) -> None:
    """Raises UserError unless a rank is a whole number above 0 and an alpha a number; a pattern maps names to them."""
    pattern = name.endswith("_pattern")
    if pattern and value is None:
        return
    if pattern and not isinstance(value, dict):
        raise UserError(f"{path} has {name} {value!r}, where an object of names and numbers is needed")
    rank = name in RANKS
    for given in value.values() if pattern else [value]:
        kind = int if rank else (int, float)
        if isinstance(given, bool) or not isinstance(given, kind) or (rank and given < 1):
            needed = "a whole number above 0" if rank else "a number"
            raise UserError(f"{path} has {name} {value!r}, where {needed} is needed{' for each name' * pattern}")


# --- kohya -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NetworkAlpha:
    """kohya's alpha in a file's metadata: of linear layers and 1 x 1 convolutions, and of larger convolutions."""

    linear: float
    convolution: float

    def of(self, layer: nn.Module) -> float:
        large = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        return self.convolution if large else self.linear


def network_alpha(path: Path, metadata: Mapping[str, str]) -> NetworkAlpha | None:
    """The alpha that kohya's metadata names, None without one. Raises UserError for what is no number.

    Convolutions have an alpha of their own in `ss_network_args`; trained without one, kohya gives them 1.
    """
    linear = _number(path, NETWORK_ALPHA, metadata.get(NETWORK_ALPHA))
    if linear is None:
        return None
    try:
        more = json.loads(metadata.get(NETWORK_ARGS) or "{}") or {}
        given = more.get("conv_alpha", 1 if "conv_dim" in more else None)
    except (ValueError, AttributeError):
        raise UserError(f"the metadata {NETWORK_ARGS} of {path} cannot be read") from None
    convolution = _number(path, f"{NETWORK_ARGS}, conv_alpha,", given)
    return NetworkAlpha(linear, linear if convolution is None else convolution)


def _number(path: Path, name: str, value: Any) -> float | None:
    if value in (None, "", "None"):  # what kohya writes for a setting that was not given
        return None
    try:
        if not math.isfinite(number := float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(f"the metadata {name} of {path} is {value!r}, where a number is needed") from None
    return number


# --- its base model ----------------------------------------------------------------------------------


def said_base(settings: Mapping[str, Any]) -> list[str]:
    """A sentence on the base model that a LoRA's metadata or settings name; none if they name none."""
    named = {name: str(settings[name]) for name in BASES if settings.get(name)}
    if not named:
        return []
    foreign = next((name for name, value in named.items() if OTHER_BASES.search(value)), None)
    name = foreign or next(iter(named))
    warning = ", which is not Stable Diffusion 1.x or 2.x although its matrices fit this base model" if foreign else ""
    return [f"it was trained on {named[name]!r}, says its {name}{warning}"]
