"""What the owner of a server may decide, by environment variables. README lists them all; nothing else is read.

A value that makes no sense stops the start with one sentence, instead of a surprise in the middle of a lesson.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from s2l.errors import UserError

MAX_UPLOADS = 300  # photos of one kind a visitor may bring
MAX_UPLOAD_BYTES = 5_000_000  # a photo; gradio refuses more before it is read
MAX_UPLOAD_PIXELS = 40_000_000  # a small file may unpack to a huge picture


def number(name: str, default: float, low: float, high: float) -> float:
    """The number in an environment variable. Raises UserError when it is none, or out of range."""
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UserError(f"{name} is a number from {low:g} to {high:g} (given: {text!r})")
    return value


def switch(name: str) -> bool:
    """Is an opt-in given? Only "1" counts, so that a typing error opens nothing."""
    return os.environ.get(name, "") == "1"


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    max_queue     runs that may wait                          S2L_MAX_QUEUE
    max_waiting   of them, from one visitor                   S2L_MAX_QUEUE_PER_VISITOR
    cache_gb      stage results kept on the disk              S2L_CACHE_MAX_GB
    keep_hours    reports and jobs that nobody looks at       S2L_KEEP_HOURS
    upload_hours  a visitor's own photos                      S2L_UPLOAD_HOURS
    """

    max_queue: int
    max_waiting: int
    cache_gb: float
    keep_hours: float
    upload_hours: float

    @classmethod
    def read(cls) -> Limits:
        """From the environment. Raises UserError."""
        return cls(
            int(number("S2L_MAX_QUEUE", 20, 1, 10_000)),
            int(number("S2L_MAX_QUEUE_PER_VISITOR", 5, 1, 10_000)),
            number("S2L_CACHE_MAX_GB", 5, 0.05, 1e6),
            number("S2L_KEEP_HOURS", 168, 1, 1e6),
            number("S2L_UPLOAD_HOURS", 24, 0.1, 1e6),
        )


@dataclass(frozen=True)
class OwnModel:
    """Which real checkpoints visitors may use, if any.

    model    one that the owner offers, a folder or a hub id     S2L_MODEL
    any_hub  visitors may name any checkpoint of the hub         S2L_ALLOW_HUB_MODELS=1
    prompts  visitors' own prompts may be used with it           S2L_ALLOW_PROMPTS=1
    """

    model: str
    any_hub: bool
    prompts: bool

    @classmethod
    def read(cls) -> OwnModel:
        return cls(os.environ.get("S2L_MODEL", "").strip(), switch("S2L_ALLOW_HUB_MODELS"), switch("S2L_ALLOW_PROMPTS"))

    @property
    def enabled(self) -> bool:
        return bool(self.model) or self.any_hub
