"""Import torch and the other large libraries once, in the background, while the first picture is already shown.

The import takes seconds, and two threads that import at the same time can see half-initialised modules. So the page is
built without these libraries, one thread imports them after the start, and code that needs them calls `ready` first.
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
    """Wait until all large libraries are imported; import them if no thread has begun."""
    with _lock:
        for name in MODULES:
            importlib.import_module(name)


def begin(then: Callable[[], None]) -> None:
    """Import in the background, then call `then`, which prepares what the first visitors would wait for."""

    def work() -> None:
        ready()
        then()

    threading.Thread(target=work, daemon=True, name="s2l-warm-up").start()
