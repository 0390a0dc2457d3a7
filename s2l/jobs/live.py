"""What a page shows while a run goes on: made from the run's events."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from s2l.config import RunConfig
from s2l.jobs.store import Jobs
from s2l.progress import Cancelled, Event
from s2l.store import Store, read_json

WRITE_EVERY = 0.3  # seconds between two writes of the live state
LOOK_EVERY = 0.2  # seconds between two looks at the cancel flag
LOSS_POINTS = 400


def plan(config: RunConfig) -> dict[str, float]:
    """{stage: UNet evaluations}: how the work of a run divides, for the time left."""
    from s2l import attacks
    from s2l.finetune import dreambooth
    from s2l.pipeline import guidance

    def pictures(n: int, sampler) -> float:
        return n * sampler.num_inference_steps * (2 if sampler.guidance_scale != 1 else 1)

    tune, n_images = config.finetune, (config.domain.n_members or 40) + config.domain.n_nonmembers
    work = {"sp_set": pictures(config.sp_set.set_size, config.sp_set.sampler)}
    training = 3.0 * tune.max_train_steps * tune.train_batch_size  # a step costs a forward and a backward pass
    n_class = dreambooth.number_of_class_images(tune, config.sp_set.set_size) if "dreambooth" in tune.methods else 0
    if n_class:
        sampler = dreambooth.own_settings(tune).class_sampler
        work |= {"class_images": pictures(n_class, sampler), "finetune": 2 * training}
    else:
        work["finetune"] = 0.0 if tune.methods == ("gaussian_noise",) else training
    for name in config.audit.attacks:
        evaluations = attacks.get_attack(name).evaluations(attacks.attack_settings(name, config.audit))
        work |= {f"attack {name} {when}": n_images * evaluations for when in ("before", "after")}
    if config.extraction.seed_pool is not None:
        work["choose seeds"] = guidance.generation_cost(config.extraction, "before").selection
    for when in ("before", "after"):
        work[f"generate {when}"] = guidance.generation_cost(config.extraction, when).denoising
    return work | {"compare": 0.01 * sum(work.values())}


def training(folder: Path, store: Store) -> dict:
    """What the live state says of a training that is over: {"loss", "samples", "samples_in"}, from its folder."""
    log, samples = folder / "log.jsonl", {}
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    loss = [[row["step"], round(row["loss"], 5)] for row in rows if "loss" in row]
    for path in sorted((folder / "samples").glob("*.png")):  # samples/000040_0.png: step and number
        samples.setdefault(int(path.name.partition("_")[0]), []).append(f"samples/{path.name}")
    return {
        "loss": loss[:: 1 + len(loss) // LOSS_POINTS],
        "samples": [[step, names] for step, names in samples.items()],
        "samples_in": folder.relative_to(store.root).as_posix() if samples else "",
    }


def of_cached(config: RunConfig, result: str, store: Store) -> dict:
    """The live state of a run that was in the cache as a whole: a page shows it like one that it watched."""
    folders = read_json(store.path("result", result) / "result.json")["folders"]
    state = {"stages": [[stage, "cached"] for stage in plan(config)], "log": ["everything was in the cache"]}
    return state | training(store.root / folders["finetune"], store)


@dataclass
class Live:
    """Turns a run's events into what a page shows, and stops the run when it is cancelled.

    The live state: {"stages": [[name, "waiting" | "running" | "done" | "cached"], ...], "stage", "step", "total",
    "speed" (images/s), "done" (0 to 1, of all work), "eta" (seconds left or None), "loss": [[step, loss], ...],
    "log": [lines], "pictures": folder relative to the cache, "pictures_of": stage, "samples": [[step, [file names]],
    ...] of pictures drawn at fixed seeds during the training, in "samples_in", a folder relative to the cache}
    """

    jobs: Jobs
    key: str
    worker: str
    work: dict[str, float]
    state: dict = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    written: float = 0.0
    looked: float = 0.0

    def __post_init__(self):
        self.status = dict.fromkeys(self.work, "waiting")
        self.state = {"loss": [], "log": [], "pictures": "", "pictures_of": "", "samples": [], "samples_in": ""}
        self.rates: dict[str, tuple[float, float]] = {}  # stage: (units worked, seconds)
        self.first: tuple[str, int, float] = ("", 0, 0.0)  # stage, step and time of its first event

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        name = self._name(event.stage)
        if "cached" in event.info:
            self._finished(name, event)
        else:
            self._step(name, event, now)
        if now - self.written > WRITE_EVERY or "cached" in event.info:
            self.written = now
            self.write()
        if now - self.looked > LOOK_EVERY:  # last: this step is done, whatever comes
            self.looked = now
            if self.jobs.must_stop(self.key, self.worker):
                raise Cancelled

    def write(self) -> None:
        self.jobs.write_live(self.key, self.worker, self.state | {"stages": [list(s) for s in self.status.items()]})

    def _name(self, stage: str) -> str:
        """An attack's own events do not say "before" or "after": it is the first of the two not done yet."""
        if stage in self.status:
            return stage
        pair = [s for s in self.status if s.startswith(stage + " ") and self.status[s] not in ("done", "cached")]
        return pair[0] if pair else stage

    def _earlier_are_over(self, name: str) -> None:
        """Not every stage says that it is over (DreamBooth's class pictures), but they run in the plan's order."""
        for stage in self.status:
            if stage == name:
                break
            self.status[stage] = {"running": "done", "waiting": "cached"}.get(self.status[stage], self.status[stage])

    def _finished(self, name: str, event: Event) -> None:
        if name not in self.work:
            return  # small change: the members' pictures and the like
        self._earlier_are_over(name)
        self.status[name] = "cached" if event.info["cached"] else "done"
        taken = time.monotonic() - self.first[2] if self.first[0] == name else 0.0
        self.state["log"].append(
            f"{time.strftime('%H:%M:%S')} {name}: " + ("from the cache" if event.info["cached"] else f"{taken:.1f} s")
        )
        if name == "finetune" and event.info["cached"]:
            self.state |= training(Path(event.info["folder"]), self.jobs.store)
        self._pictures(name, event)
        self._time_left(name, 1.0)

    def _step(self, name: str, event: Event, now: float) -> None:
        if self.first[0] != name:
            self.first = (name, event.step, now)
        if name in self.status:
            self._earlier_are_over(name)
            self.status[name] = "running"
        share = event.step / max(1, event.total)
        worked = (event.step - self.first[1]) / max(1, event.total) * self.work.get(name, 0.0)
        self.rates[name] = (worked, now - self.first[2])
        self.state |= {"stage": name, "step": event.step, "total": event.total}
        self.state["speed"] = event.info.get("images_per_s")
        if "loss" in event.info:
            loss = self.state["loss"]
            loss.append([event.step, round(event.info["loss"], 5)])
            if len(loss) > LOSS_POINTS:
                del loss[1::2]
        if "samples" in event.info:
            self.state["samples"].append([event.step, event.info["samples"]])
            self.state["samples_in"] = self._relative(event.info["samples_in"])
        self._pictures(name, event)
        self._time_left(name, share)

    def _pictures(self, name: str, event: Event) -> None:
        if "folder" in event.info and name.split()[0] in ("sp_set", "class_images", "generate"):
            self.state["pictures"] = self._relative(event.info["folder"])
            self.state["pictures_of"] = name

    def _relative(self, folder: str) -> str:
        """A folder of the cache as the page may know it; "" for any other."""
        with suppress(ValueError):
            return Path(folder).relative_to(self.jobs.store.root).as_posix()
        return ""

    def _time_left(self, current: str, share: float) -> None:
        """This stage goes on as fast as it went, the others as fast as everything so far."""
        left = {s: w for s, w in self.work.items() if self.status[s] == "waiting"}
        units, seconds = (sum(x) for x in zip(*self.rates.values(), strict=True)) if self.rates else (0.0, 0.0)
        here, clock = self.rates.get(current, (0.0, 0.0))
        here_left = self.work.get(current, 0.0) * (1 - share)
        total = sum(self.work.values()) or 1.0
        self.state["done"] = round(1 - (sum(left.values()) + here_left) / total, 4)
        eta = None
        if units > 0 and seconds > 1:
            rate = units / seconds
            eta = here_left / (here / clock if here and clock > 0.5 else rate) + sum(left.values()) / rate
        self.state["eta"] = None if eta is None else round(eta, 1)
