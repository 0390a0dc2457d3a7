"""The live state of a run, which the page shows: made from the run's events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from s2l.config import RunConfig
from s2l.jobs.store import Jobs
from s2l.pipeline.plan import plan
from s2l.pipeline.stages import FINETUNE, Stage
from s2l.progress import Cancelled, Event
from s2l.report import shipped
from s2l.store import Store, read_json, write_json

WRITE_EVERY = 0.3  # seconds between two writes of the live state
LOOK_EVERY = 0.2  # seconds between two checks of the cancel flag
LOSS_POINTS = 400
ENOUGH = 0.5  # seconds of work from which a speed is taken
RATES = "rates.json"  # in the folder of the jobs: {kind of work: UNet evaluations per second} of the last runs
ENOUGH = 0.5  # seconds of work from which a speed is taken


def training(folder: Path, store: Store) -> dict:
    """The live state of a finished training, {"loss", "samples", "samples_in"}, from its folder."""
    log = folder / "log.jsonl"
    samples: dict[int, list[str]] = {}
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    for path in sorted((folder / "samples").glob("*.png")):  # samples/000040_0.png: step and number
        samples.setdefault(int(path.name.partition("_")[0]), []).append(f"samples/{path.name}")
    return {
        "loss": _curve(rows),
        "samples": [[step, names] for step, names in samples.items()],
        "samples_in": folder.relative_to(store.root).as_posix() if samples else "",
    }


def _curve(log: Sequence[Mapping]) -> list[list]:
    """[[step, loss], ...] of a training log, few enough points to draw."""
    loss = [[row["step"], round(row["loss"], 5)] for row in log if "loss" in row]
    return loss[:: 1 + len(loss) // LOSS_POINTS]


def of_cached(config: RunConfig, result: str, store: Store) -> dict:
    """The live state of a run that came entirely from the cache or ships with the program, to be shown like any other.

    "shipped" stands in the state of the latter only.
    """
    stages = [[stage.id, "cached", stage.title] for stage in plan(config)]
    if (entry := shipped.named(result)) is not None:
        log = shipped.load(entry, store).training["log"]
        return {"stages": stages, "log": ["this run ships with the program"], "loss": _curve(log), "shipped": True}
    folders = read_json(store.path("result", result) / "result.json")["folders"]
    state = {"stages": stages, "log": ["everything was in the cache"]}
    return state | training(store.root / folders["finetune"], store)


@dataclass
class Live:
    """Turns a run's events into what a page shows, and stops the run when it is cancelled.

    The live state: {"stages": [[id, "waiting" | "running" | "done" | "cached", title], ...]; of the running stage, ""
    and 0 until the first one works, "stage" (its id), "title", "unit", "step", "total", "speed" (images/s); "done" (0
    to 1, of all work), "eta" (seconds left or None), "loss": [[step, loss], ...], "log": [lines], "pictures": folder
    relative to the cache, "pictures_of": id and "pictures_title" of its stage, "samples": [[step, [file names]], ...]
    of pictures generated with fixed seeds during training, in "samples_in", a folder relative to the cache}
    """

    jobs: Jobs
    key: str
    worker: str
    config: RunConfig
    state: dict = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    written: float = 0.0
    looked: float = 0.0

    def __post_init__(self) -> None:
        self.plan = plan(self.config)
        self.work = {stage.id: units for stage, units in self.plan.items()}
        self.kinds = {stage.id: _kind(stage, self.config) for stage in self.plan}
        self.known: dict[str, float] = {}
        with suppress(OSError, ValueError):
            self.known = read_json(self.jobs.folder / RATES)
        self.status = dict.fromkeys(self.work, "waiting")
        self.state = {
            "stage": "", "title": "", "unit": "", "step": 0, "total": 0, "loss": [], "log": [], "pictures": "",
            "pictures_of": "", "pictures_title": "", "samples": [], "samples_in": "",
        }  # fmt: skip
        self.rates: dict[str, tuple[float, float]] = {}  # stage: (units worked, seconds)
        self.first: tuple[str, int, float] = ("", 0, 0.0)  # stage, step and time of its first event
        self.ended, self.pauses = time.monotonic(), list[float]()  # of the stage before; until a stage's first event

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if "cached" in event.info:
            self._finished(event)
        else:
            self._step(event, now)
        if now - self.written > WRITE_EVERY or "cached" in event.info:
            self.written = now
            self.write()
        if now - self.looked > LOOK_EVERY:  # last, so that this step is shown in any case
            self.looked = now
            if self.jobs.must_stop(self.key, self.worker):
                raise Cancelled

    def write(self) -> None:
        stages = [[stage.id, self.status[stage.id], stage.title] for stage in self.plan]
        self.jobs.write_live(self.key, self.worker, self.state | {"stages": stages})

    def _finished(self, event: Event) -> None:
        name, self.ended = event.stage, time.monotonic()
        if name not in self.work:
            return  # a stage too small to show, such as the members' pictures
        self.status[name] = "cached" if event.info["cached"] else "done"
        seconds = time.monotonic() - self.first[2] if self.first[0] == name else 0.0
        self.state["log"].append(
            f"{time.strftime('%H:%M:%S')} {event.title}: "
            + ("from the cache" if event.info["cached"] else f"{seconds:.1f} s")
        )
        if name == FINETUNE.id and event.info["cached"]:
            self.state |= training(Path(event.info["folder"]), self.jobs.store)
        self._pictures(event)
        if not event.info["cached"]:
            self._remember(name)
        self._time_left(name, 1.0)

    def _step(self, event: Event, now: float) -> None:
        name = event.stage
        if self.first[0] != name:
            self.first = (name, event.step, now)
            self.pauses.append(now - self.ended)
        if name in self.status:
            self.status[name] = "running"
        share = event.step / max(1, event.total)
        if name in self.work:
            units = (event.step - self.first[1]) / max(1, event.total) * self.work[name]
            self.rates[name] = (units, now - self.first[2])
        self.state |= {"stage": name, "title": event.title, "unit": event.unit}
        self.state |= {"step": event.step, "total": event.total}
        self.state["speed"] = event.info.get("images_per_s")
        if "loss" in event.info:
            loss = self.state["loss"]
            loss.append([event.step, round(event.info["loss"], 5)])
            if len(loss) > LOSS_POINTS:
                del loss[1::2]
        if "samples" in event.info:
            self.state["samples"].append([event.step, event.info["samples"]])
            self.state["samples_in"] = self._relative(event.info["samples_in"])
        self._pictures(event)
        self._time_left(name, share)

    def _pictures(self, event: Event) -> None:
        if "folder" in event.info and event.unit == "pictures":
            self.state["pictures"] = self._relative(event.info["folder"])
            self.state |= {"pictures_of": event.stage, "pictures_title": event.title}

    def _relative(self, folder: str) -> str:
        """A folder's path relative to the cache; "" for a folder outside it."""
        with suppress(ValueError):
            return Path(folder).relative_to(self.jobs.store.root).as_posix()
        return ""

    def _time_left(self, current: str, share: float) -> None:
        """Assumes that this stage continues at its own speed, and each other one at that of its kind of work.

        Kinds differ: scores may be in another precision than pictures, and a training step takes more than its UNet
        evaluations say. A kind that has not come yet in this run goes as fast as in the last run on this machine.
        """
        left = {s: w for s, w in self.work.items() if self.status[s] == "waiting"}
        here_left = self.work.get(current, 0.0) * (1 - share)
        total = sum(self.work.values()) or 1.0
        self.state["done"] = round(1 - (sum(left.values()) + here_left) / total, 4)
        rates = [(self._rate(stage, current), units) for stage, units in ({current: here_left} | left).items() if units]
        known = all(rate for rate, _ in rates)
        pause = sum(self.pauses[1:]) / max(1, len(self.pauses) - 1)  # the first one loads the model
        seconds = sum(units / rate for rate, units in rates) + pause * len(left) if known else None
        self.state["eta"] = None if seconds is None else round(seconds, 1)

    def _rate(self, stage: str, current: str) -> float:
        """UNet evaluations per second to expect of a stage; 0 if nothing has worked long enough to tell."""
        kind = self.kinds.get(stage, "")
        same = [s for s in self.rates if self.kinds[s] == kind]
        mine = self._measured([stage]) if stage == current else 0.0
        return mine or self._measured(same) or self.known.get(kind, 0.0) or self._measured(list(self.rates))

    def _measured(self, stages: Sequence[str]) -> float:
        units, seconds = (sum(self.rates[stage][i] for stage in stages) for i in (0, 1))
        return units / seconds if seconds > ENOUGH else 0.0

    def _remember(self, stage: str) -> None:
        """Keep the speed of a finished stage for the next run."""
        if rate := self._measured([stage] if stage in self.rates else []):
            self.known[self.kinds[stage]] = rate
            write_json(self.jobs.folder / RATES, self.known)


def _kind(stage: Stage, config: RunConfig) -> str:
    """Stages of one kind work at one speed."""
    if stage == FINETUNE:
        return "training " + "+".join(config.finetune.methods)
    return "pictures" if stage.unit == "pictures" else stage.kind
