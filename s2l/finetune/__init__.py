"""Fine-tuning methods, one file each, through one trainer. To add one, see CONTRIBUTING.md.

The list of methods (catalogue.py) loads no torch; the code that works on a model loads it when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from s2l.finetune.catalogue import (
    FINETUNERS,
    Finetuner,
    learning_rates,
    legal_combinations,
    method_settings,
    parse,
    settings_of,
    spelled_out,
    weight_methods,
)

if TYPE_CHECKING:
    from s2l.finetune.method import Examples, check_scalable, renaming_methods, weights_of
    from s2l.finetune.tune import finetune, load_finetuned, map_caption, mapped_captions

__all__ = [
    "FINETUNERS", "Examples", "Finetuner", "check_scalable", "finetune", "learning_rates", "legal_combinations",
    "load_finetuned", "map_caption", "mapped_captions", "method_settings", "parse", "renaming_methods", "settings_of",
    "spelled_out", "weight_methods", "weights_of",
]  # fmt: skip

_WITH_TORCH = {
    "Examples": "method", "check_scalable": "method", "renaming_methods": "method", "weights_of": "method",
    "finetune": "tune", "load_finetuned": "tune", "map_caption": "tune", "mapped_captions": "tune",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
