"""Cells of tables: a cell is one run (one row, one person), reduced to what the statistics need.

A cell's file is `results/TABLE/ROW/PERSON.json`, a name for readers. What identifies it is the key inside, which
depends on its settings and its model and is checked whenever the file is read. A run that several tables use is stored
once, by the first of them; the others find it by its key.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2l import __version__
from s2l.config import RunConfig, checked
from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline import identity
from s2l.pipeline.experiment import Result, run
from s2l.progress import Progress, silent
from s2l.record import BOTH, BlindScore, LogLine, When, known
from s2l.store import Store, read_json
from s2l.tables import split

SCHEMA_VERSION = 1
DELTAS = (0.08, 0.1, 0.12, 0.15)
PACKAGE = Path(__file__).parents[1]


def slug(text: str) -> str:
    """A label or a name as part of a file name: "sigma 0.0002" -> "sigma-0.0002"."""
    return re.sub(r"[^\w.+]+", "-", text.lower()).strip("-.")


def cell_path(results: Path, table: str, row: str, person: str) -> Path:
    """Where a cell that this table makes is stored."""
    return results / slug(table) / slug(row) / f"{slug(person)}.json"


def free_path(results: Path, table: str, row: str, person: str) -> Path:
    """The path of a new cell, whose folder is created. Raises UserError if another run's cell is there."""
    path = cell_path(results, table, row, person)
    if path.exists():
        raise UserError(
            f"{path} holds a run with other settings or other weights of the model than this table's: move it away, or "
            "give another folder (--results)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def find_cells(results: Path) -> dict[str, Path]:
    """{key: file} of all cells below `results`. Raises UserError for a file that is not a cell."""
    return {_load(path)["key"]: path for path in sorted(results.glob("*/*/*.json"))}


def read_cell(path: Path) -> dict:
    """The cell in a file. Raises UserError if the file is not a cell, or if its key does not match its content."""
    cell = _load(path)
    if kind_of(cell).key(cell["model"]["key"], checked(RunConfig, cell["config"])) != cell["key"]:
        raise UserError(
            f"{path} does not match its key: its settings or its model are not those of the run that it records"
        )
    return cell


def _load(path: Path) -> dict:
    try:
        cell = read_json(path)
        numbers_of(cell)
        if {"key", "row", "person", "config"} <= cell.keys() and "key" in cell["model"]:
            return cell
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is not a cell of a table: give a file such as results/main/lora/NAME.json")


def program_state() -> dict:
    """{"version", "commit", "clean"} of the program; "clean" says whether its files are those of the commit.

    Commit and clean are None for an installed program, which is not in a checkout.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", PACKAGE, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may be inside some other repository
        state = {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain", "--", ".")}
    except (OSError, subprocess.CalledProcessError):
        state = {"commit": None, "clean": None}
    return {"version": __version__} | state


def _short(scores) -> list[float]:
    """Scores with six significant digits, so that cells stay small."""
    return [float(f"{s:.6g}") for s in scores]


def cell_of(result: Result, row: str, program: dict | None = None) -> dict:
    """What a table stores of one run, small enough to commit. `program` is what `program_state` returned."""
    record = result.record
    attacks = {
        name: {
            "scores": {
                when: {part: _short(values) for part, values in outcome["scores"][when].items()} for when in BOTH
            },
            "auc_before": outcome["before"]["auc"],
            "auc_after": outcome["after"]["auc"],
            "difference": outcome["difference"],
            "shake_auc": outcome["shake"]["auc"],
            "calibration": outcome["calibration"],
        }
        for name, outcome in record["attacks"].items()
    }
    extraction = {}
    for when in BOTH:
        search, flags = result.extraction[when], _score(result, when)
        extraction[when] = {
            "distinct": search["members"]["distinct"],
            "eidetic": search["eidetic"],
            "matching_generations": search["members"]["matching_generations"],
            "nonmembers_scaled": search["nonmembers_scaled"],
            "cost": result.extraction["cost"][when],
            "flags": [flags["n_flags"], flags["true_flags"]],
            "within": {
                str(d): [int(np.sum(np.array(search[part]["distances"]) <= d)) for part in ("members", "nonmembers")]
                for d in DELTAS
            },
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "key": identity.cell(record["model"]["key"], checked(RunConfig, record["config"])),
        "row": row,
        "person": record["domain"]["name"],
        "role": record["domain"]["role"],
        "config": record["config"],
        "model": record["model"],
        "trained_parameters": result.training["trained_parameters"],
        "loss_first_last": _loss_ends(result.training["log"]),
        "attacks": attacks,
        "extraction": extraction,
        "control_auc": known(record["control"])["auc"],
        "n_members": record["domain"]["n_members"],
        "n_nonmembers": record["domain"]["n_nonmembers"],
        # The time of a stage that came from the cache says nothing about its cost.
        "seconds": {k: v["seconds"] for k, v in record["stages"].items() if not v.get("cached")},
        "program": program,
        "versions": record["versions"],
    }


def run_again(cell: dict, store: Store | None = None, device: str = "auto", progress: Progress = silent) -> dict:
    """Repeat a cell's run in its precision and return the new cell. Raises UserError if the weights have changed."""
    config, runtime = checked(RunConfig, cell["config"]), Runtime(device, cell["model"]["precision"])
    if DiffusionModel.load(config.model, runtime).key != cell["model"]["key"]:
        raise UserError("the cell was made with other weights than those of this model")
    return kind_of(cell).make(config, cell["row"], None, store, runtime, progress)


def numbers_of(cell: dict) -> dict[str, float]:
    """{what: number} of a cell: what `s2l cell` compares."""
    return kind_of(cell).numbers(cell)


def _numbers_of_run(cell: dict) -> dict[str, float]:
    """The AUC of every attack, the number of extracted photos, and the blind control's AUC."""
    numbers = {f"{name}, AUC {w}": a[f"auc_{w}"] for name, a in cell["attacks"].items() for w in BOTH}
    numbers |= {f"extracted {when}": cell["extraction"][when]["distinct"] for when in BOTH}
    return numbers | {"blind control, AUC": cell["control_auc"]}


def _score(result: Result, when: When) -> BlindScore:
    return known(known(result.record["blind"])[when]["score"])


def _loss_ends(log: list[LogLine]) -> list[float] | None:
    """Mean training loss of the first and of the last tenth of the steps."""
    if not log:
        return None
    n = max(1, len(log) // 10)
    losses = [row["loss"] for row in log]
    return [float(np.mean(losses[:n])), float(np.mean(losses[-n:]))]


# --- kinds ------------------------------------------------------------------------------------------------------------


def _run_cell(config: RunConfig, row: str, program: dict | None, store, runtime: Runtime, progress: Progress) -> dict:
    return cell_of(run(config, store, runtime, progress), row, program)


def _split_cell(config: RunConfig, row: str, program: dict | None, store, runtime: Runtime, progress: Progress) -> dict:
    facts = split.facts(config, store, runtime, progress, _short)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "split",
        "key": identity.split_cell(facts["model"]["key"], config),
        "row": row,
        "person": config.domain.name,
        "config": identity.spelled_out(config).model_dump(mode="json"),
        **facts,
        "program": program,
    }


@dataclass(frozen=True)
class Kind:
    """A kind of cell: what a table measures of each run.

    key      (the model's key, config) -> the cell's key
    make     (config, row, program, store, runtime, progress) -> cell
    numbers  cell -> {what: number}
    """

    key: Callable[[str, RunConfig], str]
    make: Callable[[RunConfig, str, dict | None, Store | None, Runtime, Progress], dict]
    numbers: Callable[[dict], dict[str, float]]


KINDS = {
    "run": Kind(identity.cell, _run_cell, _numbers_of_run),
    "split": Kind(identity.split_cell, _split_cell, split.numbers_of),
}


def kind_of(cell: dict) -> Kind:
    """The kind of a cell; without a name for it, the cell is a whole run. Raises KeyError for an unknown kind."""
    return KINDS[cell.get("kind", "run")]
