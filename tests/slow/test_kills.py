"""A hundred kills -9 at random times over all stages of a run: what is resumed gives the numbers of a whole run.

    python -m tests.slow.test_kills --lab FOLDER --kills 100
    pytest -m slow tests/slow/test_kills.py     # minutes: the lab with random weights, a few pictures and steps

A run is killed and started again until it is complete; then the next one begins in an empty cache. Every fourth kill
also cuts a log (`*.jsonl`) of the unfinished stage at a random byte, as a full disk or a lost machine leaves it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
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


def begin(store: Store, at: Path, done: Path) -> int:
    """Fork a process that runs or resumes: it writes where it is to `at`, and its numbers to `done`. Its id."""
    if child := os.fork():
        return child
    try:
        from s2l.pipeline.experiment import run

        result = run(configuration(), store, CPU, lambda event: at.write_text(event.stage))
        done.write_text(json.dumps(numbers(result.record), sort_keys=True))
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(child: int, seconds: float) -> int | None:
    """The exit status of a process that ends in time; None if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def cut(store: Store, rng: np.random.Generator) -> bool:
    """Cut one log of an unfinished stage in the middle, if there is one with something in it."""
    logs = sorted(p for p in store.root.glob("stages/*/*.partial/**/*.jsonl") if p.stat().st_size > 1)
    if not logs:
        return False
    log = logs[int(rng.integers(len(logs)))]
    os.truncate(log, int(rng.integers(1, log.stat().st_size)))
    return True


def kill_often(folder: Path, kills: int, seed: int = 0) -> dict:
    """Where the kills fell, how many runs became complete, and which of these differ from the whole one."""
    import s2l.pipeline.experiment  # noqa: F401  (once, for all the processes that are forked)

    rng, at, done = np.random.default_rng(seed), folder / "at", folder / "done"
    began = time.monotonic()
    assert ended(begin(Store(folder / "whole"), at, done), 600) == 0, "the whole run failed"
    whole, takes = done.read_text(), time.monotonic() - began
    fell, n_cut, n_complete, differ, failed = Counter(), 0, 0, [], []
    while sum(fell.values()) < kills:
        store = Store(folder / f"run {n_complete + len(failed)}")
        while True:
            at.write_text("start")
            done.unlink(missing_ok=True)
            enough = sum(fell.values()) >= kills
            child = begin(store, at, done)
            status = ended(child, 600 if enough else float(rng.uniform(0, takes / 4)))
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                fell[at.read_text() or "start"] += 1
                if rng.random() < 0.25:
                    n_cut += cut(store, rng)
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
        "kills": sum(fell.values()), "fell": dict(fell), "logs_cut": n_cut, "complete": n_complete, "differ": differ,
        "failed": failed, "whole_run_seconds": round(takes, 1), "seconds": round(time.monotonic() - began),
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
    assert len(found["fell"]) >= 8 and found["complete"] >= 5 and found["logs_cut"] >= 5, found


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
