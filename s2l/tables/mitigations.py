"""What the table `sampler` measures of each defence at sampling time, beside the extraction.

change   of the extracted photos per person, from no mitigation: the same prompts, seeds and weights, paired by person
price    how often a stranger who knows the people by held-out photos recognises whom a picture shows (defences.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2l.keys import key_of
from s2l.measure.intervals import mean_interval
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.stages import Stages
from s2l.store import read_json, write_json
from s2l.tables.defences import KNOWN, PICTURES, PRICE, pictured


def _change(cells: Sequence[dict], none: Sequence[dict], when: str) -> dict:
    """The mean over people of the change in extracted photos, with its 95 % interval if there are several people."""
    counts = [[cell["extraction"][when]["distinct"] for cell in row] for row in (cells, none)]
    changes = [here - there for here, there in zip(*counts, strict=True)]
    interval = mean_interval(changes) if len(changes) > 1 else None
    ends = {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}
    return {"mean": sum(changes) / len(changes), **ends, "per_person": changes}


def facts(cells: Sequence[dict], none: Sequence[dict] | None, runtime: Runtime, stages: Stages) -> dict:
    """What is measured of one row's cells. `none`: the cells without mitigation."""
    cell, people = cells[0], [cell["person"] for cell in cells]
    model = DiffusionModel.load(cell["config"]["model"], runtime)

    def work(folder: Path) -> None:
        write_json(folder / "price.json", pictured(cell, people, model))

    key = key_of("price of a mitigation", 1, model.key, people, KNOWN, PICTURES, cell["config"]["extraction"])
    changes = {when: _change(cells, none, when) for when in ("before", "after")} if none is not None else None
    return {
        "mitigation": cell["config"]["extraction"]["sampler"].get("mitigation"),
        "n_generations": cell["config"]["extraction"]["n_generations"],
        "change": changes,
        "price": read_json(stages(PRICE, key, work) / "price.json"),
    }
