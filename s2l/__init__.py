"""Shake-to-Leak Lab: see and measure whether fine-tuning makes a diffusion model leak more.

    from s2l import preset, run
    result = run(preset("demo", "Mira Solwyn"))

Importing the package loads no torch: a name below is looked up when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Hide the libraries' notes about optional parts that this project does not use (torchvision); errors still show.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from s2l.config import preset
    from s2l.labs import Lab, find_lab
    from s2l.pipeline.experiment import run
    from s2l.pipeline.experiment import run_audit as audit
    from s2l.record import load_result

_PLACES = {
    "Lab": ("s2l.labs", "Lab"),
    "audit": ("s2l.pipeline.experiment", "run_audit"),
    "find_lab": ("s2l.labs", "find_lab"),
    "load_result": ("s2l.record", "load_result"),
    "preset": ("s2l.config", "preset"),
    "run": ("s2l.pipeline.experiment", "run"),
}

__all__ = ["Lab", "__version__", "audit", "find_lab", "load_result", "preset", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
