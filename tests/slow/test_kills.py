"""A hundred kills -9 at random times over all stages of a run: what is resumed gives the numbers of a whole run.

    python -m tests.slow.test_kills --lab FOLDER --kills 100
    pytest -m slow tests/slow/test_kills.py     # minutes: the lab with random weights, a few pictures and steps

A run is killed a moment after a random one of its events and started again, until it is complete; then the next one
begins in an empty cache. tests/test_trainer.py cuts the training log too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from s2l.config import RunConfig, preset
from s2l.store import Store
from tests.test_experiment import CPU, NAME, numbers

ROOT = Path(__file__).resolve().parents[2]
KILLS = 100


def configuration() -> RunConfig:
    """Every stage of a run with two methods, in a few pictures and steps each."""
    return preset(
        "quick", {"name": NAME, "n_members": 6, "n_nonmembers": 6},
        sp_set={"set_size": 8, "sampler": {"num_inference_steps": 4}},
        finetune={
            "methods": ["dreambooth"], "max_train_steps": 12, "settings": {"dreambooth": {"num_class_images": 4}},
        },
        audit={"settings": {"secmi": {"t": 40}}},
        extraction={"n_generations": 12, "sampler": {"num_inference_steps": 4}},
    )  # fmt: skip


def begin(store: Store, at: Path, done: Path, events: int | None = None, delay: float = 0.0) -> int:
    """Fork a process that runs or resumes, and is killed `delay` seconds after so many events. Its id.

    It writes its stage and the number of its events to `at`, and at its end its numbers to `done`.
    """
    if child := os.fork():
        return child
    try:
        from s2l.pipeline.experiment import run

        n = 0

        def listen(event) -> None:
            nonlocal n
            n += 1
            at.write_text(f"{n} {event.stage}")
            if n == events:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

        result = run(configuration(), store, CPU, listen)
        done.write_text(json.dumps(numbers(result.record), sort_keys=True))
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(child: int) -> int:
    """The exit status of a process; a negative number is the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_often(folder: Path, kills: int, seed: int = 0) -> dict:
    """Where the kills fell, how many runs became complete, and which of these differ from the whole one."""
    import s2l.pipeline.experiment  # noqa: F401  (once, for all the processes that are forked)

    rng, at, done = np.random.default_rng(seed), folder / "at", folder / "done"
    began = time.monotonic()
    assert ended(begin(Store(folder / "whole"), at, done)) == 0, "the whole run failed"
    whole, n_events = done.read_text(), int(at.read_text().split()[0])
    fell, n_complete, differ, failed = Counter(), 0, [], []
    while sum(fell.values()) < kills:
        store = Store(folder / f"run {n_complete + len(failed)}")
        while True:
            enough = sum(fell.values()) >= kills
            events = None if enough else int(rng.integers(1, n_events // 3))
            at.write_text("0 start")
            status = ended(begin(store, at, done, events, float(rng.uniform(0, 0.1))))
            if status == -signal.SIGKILL:
                fell[at.read_text().partition(" ")[2] or "between two events"] += 1
                continue
            if status != 0:
                failed.append(f"run {store.root.name}: exit status {status}")
            else:
                n_complete += 1
                if done.read_text() != whole:
                    differ.append(store.root.name)
            break
        if len(failed) > 3:
            break
    return {
        "kills": sum(fell.values()), "fell": dict(fell), "complete": n_complete, "differ": differ,
        "failed": failed, "events": n_events, "seconds": round(time.monotonic() - began),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.brings(
    "Visitors", "A server or a run that is killed at any moment, a hundred times", "resumed; equal results"
)
def test_a_hundred_kills_change_no_number(tiny_checkpoint):
    command = [sys.executable, "-m", "tests.slow.test_kills", "--lab", str(tiny_checkpoint), "--kills", str(KILLS)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads(answer.stdout)
    assert found["kills"] == KILLS and not found["differ"] and not found["failed"], (found, answer.stderr[-3000:])
    assert len(found["fell"]) >= 8 and found["complete"] >= 2, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lab", required=True, help="the folder of a lab")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["S2L_LAB"] = given.lab
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_often(Path(folder), given.kills, given.seed), indent=2))


if __name__ == "__main__":
    main()
