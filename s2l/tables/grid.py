"""Tables over people: a grid of runs, one committed cell each, and their summary with intervals.

`python -m s2l table NAME` runs what is missing and rewrites `results/NAME.json`, `.md` and `.png`. A cell (see
cells.py) is written as soon as it is done, so a table can be continued later or on another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from s2l.attacks import Combination
from s2l.attacks.calibration import are_distances, shake_calibrated
from s2l.config import RunConfig, merged, preset
from s2l.errors import UserError
from s2l.labs import default_lab
from s2l.measure.intervals import mean_interval
from s2l.measure.operating_points import frozen_tpr
from s2l.measure.over_people import hierarchical_difference, hierarchical_mean
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline.experiment import calibration_people
from s2l.pipeline.membership import FPRS, Pair, calibration_pair
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.progress import Event, Progress, silent
from s2l.store import Store, write_json
from s2l.tables import split
from s2l.tables import view as table_view
from s2l.tables.cells import KINDS, SCHEMA_VERSION, find_cells, free_path, program_state, read_cell
from s2l.tables.declared import OF_TABLES, Row, Table, get_table


def calibration_nonmembers(cell: dict, runtime: Runtime, stages: Stages) -> dict[str, np.ndarray]:
    """{attack: scores (K,) of the calibration people's held-out photos on the base model}, to freeze thresholds on.

    The settings, and for CLiD the weights, are those of `cell`, the run of a person who is not a calibration person.
    """
    config = RunConfig.model_validate(cell["config"])
    base = Subject.of(DiffusionModel.load(config.model, runtime))
    scores = {}
    for name in config.audit.attacks:
        fitted = cell["attacks"][name]["calibration"]
        score = Combination.model_validate(fitted) if fitted else (lambda components: components[:, 0])
        people = calibration_people(config.domain, config.model)
        pairs = [calibration_pair(name, base, person, config.audit, stages) for person in people]
        scores[name] = score(np.concatenate([nonmembers for _, nonmembers in pairs]))
    return scores


def frozen_points(pairs: dict[str, list[Pair]], calibration: np.ndarray) -> dict:
    """TPR and FPR over all people at thresholds frozen on `calibration` (K,), the same ones before and after."""
    return {
        when: [asdict(frozen_tpr(calibration, [m for m, _ in people], [n for _, n in people], fpr)) for fpr in FPRS]
        for when, people in pairs.items()
    }


def _scores_of(cell: dict, attack: str, when: str) -> Pair:
    """(scores of the members, scores of the held-out photos) of one attack."""
    scores = cell["attacks"][attack]["scores"][when]
    return np.array(scores["members"]), np.array(scores["nonmembers"])


def summarise(cells: list[dict], calibration: dict[str, np.ndarray] | None = None) -> dict:
    """One row's cells over people: means with hierarchical-bootstrap intervals (counts: Student's t).

    `calibration`, from `calibration_nonmembers`, adds the pooled TPR at frozen thresholds. Tables of calibration people
    do without: a threshold is not tested on those who set it.
    """
    summary: dict = {"people": [cell["person"] for cell in cells], "attacks": {}, "extraction": {}}
    unshaken = cells[0]["config"].get("unshake") is not None
    summary |= {"model_key": cells[0]["model"]["key"], "unshaken": unshaken}
    for name in cells[0]["attacks"]:
        pairs = {when: [_scores_of(cell, name, when) for cell in cells] for when in ("before", "after")}
        summary["attacks"][name] = {
            "before": asdict(hierarchical_mean(pairs["before"])),
            "after": asdict(hierarchical_mean(pairs["after"])),
            "difference": asdict(hierarchical_difference(pairs["before"], pairs["after"])),
            "shake_auc": float(np.mean([cell["attacks"][name]["shake_auc"] for cell in cells])),
            # No reference for un-shaken models: the weight was frozen with fine-tuned models as the reference.
            "reference": None if unshaken else reference_of(pairs, cells[0]["config"]["audit"]["shake_weight"]),
            "frozen": frozen_points(pairs, calibration[name]) if calibration else None,
        }
    for when in ("before", "after"):
        per_person = [cell["extraction"][when] for cell in cells]
        summary["extraction"][when] = {
            "distinct": [outcome["distinct"] for outcome in per_person],
            "mean_distinct": float(np.mean([outcome["distinct"] for outcome in per_person])),
            "mean_nonmembers_scaled": float(np.mean([outcome["nonmembers_scaled"] for outcome in per_person])),
            "distinct_over_people": _over_people([outcome["distinct"] for outcome in per_person]),
            "unet_evaluations": per_person[0]["cost"]["unet_evaluations"],
            "per_1000": _over_people([outcome["cost"]["per_1000"] for outcome in per_person]),
            "nonmembers_per_1000": float(np.mean([outcome["cost"]["nonmembers_per_1000"] for outcome in per_person])),
            "flags": np.sum([outcome["flags"] for outcome in per_person], axis=0).tolist(),
            "within": {
                d: [float(np.mean([outcome["within"][d][i] for outcome in per_person])) for i in (0, 1)]
                for d in per_person[0]["within"]
            },
        }
    counts = [summary["extraction"][when]["distinct"] for when in ("before", "after")]
    summary["extraction"]["difference"] = _over_people(np.subtract(*reversed(counts)))
    summary["n_members"], summary["n_nonmembers"] = cells[0]["n_members"], cells[0]["n_nonmembers"]
    summary["control_auc"] = _over_people([cell["control_auc"] for cell in cells])
    summary["seconds"] = float(np.mean([cell["seconds"]["total"] for cell in cells]))
    summary["finetune_seconds"] = [cell["seconds"].get("finetune") for cell in cells]
    summary["loss_first_last"] = [cell["loss_first_last"] for cell in cells]
    summary["trained_parameters"] = cells[0]["trained_parameters"]
    return summary


def reference_of(pairs: dict[str, list[Pair]], weight: float) -> dict | None:
    """Both models together, over people: the attack on the base model with the fine-tuned one as its reference.

    `difference` is the change from the same attack on the base model alone. None for scores that are not distances.
    """
    if not all(are_distances(*pair) for by_person in pairs.values() for pair in by_person):
        return None
    both = [
        (shake_calibrated(m0, m1, "reference", weight), shake_calibrated(n0, n1, "reference", weight))
        for (m0, n0), (m1, n1) in zip(pairs["before"], pairs["after"], strict=True)
    ]
    return {
        "weight": weight,
        "auc": asdict(hierarchical_mean(both)),
        "difference": asdict(hierarchical_difference(pairs["before"], both)),
    }


def _over_people(values: Sequence[float]) -> dict:
    """The mean of one number per person, with its 95 % interval if there are several people."""
    interval = mean_interval(values) if len(values) > 1 else None
    ends = {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}
    return {"mean": float(np.mean(values)), **ends, "per_person": [float(value) for value in values]}


def efficiency_gain(cells: list[dict], first: list[dict]) -> dict:
    """Extracted photos per 1,000 UNet evaluations after fine-tuning: a row minus the first row, paired by person."""
    rates = [[cell["extraction"]["after"]["cost"]["per_1000"] for cell in row] for row in (cells, first)]
    return _over_people([rate - first_rate for rate, first_rate in zip(*rates, strict=True)])


def configs(table: Table, people: int | None = None, only: str = "") -> Iterable[tuple[Row, RunConfig]]:
    """Every (row, run) of a table whose label contains `only`, person by person.

    Raises UserError for too many people, or if no row is left.
    """
    rows = [row for row in table.rows if only in row.label]
    if not rows:
        raise UserError(f"no row of this table contains {only!r}", field="only")
    names = default_lab().names(table.role)
    number = table.people if people is None else people
    if not 1 <= number <= len(names):
        raise UserError(f"--people: {number} is not between 1 and {len(names)}, the number of {table.role} people")
    for i, name in enumerate(names[:number]):
        for row in rows:
            start = i - i % row.together
            others = [other for other in names[start : start + row.together] if other != name]
            together = {"sp_set": {"together": others}} if others else {}
            yield row, preset(table.preset, name, **merged(OF_TABLES, merged(row.overrides, together)))


def run_table(
    name: str,
    results: Path = Path("results"),
    people: int | None = None,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
    only: str = "",
) -> dict:
    """Run the missing cells of a table and write its summary; returns the content of `results/NAME.json`.

    With `only`, just the rows whose label contains it are run. The summary has the rows that have all their cells.
    Raises UserError for an unknown table, too many people, or a file in the way of a new cell.
    """
    table = get_table(name)
    kind = KINDS[table.kind]
    cells: dict[str, list[dict]] = {}
    incomplete: set[str] = set()
    work, chosen = list(configs(table, people)), {row.label for row, _ in configs(table, people, only)}
    model_keys = {model: DiffusionModel.load(model, runtime).key for model in {config.model for _, config in work}}
    program, cell_files = program_state(), find_cells(results)
    for i, (row, config) in enumerate(work):
        key = kind.key(model_keys[config.model], config)
        if key not in cell_files and row.label not in chosen:
            incomplete.add(row.label)
            continue
        if key not in cell_files:
            path = free_path(results, name, row.label, config.domain.name)
            write_json(path, kind.make(config, row.label, program, store, runtime, progress))
            cell_files[key] = path
        cells.setdefault(row.label, []).append(read_cell(cell_files[key]))
        progress(Event(f"table {name}", i + 1, len(work), {"row": row.label, "person": config.domain.name}))
    cells = {row.label: cells[row.label] for row in table.rows if row.label in cells.keys() - incomplete}
    first = next(iter(cells.values()))
    stages = Stages(store, progress)

    def calibration(row_cells: list[dict]) -> dict[str, np.ndarray] | None:
        return calibration_nonmembers(row_cells[0], runtime, stages) if table.role == "reporting" else None

    def summary_of(row_cells: list[dict]) -> dict:
        if table.kind == "split":
            return split.summarise(row_cells, _over_people)
        return summarise(row_cells, calibration(row_cells)) | {"per_1000_gain": efficiency_gain(row_cells, first)}

    summary = {
        "schema_version": SCHEMA_VERSION,
        "title": table.title,
        "command": f"python -m s2l table {name}" + (f" --people {people}" if people else ""),
        "preset": table.preset,
        "role": table.role,
        "n_people": len(first),
        "model": first[0]["model"],
        "rows": {label: summary_of(row_cells) for label, row_cells in cells.items()},
    }
    if table.kind != "run":
        summary["kind"] = table.kind
    write_json(results / f"{name}.json", summary)
    table_view.write(name, summary, results)
    return summary
