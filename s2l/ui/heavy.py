"""torch and the other large libraries, imported once, behind the first picture.

They take seconds, and importing them in two threads at a time breaks them (half-made modules). So the page is built
without them, a thread imports them after the start, and whatever needs them calls `ready` before its own import.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable

from s2l.finetune import FINETUNERS

MODULES = (
    "s2l.report.render", "s2l.attacks", "s2l.pipeline.experiment", "s2l.finetune.tune",
    *(FINETUNERS[name].module for name in FINETUNERS.own),
)  # fmt: skip
_lock = threading.RLock()


def ready() -> None:
    """Wait until everything heavy is imported; imports it if nobody has begun."""
    with _lock:
        for name in MODULES:
            importlib.import_module(name)


def begin(then: Callable[[], None]) -> None:
    """Import in the background, then do the rest of what the first visitors would wait for."""

    def work() -> None:
        ready()
        then()

    threading.Thread(target=work, daemon=True, name="s2l-warm-up").start()
