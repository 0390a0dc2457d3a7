"""The list of gates. A gate has the same form as an attack: it gives every picture of an upload a score.

Convention: every score is returned with *higher = more suspicious*. A formula that is a distance is negated in its last
line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from s2l.config import Settings, checked
from s2l.data.domain import ImageSet
from s2l.errors import unknown
from s2l.model.diffusion import DiffusionModel


@dataclass(frozen=True)
class Upload:
    """What a gate can use.

    pictures  the pictures uploaded for fine-tuning
    private   the photos that the model's owner wants to protect; None when the gate runs without them
    """

    pictures: ImageSet
    private: ImageSet | None = None

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Gate:
    """One check of an upload.

    score          (model, upload, settings) -> (N,) float32, higher = more suspicious
    settings       the class of its settings, with defaults
    question       what it asks of an upload, in one sentence
    formula        the score in one line
    needs_private  whether it compares with the owner's private photos
    """

    name: str
    title: str
    question: str
    formula: str
    source: str
    score: Callable[[DiffusionModel, Upload, Settings], torch.Tensor]
    settings: type[Settings]
    needs_private: bool = False


GATES: dict[str, Gate] = {}


def register_gate(name: str, **facts):
    """Decorator: register a score function under `name`; `facts` are the other fields of Gate."""

    def decorate(score):
        if name in GATES:
            raise ValueError(f"the gate {name!r} is registered twice")
        GATES[name] = Gate(name, score=score, **facts)
        return score

    return decorate


def get_gate(name: str) -> Gate:
    """The gate of that name. Raises UserError with the nearest match."""
    if name not in GATES:
        raise unknown("gate", name, sorted(GATES))
    return GATES[name]


def gate_settings(name: str, over: dict | None = None) -> Settings:
    """A gate's defaults with overrides. Raises UserError for a field that it does not have."""
    return checked(get_gate(name).settings, over or {})
