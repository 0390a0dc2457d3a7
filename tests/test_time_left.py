"""The time left that the page shows, played back on measured times of whole runs."""

from __future__ import annotations

import pytest

from s2l.config import RunConfig, preset
from s2l.jobs import Jobs, live
from s2l.jobs.live import Live
from s2l.progress import Event

STEPS = 20  # events of each stage
WORTH_SAYING = 5.0  # seconds: below, nobody minds


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, *_: object) -> str:
        return "00:00:00"


def played(config: RunConfig, seconds: dict[str, float], jobs: Jobs, clock: Clock, lag: float = 0.0):
    """[(stage's place, seconds really left, seconds announced)]; a stage without seconds comes from the cache.

    `lag` seconds pass before the first step of a stage works: loading, and whatever a first call prepares.
    """
    watched = Live(jobs, "", "", config, looked=1e9)
    names = [stage for stage in watched.work if seconds.get(stage, 0) > 0]
    total = sum(seconds[name] + lag for name in names)
    seen, began = [], clock.now
    for stage in watched.plan:
        if stage.id not in names:
            watched(Event(stage.id, 1, 1, {"cached": True, "folder": "."}, stage.title))
            continue
        clock.now += lag
        for step in range(STEPS + 1):
            watched(Event(stage.id, step, STEPS, {}, stage.title))
            if watched.state["eta"] is not None:
                seen.append((names.index(stage.id), total - (clock.now - began), watched.state["eta"]))
            clock.now += seconds[stage.id] / STEPS if step < STEPS else 0.0
        watched(Event(stage.id, 1, 1, {"cached": False, "folder": "."}, stage.title))
    return seen


# Seconds of the stages of whole runs, each measured in one go: of the preset demo on a CPU that computes in float32,
# and on one that computes bfloat16 itself (results/main/end_to_end/anders-pyke.json), where scores stay in float32.
MEASURED = {
    "float32": {
        "sp_set": 25.3, "finetune": 71.7, "attack secmi before": 19.7, "attack secmi after": 20.4,
        "attack loss before": 6.3, "attack loss after": 6.4, "generate before": 134.7, "generate after": 141.4,
        "compare": 3.0,
    },
    "mixed": {
        "sp_set": 13.9, "finetune": 68.4, "attack secmi before": 16.4, "attack secmi after": 16.4,
        "attack loss before": 5.0, "attack loss after": 5.0, "generate before": 51.4, "generate after": 51.4,
        "compare": 2.5,
    },
    "busy": {  # the preset quick, beside much other work
        "sp_set": 0.53, "finetune": 7.77, "attack secmi before": 3.49, "attack secmi after": 3.59,
        "attack loss before": 1.13, "attack loss after": 1.26, "generate before": 1.34, "generate after": 1.56,
        "compare": 0.82,
    },
}  # fmt: skip
CACHED = ("sp_set", "attack secmi before", "attack loss before", "generate before")  # in a second run of a person


@pytest.mark.parametrize("lag", [0.0, 1.0])
@pytest.mark.parametrize(("preset_name", "machine"), [("demo", "float32"), ("demo", "mixed"), ("quick", "busy")])
def test_from_the_second_stage_on_it_is_right_within_a_factor_of_two(preset_name, machine, lag, store, monkeypatch):
    """A person's first run on a machine, and a second one by another method, of which half comes from the cache."""
    clock, jobs, n_checked = Clock(), Jobs(store), 0
    monkeypatch.setattr(live, "time", clock)
    monkeypatch.setattr(Live, "write", lambda self: None)
    first = MEASURED[machine]
    second = {stage: 1.5 * seconds for stage, seconds in first.items() if stage not in CACHED}
    for number, (method, seconds) in enumerate((("lora", first), ("hypernetwork", second))):
        config = preset(preset_name, "Mira Solwyn", finetune={"methods": (method,)})
        for place, left, announced in played(config, seconds, jobs, clock, lag):
            if place + number >= 1 and left > WORTH_SAYING:
                n_checked += 1
                assert 0.5 <= announced / left <= 2, (method, place, left, announced)
    assert n_checked > 60
