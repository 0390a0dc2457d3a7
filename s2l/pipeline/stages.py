"""The stages of one run: each one cached, timed and announced."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from s2l.model.memory import halving
from s2l.progress import Event, Progress, silent
from s2l.store import Store


class Stages:
    """Runs stages through a store and keeps what each one took. `timings` is the "stages" part of result.json."""

    def __init__(self, store: Store | None = None, progress: Progress = silent):
        self.store, self.progress = store or Store(), progress
        self.timings: dict[str, dict] = {}
        self._started = time.monotonic()

    def __call__(self, name: str, key: str, work: Callable[[Path], None], label: str | None = None) -> Path:
        """The stage's finished folder. `work` fills it unless it is in the cache; `label` is what people read."""
        started = time.monotonic()
        folder, cached = self.store.stage(name, key, lambda place: halving(lambda: work(place), label or name))
        seconds = time.monotonic() - started
        self.timings[label or name] = {"key": key, "seconds": round(seconds, 3), "cached": cached}
        self.progress(Event(label or name, 1, 1, {"cached": cached, "folder": str(folder)}))
        return folder

    def keys(self) -> list[str]:
        """Of all stages so far, in order: what a result depends on."""
        return [timing["key"] for timing in self.timings.values()]

    def relative(self, folder: Path) -> str:
        """A stage's folder as result.json names it."""
        return folder.relative_to(self.store.root).as_posix()

    def total(self) -> dict[str, dict]:
        """The timings with the seconds since the beginning."""
        return self.timings | {"total": {"seconds": round(time.monotonic() - self._started, 3)}}
