"""Whole runs: seconds from an empty cache, and whether the fast settings change what a run finds.

Equal quality is measured, not assumed: calibration people are run with 50 steps of DDIM in float32, and again with the
fast sampler and precision. Two runs agree if the SecMI difference of each lies in the interval of the other, and
likewise the numbers of extracted photos.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from s2l.config import preset
from s2l.errors import UserError
from s2l.labs import Lab, find_lab
from s2l.measure.intervals import binomial_interval
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import Result, run
from s2l.progress import Progress, silent
from s2l.record import BOTH
from s2l.store import Store

SLOW = {"scheduler": "ddim", "num_inference_steps": 50}
DEMO_TARGET_S = 120.0


def _lab(model: str) -> Lab:
    lab = find_lab(model)
    if lab is None:
        raise UserError(f"{model!r} is not a lab, so its training photos are not known")
    return lab


def demo(model: str, runtime: Runtime, preset_name: str = "demo", progress: Progress = silent) -> dict:
    """Seconds of one complete run on a lab from an empty cache, in total and per stage.

    Raises UserError for a model that is not a lab.
    """
    person = _lab(model).names()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = run(preset(preset_name, person, model=model), Store(Path(folder)), runtime, progress)
    stages = {name: stage["seconds"] for name, stage in result.record["stages"].items()}
    return {"preset": preset_name, "seconds": stages.pop("total"), "stages": stages}


def _findings(result: Result) -> dict:
    extraction = result.extraction
    members = len(extraction["after"]["repeats"])
    findings: dict[str, Any] = {"secmi_difference": result.record["attacks"]["secmi"]["difference"]}
    for when in BOTH:
        count = extraction[when]["members"]["distinct"]
        interval = binomial_interval(count, members)
        findings[f"extracted_{when}"] = {"count": count, "low": interval.low * members, "high": interval.high * members}
    return findings


def _agree(a: dict, b: dict) -> bool:
    def inside(value: float, interval: dict) -> bool:
        return interval["low"] <= value <= interval["high"]

    pairs = [(a["secmi_difference"], b["secmi_difference"], "difference")]
    pairs += [(a[f"extracted_{when}"], b[f"extracted_{when}"], "count") for when in ("before", "after")]
    return all(inside(x[field], y) and inside(y[field], x) for x, y, field in pairs)


def quality(
    model: str,
    people: int,
    runtime: Runtime,
    preset_name: str = "demo",
    store: Store | None = None,
    progress: Progress = silent,
) -> list[dict]:
    """For each of the first `people` calibration people: what the slow and the fast run found, and whether they agree.

    Raises UserError for a model that is not a lab.
    """
    rows = []
    for name in _lab(model).names("calibration")[:people]:
        overrides = {"model": model, "sp_set": {"sampler": SLOW}, "extraction": {"sampler": SLOW}}
        slow = run(preset(preset_name, name, **overrides), store, Runtime(runtime.device, "float32"), progress)
        fast = run(preset(preset_name, name, model=model), store, runtime, progress)
        findings = _findings(slow), _findings(fast)
        rows.append({"person": name, "slow": findings[0], "fast": findings[1], "agree": _agree(*findings)})
    return rows
