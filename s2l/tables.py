"""Tables over people: a grid of runs, one committed cell each, and their summary with intervals.

`python -m s2l table NAME` runs what is missing and rewrites `results/NAME.json`. A cell is one run
(one row of the table, one person) reduced to what the statistics need; it is written as soon as it
is done, so a table goes on later or on another machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from s2l.config import RunConfig, UserError, key_of, preset, unknown
from s2l.domain import lab_people_records
from s2l.experiment import Result, run
from s2l.intervals import hierarchical_difference, hierarchical_mean
from s2l.model import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent
from s2l.store import Store, read_json, write_json

SCHEMA_VERSION = 1
DELTAS = (0.08, 0.1, 0.12, 0.15)


@dataclass(frozen=True)
class Row:
    """One row: a label and what it changes in the preset."""

    label: str
    overrides: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows times people. `role` says which people: hyper-parameters only ever see "calibration"."""

    title: str
    rows: tuple[Row, ...]
    role: str = "reporting"
    people: int = 8
    preset: str = "demo"


TABLES: dict[str, Table] = {
    "first": Table(
        "LoRA at the demo preset, the first before/after on the lab", (Row("LoRA"),), role="calibration", people=3
    ),
    "rank": Table(
        "Rank of LoRA",
        tuple(Row(f"rank {r}", {"finetune": {"rank": r, "lora_alpha": 4.0 * r}}) for r in (1, 2, 4, 8, 16, 32)),
        people=4,
    ),
    "sp-size": Table(
        "Size of the SP set",
        tuple(Row(f"{n} images", {"sp_set": {"set_size": n}}) for n in (32, 64, 128, 256, 512)),
        people=4,
    ),
}


def get_table(name: str) -> Table:
    """The table of that name. Raises UserError with the nearest match."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]


def _short(scores) -> list[float]:
    return [float(f"{s:.6g}") for s in scores]


def cell_of(result: Result, row: str) -> dict:
    """What a table keeps of one run; small enough to commit."""
    record = result.record
    attacks = {
        name: {
            "scores": {
                when: {part: _short(values) for part, values in found["scores"][when].items()}
                for when in ("before", "after")
            },
            "auc_before": found["before"]["auc"],
            "auc_after": found["after"]["auc"],
            "difference": found["difference"],
            "shake_auc": found["shake"]["auc"],
        }
        for name, found in record["attacks"].items()
    }
    extraction = {}
    for when in ("before", "after"):
        found = record["extraction"][when]
        extraction[when] = {
            "distinct": found["members"]["distinct"],
            "eidetic": found["eidetic"],
            "matching_generations": found["members"]["matching_generations"],
            "nonmembers_scaled": found["nonmembers_scaled"],
            "within": {
                str(d): [int(np.sum(np.array(found[part]["distances"]) <= d)) for part in ("members", "nonmembers")]
                for d in DELTAS
            },
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "row": row,
        "person": record["domain"]["name"],
        "role": record["domain"]["role"],
        "config": record["config"],
        "model": record["model"],
        "trained_parameters": record["finetune"]["trained_parameters"],
        "loss_first_last": _loss_ends(record["finetune"]["log"]),
        "attacks": attacks,
        "extraction": extraction,
        "control_auc": record["control"]["auc"],
        "n_members": record["domain"]["n_members"],
        "n_nonmembers": record["domain"]["n_nonmembers"],
        "seconds": {k: v["seconds"] for k, v in record["stages"].items()},
        "versions": record["versions"],
    }


def _loss_ends(log: list[dict]) -> list[float] | None:
    """Mean training loss of the first and of the last tenth of the steps."""
    if not log:
        return None
    n = max(1, len(log) // 10)
    losses = [row["loss"] for row in log]
    return [float(np.mean(losses[:n])), float(np.mean(losses[-n:]))]


def summarise(cells: list[dict]) -> dict:
    """One row's cells over people: means with hierarchical-bootstrap intervals."""
    summary: dict = {"people": [cell["person"] for cell in cells], "attacks": {}, "extraction": {}}
    for name in cells[0]["attacks"]:
        pairs = {
            when: [
                tuple(np.array(cell["attacks"][name]["scores"][when][part]) for part in ("members", "nonmembers"))
                for cell in cells
            ]
            for when in ("before", "after")
        }
        summary["attacks"][name] = {
            "before": asdict(hierarchical_mean(pairs["before"])),
            "after": asdict(hierarchical_mean(pairs["after"])),
            "difference": asdict(hierarchical_difference(pairs["before"], pairs["after"])),
            "shake_auc": float(np.mean([cell["attacks"][name]["shake_auc"] for cell in cells])),
        }
    for when in ("before", "after"):
        per_person = [cell["extraction"][when] for cell in cells]
        summary["extraction"][when] = {
            "distinct": [found["distinct"] for found in per_person],
            "mean_distinct": float(np.mean([found["distinct"] for found in per_person])),
            "mean_nonmembers_scaled": float(np.mean([found["nonmembers_scaled"] for found in per_person])),
            "within": {
                d: [float(np.mean([found["within"][d][i] for found in per_person])) for i in (0, 1)]
                for d in per_person[0]["within"]
            },
        }
    summary["seconds"] = float(np.mean([cell["seconds"]["total"] for cell in cells]))
    summary["trained_parameters"] = cells[0]["trained_parameters"]
    return summary


def configs(table: Table, people: int | None = None) -> Iterable[tuple[Row, RunConfig]]:
    """Every (row, run) of a table, person by person. Raises UserError for too many people."""
    names = [row["name"] for row in lab_people_records() if row["role"] == table.role]
    wanted = people or table.people
    if not 1 <= wanted <= len(names):
        raise UserError(f"--people: {wanted} is not between 1 and {len(names)}, the number of {table.role} people")
    for name in names[:wanted]:
        for row in table.rows:
            yield row, preset(table.preset, name, **row.overrides)


def run_table(
    name: str,
    results: Path = Path("results"),
    people: int | None = None,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> dict:
    """Run the missing cells of a table and write its summary; returns what `results/NAME.json` holds."""
    table, cells = get_table(name), {}
    work = list(configs(table, people))
    (results / "cells").mkdir(parents=True, exist_ok=True)
    model_key = DiffusionModel.load("lab", runtime).key
    for i, (row, config) in enumerate(work):
        path = results / "cells" / f"{key_of('cell', SCHEMA_VERSION, model_key, config)}.json"
        if not path.exists():
            write_json(path, cell_of(run(config, store, runtime, progress), row.label))
        cells.setdefault(row.label, []).append(read_json(path))
        progress(Event(f"table {name}", i + 1, len(work), {"row": row.label, "person": config.domain.name}))
    first = cells[table.rows[0].label]
    found = {
        "schema_version": SCHEMA_VERSION,
        "title": table.title,
        "command": f"python -m s2l table {name}" + (f" --people {people}" if people else ""),
        "preset": table.preset,
        "role": table.role,
        "n_people": len(first),
        "model": first[0]["model"],
        "rows": {label: summarise(row_cells) for label, row_cells in cells.items()},
    }
    write_json(results / f"{name}.json", found)
    return found
