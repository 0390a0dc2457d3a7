"""Cells of the table `split`: one person's scores on a fair split and on two second sources, and their summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from s2l.config import RunConfig
from s2l.measure.split import SHARES, Parts, at_shares, shares_over_people
from s2l.model.diffusion import Runtime
from s2l.pipeline.folders import both
from s2l.pipeline.split import run_split
from s2l.progress import Progress
from s2l.store import Store
from s2l.worlds.second import DIRECTIONS

WHO = ("members", "never")  # the photos that the attack takes for members


def facts(
    config: RunConfig,
    store: Store | None,
    runtime: Runtime,
    progress: Progress,
    short: Callable[[Sequence[float]], list[float]],
) -> dict:
    """Run the split for one person; returns the cell without its name and settings. `short` rounds scores."""
    record = run_split(config, store, runtime, progress)
    attacks = {
        name: {"scores": {when: {part: short(x) for part, x in parts.items()} for when, parts in scores.items()}}
        for name, scores in record["scores"].items()
    }
    blind = {
        direction: {who: [asdict(control) for control in controls] for who, controls in by_who.items()}
        for direction, by_who in record["blind"].items()
    }
    return {
        "role": record["role"],
        "model": record["model"],
        "attacks": attacks,
        "blind": blind,
        "n_members": record["n_members"],
        "n_nonmembers": record["n_nonmembers"],
        "seconds": {k: v["seconds"] for k, v in record["stages"].items() if not v.get("cached")},
        "versions": record["versions"],
    }


def parts_of(cell: dict, attack: str, direction: str, who: str) -> Parts:
    """A cell's scores of one attack as the statistics need them; `who` is one of WHO."""
    scores = {
        when: {part: np.array(x) for part, x in parts.items()}
        for when, parts in cell["attacks"][attack]["scores"].items()
    }
    return Parts(both(scores, who), both(scores, "fair"), both(scores, direction))


def numbers_of(cell: dict) -> dict[str, float]:
    """{what: number} of a cell: the AUC of every attack, its change and the blind control, fair and at share 1."""
    numbers: dict[str, float] = {}
    for direction in DIRECTIONS:
        controls = cell["blind"][direction]["members"]
        for name in cell["attacks"]:
            for who in WHO:
                parts = parts_of(cell, name, direction, who)
                for at in at_shares(parts.members, parts.fair, parts.second, (SHARES[0], SHARES[-1])):
                    label = f"{name}, {who}, {direction} {100 * at.share:g} %"
                    numbers[f"{label}, AUC before"] = at.auc_before
                    numbers[f"{label}, change"] = at.difference.difference
        for share, control in zip(SHARES, controls, strict=True):
            numbers[f"blind control, {direction} {100 * share:g} %, AUC"] = control["auc"]
    return numbers


def summarise(cells: list[dict], over_people: Callable[[Sequence[float]], dict]) -> dict:
    """One row's cells over people; `over_people` turns one number per person into a mean with its interval."""
    attacks = {
        name: {
            direction: {
                who: asdict(shares_over_people([parts_of(cell, name, direction, who) for cell in cells])) for who in WHO
            }
            for direction in DIRECTIONS
        }
        for name in cells[0]["attacks"]
    }
    blind = {
        direction: {
            who: [
                {"share": share} | over_people([cell["blind"][direction][who][i]["auc"] for cell in cells])
                for i, share in enumerate(SHARES)
            ]
            for who in WHO
        }
        for direction in DIRECTIONS
    }
    return {
        "people": [cell["person"] for cell in cells],
        "attacks": attacks,
        "blind": blind,
        "n_members": cells[0]["n_members"],
        "n_nonmembers": cells[0]["n_nonmembers"],
        "seconds": float(np.mean([cell["seconds"]["total"] for cell in cells])),
    }
