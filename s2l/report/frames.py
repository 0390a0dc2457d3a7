"""The first screen's frames: one shake seen at several weights w, precomputed as a few small files per person.

    frames.json    scores of all photos (members first), AUCs, distances and counts at every w
    photos.webp    the members, then the held-out photos, one sheet
    pictures.webp  at every w: the generations of the same seeds, then the closest pair's of members and of held-out

w = -1 is the shaken model, 0 the base model, and w > 0 the step away from the shake. Every w is a finished run, so its
numbers are those of any other run (docs/result-schema.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from s2l.config import RunConfig, UnshakeConfig
from s2l.record import BOTH, Part, Result, When
from s2l.report.findings import command_of
from s2l.report.showcase import sheet
from s2l.report.verdicts import REFERENCED, reference_of
from s2l.store import write_json

SHAKEN = -1.0
WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
FRAMES = "frames.json"
SEEDS = 6  # generations that every frame shows
COLUMNS = 20
QUALITY = 82  # of the sheets
PARTS: tuple[Part, Part] = ("members", "nonmembers")


def configs(config: RunConfig, weights: Sequence[float] = WEIGHTS) -> dict[float, RunConfig]:
    """The runs behind the frames of `config`, by w: the shake itself, and the steps along it. 0 needs no run."""
    steps = {w: config.model_copy(update={"unshake": UnshakeConfig(w=w)}) for w in weights if w not in (0.0, SHAKEN)}
    return {SHAKEN: config.model_copy(update={"unshake": None})} | steps


def export_frames(results: Mapping[float, Result], folder: Path) -> int:
    """Write the frames of the runs of `configs`; returns their size in bytes."""
    shaken = results[SHAKEN]
    folder.mkdir(parents=True, exist_ok=True)
    views: dict[float, tuple[Result, When]] = {0.0: (shaken, "before")}
    views |= {w: (result, "after") for w, result in results.items()}
    views = dict(sorted(views.items()))
    seeds = [generation for _, generation in _pairs(shaken, "before", "members")[:SEEDS]]
    pictures, frames = [], []
    for w, (result, when) in views.items():
        frame, shown = _frame(result, when, seeds)
        frames.append({"w": w} | frame)
        pictures.append(_pixels(result, when)[shown])
    _save(np.concatenate(pictures), folder / "pictures.webp", SEEDS + len(PARTS))
    _save(np.concatenate([_pixels(shaken, part) for part in PARTS]), folder / "photos.webp", COLUMNS)
    record = shaken.record
    write_json(
        folder / FRAMES,
        {
            "person": record["domain"]["name"],
            "role": record["domain"].get("role"),
            "lab": record["model"].get("lab"),
            "methods": record["config"]["finetune"]["methods"],
            "n_members": record["domain"]["n_members"],
            "n_nonmembers": record["domain"]["n_nonmembers"],
            "repeats": record["domain"]["repeats"],
            "delta": shaken.extraction["before"]["delta"],
            "n_generations": shaken.extraction["before"]["n_generations"],
            "seeds": seeds,
            "attacks": {name: found["title"] for name, found in record["attacks"].items()},
            "frames": frames,
            "both": _both(shaken),
            "command": command_of(shaken),
        },
    )
    return sum(file.stat().st_size for file in folder.iterdir())


def _frame(result: Result, when: When, seeds: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
    """One w as JSON, and which generations its row of pictures shows."""
    attacks: dict[str, dict[str, Any]] = {}
    for name, found in result.record["attacks"].items():
        attacks[name] = {"scores": _short(np.concatenate(result.scores(name, when))), **_summary(found[when])}
        if when == "after":
            attacks[name]["change"] = _change(found["difference"])
    outcome = result.extraction[when]
    near, shown = {}, list(seeds)
    for part in PARTS:
        photo, generation = _pairs(result, when, part)[0]
        distances = outcome[part]["distances"]
        near[part] = {
            "copies": outcome[part]["distinct"],
            "photo": photo,
            "l2": round(distances[photo], 3),
            "distances": _short(distances),
        }
        shown.append(generation)
    return {"attacks": attacks, "near": near}, shown


def _pairs(result: Result, when: When, part: Part) -> list[tuple[int, int]]:
    """(photo, its nearest generation) of every photo, the closest pair first."""
    found = result.extraction[when][part]
    order = np.argsort(found["distances"], kind="stable")
    return [(int(photo), int(found["nearest_generation"][photo])) for photo in order]


def _both(shaken: Result) -> dict[str, Any] | None:
    """The attack on the base model with the shaken one as its reference; None if the run has none."""
    if (reference := reference_of(shaken.record)) is None:
        return None
    from s2l.attacks.calibration import shake_calibrated  # loads torch

    before, after = (np.concatenate(shaken.scores(REFERENCED, when)) for when in BOTH)
    scores = _short(shake_calibrated(before, after, "reference", reference["weight"]))
    return {"attack": REFERENCED, "scores": scores, "change": _change(reference["difference"]), **_summary(reference)}


def _summary(found: Mapping[str, Any]) -> dict[str, float]:
    interval = found["delong"]
    return {"auc": round(found["auc"], 4), "low": round(interval["low"], 4), "high": round(interval["high"], 4)}


def _change(change: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(f"{change[name]:.3g}") for name in ("difference", "low", "high", "p_value")}


def _short(values: Sequence[float] | np.ndarray) -> list[float]:
    """Four digits after the first: enough to keep the ranking, and half as long."""
    return [float(f"{value:.5g}") if math.isfinite(value) else 0.0 for value in values]


def _pixels(result: Result, of: str) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    return result.images(of).images.permute(0, 2, 3, 1).numpy()


def _save(pixels: np.ndarray, path: Path, columns: int) -> None:
    Image.fromarray(sheet(pixels, columns)).save(path, quality=QUALITY, method=6)
