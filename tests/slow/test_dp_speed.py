"""How fast differentially private training is beside the plain loop: same networks, batches and optimizer, in turn.

    python -m tests.slow.test_dp_speed      # writes results/dp-speed.json, five minutes on one core

Speeds are per second of CPU time of one thread, so that other programs do not change them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s2l.budget import Budget
from s2l.model.diffusion import Runtime
from s2l.pretrain import build as pretraining
from s2l.pretrain.networks import build_pipeline
from s2l.pretrain.recipe import RECIPES, Phase, PrivatePhase, Recipe

RESULT = Path(__file__).resolve().parents[2] / "results" / "dp-speed.json"
COMMAND = "python -m tests.slow.test_dp_speed"
BATCH, STEPS, ROUNDS = 32, 4, 3
NO_NOISE = Budget(None, delta=1e-3)  # as fast as with noise, without the search for its size


def recipes() -> dict[str, Recipe]:
    def of(phase: Phase) -> Recipe:
        return replace(RECIPES["twin"], phases=(phase,), n_people=2, n_public=16)

    def private(part: str) -> Recipe:
        return of(PrivatePhase("private", STEPS, {"private": 1.0}, 1e-3, BATCH, trains=(part,), budget=NO_NOISE))

    return {
        "plain": of(Phase("plain", STEPS, {"private": 1.0}, 1e-3, BATCH, trains=("unet",))),
        "under DP, all of the UNet": private("unet"),
        "under DP, cross-attention": private("cross_attention"),
    }


def images_per_s(recipe: Recipe, work: Path) -> float:
    """Images per second of CPU time in the loop, without preparing the data."""
    pipe = build_pipeline(recipe.size, recipe.seed)
    pool = pretraining.public_pool(recipe, work)
    marks: list[float] = []
    runtime = Runtime("cpu", "float32", None, 10_000)
    seen = pretraining.train_unet(pipe, pool, recipe, work, runtime, lambda event: marks.append(time.process_time()))
    return seen["private_seen"] / (marks[-1] - marks[0])


def measure() -> dict:
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {name: [] for name in recipes()}
    for _ in range(ROUNDS):
        for name, recipe in recipes().items():
            with tempfile.TemporaryDirectory() as folder:
                rates[name].append(images_per_s(recipe, Path(folder)))
    medians = {name: {"images_per_s": statistics.median(values), "all": values} for name, values in rates.items()}
    return {"command": COMMAND, "batch_size": BATCH, "steps": STEPS, "rounds": ROUNDS, "rates": medians}


@pytest.mark.slow
def test_private_training_has_a_quarter_of_the_speed_at_least():
    rates = measure()["rates"]
    assert rates["under DP, all of the UNet"]["images_per_s"] >= 0.25 * rates["plain"]["images_per_s"]


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=1), encoding="utf-8")
    print(f"written: {RESULT}")
