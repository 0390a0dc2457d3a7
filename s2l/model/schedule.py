"""The noise schedule of a checkpoint, as its scheduler's configuration gives it. Loads no torch.

A scheduler's configuration mixes what a model was trained with (betas, what it predicts) with how its author liked to
sample (spacing, clipping, solver). Only the former is read here; samplers.py decides the latter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMESTEPS = 1000  # of every Stable Diffusion; attacks name timesteps up to 999
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
FIELDS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

# What diffusers' classes take for a field that a configuration lacks: beta_start, beta_end, beta_schedule.
_DDPM = (0.0001, 0.02, "linear")
_KDPM = (0.00085, 0.012, "linear")
_LCM = (0.00085, 0.012, "scaled_linear")
DEFAULTS: dict[str, tuple[float, float, str]] = {
    "DDIMScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DEISMultistepScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverSDEScheduler": _KDPM,
    "DPMSolverSinglestepScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "HeunDiscreteScheduler": _KDPM,
    "KDPM2AncestralDiscreteScheduler": _KDPM,
    "KDPM2DiscreteScheduler": _KDPM,
    "LCMScheduler": _LCM,
    "LMSDiscreteScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "TCDScheduler": _LCM,
    "UniPCMultistepScheduler": _DDPM,
}
FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # of consistency models


@dataclass(frozen=True)
class Schedule:
    """The betas of a model: a rule (start, end, schedule), or a list, `trained_betas`, which then counts alone."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: tuple[float, ...] | None = None


def read_schedule(config: Mapping[str, Any], kind: str | None = None) -> Schedule:
    """The schedule in a scheduler's configuration; `kind` is the scheduler's class, by default the one it names.

    A value in the configuration counts even where its `_use_default_values` calls it a default. Raises ValueError, with
    what is wrong and what is allowed in words, for what makes no schedule of Stable Diffusion.
    """
    own = config.get("_class_name")
    kind = kind or own or ""
    # The class that wrote the file counts as much as the one that model_index.json names: flow matching has no betas.
    for named in (kind, own if own is not None else kind):
        if named not in DEFAULTS:
            raise ValueError(f"a scheduler {named!r} without betas that are known; allowed are {', '.join(DEFAULTS)}")
    if config.get("use_flow_sigmas"):
        raise ValueError(f"use_flow_sigmas {config['use_flow_sigmas']!r}; flow matching is not supported")
    start, end, rule = DEFAULTS[kind]
    steps = config.get("num_train_timesteps", TIMESTEPS)
    start, end = config.get("beta_start", start), config.get("beta_end", end)
    rule, trained = config.get("beta_schedule", rule), config.get("trained_betas")
    if isinstance(steps, bool) or steps != TIMESTEPS:
        raise ValueError(f"num_train_timesteps {steps!r}; only {TIMESTEPS} is supported")
    if trained is not None:
        if not isinstance(trained, list | tuple) or len(trained) != steps or not all(map(_is_beta, trained)):
            raise ValueError(f"trained_betas that are not {steps} numbers between 0 and 1")
        return Schedule(steps, 0.0, 0.0, "linear", tuple(map(float, trained)))
    if rule not in SCHEDULES:
        raise ValueError(f"beta_schedule {rule!r}; allowed are {', '.join(SCHEDULES)}")
    if not (_is_beta(start) and _is_beta(end) and start <= end):
        raise ValueError(f"beta_start {start!r} and beta_end {end!r}; they must lie between 0 and 1, start before end")
    return Schedule(steps, float(start), float(end), rule)


def schedule_notes(config: Mapping[str, Any], kind: str | None = None) -> list[str]:
    """What is assumed because a readable scheduler's configuration does not say it, a sentence each."""
    own = config.get("_class_name")
    kind = kind or own or ""
    notes = []
    given = read_schedule(config, kind)
    missing = [name for name in FIELDS[1:4] if name not in config]
    if missing and given.trained_betas is None:
        notes.append(
            f"its scheduler configuration has no {' and no '.join(missing)}: the defaults of {kind} count, so the "
            f"betas go from {given.beta_start:g} to {given.beta_end:g} ({given.beta_schedule})"
        )
    if few := [name for name in (kind, own) if name in FEW_STEPS]:
        notes.append(
            f"its scheduler is {few[0]}, that of models distilled for a few steps: it is scored as a model of its "
            "betas, and pictures are drawn with the sampler and the steps of this run's settings"
        )
    return notes


def _is_beta(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 < value < 1
