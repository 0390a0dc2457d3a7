"""How a long stage reports its progress, and how others stop it.

A stage calls `progress(Event(...))` after each unit of work. A listener that raises `Cancelled`
stops the stage between two units; what was finished stays on disk and the same call resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """`step` of `total` units of `stage` are done. `info` holds extras: loss, speed, image paths.

    `title` and `unit` are the words for people; the stages of a run add them (pipeline/stages.py).
    """

    stage: str
    step: int
    total: int
    info: dict = field(default_factory=dict)
    title: str = ""
    unit: str = ""


Progress = Callable[[Event], None]


class Cancelled(Exception):
    """A running stage was asked to stop."""


def silent(event: Event) -> None:
    """A listener that does nothing."""
