"""The stages of a run, each declared once, and the runner that caches, times and reports them. Loads no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from s2l.progress import Event, Progress, silent
from s2l.store import Store


def photos(part: str) -> Stage:
    """The stage that saves one part of the split as pictures, for figures and pages: "members" or "nonmembers"."""
    return Stage("images", part, {"members": "Member photos", "nonmembers": "Held-out photos"}[part], "photos")


def scores(attack: str, title: str, when: str, of: str = "") -> Stage:
    """The stage of one attack's scores on the model `when` = "before" or "after".

    `of` names what is scored, unless it is the domain's own photos and captions: "Taro Quillan", "calibration part".
    """
    suffix = f" {when}, {of}" if of else f" {when}"
    return Stage("scores", f"attack {attack}{suffix}", f"{title} attack{suffix}", "photos")


def generations(when: str) -> Stage:
    """The stage of the pictures that are searched for training photos, from the model `when` = "before" or "after"."""
    return Stage("generations", f"generate {when}", f"Generations {when}", "pictures")


def sp_set_of(name: str) -> Stage:
    """The stage of the SP set of another person, who is shaken together with the one under test."""
    return Stage("sp_set", f"sp_set, {name}", f"SP set of {name}", "pictures")


@dataclass(frozen=True)
class Stage:
    """A step of a run: what the cache, result.json, progress bars and the page call it.

    kind   its folder in the cache, shared by the stages on other models and photos
    id     its name within a run: in result.json, in events and in the live state of a job
    title  what people read
    unit   what its progress counts, in the plural
    """

    kind: str
    id: str
    title: str
    unit: str


SP_SET = Stage("sp_set", "sp_set", "SP set", "pictures")
CLASS_IMAGES = Stage("class_images", "class_images", "Class pictures", "pictures")
FINETUNE = Stage("finetune", "finetune", "Fine-tuning", "steps")
SEEDS = Stage("seeds", "choose seeds", "Choice of seeds", "seeds")
LOSS_PARTS = Stage("loss_parts", "loss over w", "Loss attack for every w", "photos")
COMPARE = Stage("audit", "compare", "Comparison", "comparisons")
RESULT = Stage("result", "result", "Result", "files")


class Stages:
    """Runs stages through a store and records the time of each. `timings` is the "stages" part of result.json."""

    def __init__(self, store: Store | None = None, progress: Progress = silent):
        self.store = store or Store()
        self.timings: dict[str, dict] = {}
        self._listener = progress
        self._running: Stage | None = None
        self._started = time.monotonic()

    def __call__(self, stage: Stage, key: str, work: Callable[[Path], object]) -> Path:
        """The stage's finished folder. `work` fills it unless it is in the cache."""
        from s2l.model.memory import halving  # loads torch

        started, self._running = time.monotonic(), stage
        folder, cached = self.store.stage(stage.kind, key, lambda place: halving(lambda: work(place), stage.title))
        seconds = time.monotonic() - started
        self.timings[stage.id] = {"title": stage.title, "key": key, "seconds": round(seconds, 3), "cached": cached}
        self.progress(Event(stage.id, 1, 1, {"cached": cached, "folder": str(folder)}))
        return folder

    def progress(self, event: Event) -> None:
        """Pass on an event, with the running stage added: the work that sends it does not know its stage."""
        if (stage := self._running) is not None:
            event = replace(event, stage=stage.id, title=stage.title, unit=stage.unit)
        self._listener(event)

    def keys(self) -> list[str]:
        """The keys of all stages so far, in order: what a result depends on."""
        return [timing["key"] for timing in self.timings.values()]

    def relative(self, folder: Path) -> str:
        """A stage's folder as result.json names it."""
        return folder.relative_to(self.store.root).as_posix()

    def total(self) -> dict[str, dict]:
        """The timings with the seconds since the beginning."""
        return self.timings | {"total": {"seconds": round(time.monotonic() - self._started, 3)}}
