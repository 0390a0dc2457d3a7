"""The list of attacks, and the one way to run them.

Law: every score is returned with *higher = more likely a member*. A formula that is a distance is
negated in its last line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from s2l.attacks.query import Query
from s2l.config import AuditConfig, Settings, checked, unknown
from s2l.model import DiffusionModel
from s2l.progress import Event, Progress, silent

STAGE_VERSION = 1  # raise it when the same settings would give other scores


@dataclass(frozen=True)
class Attack:
    """One membership inference attack.

    score        (model, query, settings) -> (N,) float32, higher = member
    settings     the class of its settings, with defaults
    evaluations  UNet evaluations a query, given the settings
    """

    name: str
    title: str
    source: str
    score: Callable[[DiffusionModel, Query, Settings], torch.Tensor]
    settings: type[Settings]
    evaluations: Callable[[Settings], int]


ATTACKS: dict[str, Attack] = {}


def register_attack(name: str, title: str, source: str, settings: type[Settings], evaluations):
    """Decorator: make a score function known under `name`."""

    def decorate(score):
        if name in ATTACKS:
            raise ValueError(f"the attack {name!r} is registered twice")
        ATTACKS[name] = Attack(name, title, source, score, settings, evaluations)
        return score

    return decorate


def get_attack(name: str) -> Attack:
    """The attack of that name. Raises UserError with the nearest match."""
    if name not in ATTACKS:
        raise unknown("attack", name, sorted(ATTACKS))
    return ATTACKS[name]


def attack_settings(name: str, config: AuditConfig) -> Settings:
    """An attack's defaults with the run's overrides."""
    return checked(get_attack(name).settings, config.settings.get(name, {}))


def run_attack(
    name: str, model: DiffusionModel, query: Query, config: AuditConfig, progress: Progress = silent
) -> torch.Tensor:
    """Score all images of a query in batches: (N,) float32 on the CPU, higher = member."""
    attack, settings = get_attack(name), attack_settings(name, config)
    size, parts = model.runtime.batch_size, []
    for first in range(0, len(query), size):
        scores = attack.score(model, query.part(slice(first, first + size)), settings)
        parts.append(scores.float().cpu())
        progress(Event(f"attack {name}", min(first + size, len(query)), len(query)))
    return torch.cat(parts)
