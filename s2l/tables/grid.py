"""Tables over people: a grid of runs, one committed cell each, and their summary with intervals.

`python -m s2l table NAME` runs what is missing and rewrites `results/NAME.json`, `.md` and `.png`. A cell (see
cells.py) is written as soon as it is done, so a table can be continued later or on another machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from s2l.attacks import Combination
from s2l.attacks.calibration import are_distances, shake_calibrated
from s2l.config import LAB, RunConfig, merged, preset
from s2l.errors import UserError
from s2l.labs import default_lab, is_there
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
from s2l.tables import defences, mitigations, split
from s2l.tables import view as table_view
from s2l.tables.cells import KINDS, SCHEMA_VERSION, find_cells, free_path, program_state, read_cell
from s2l.tables.cluster import Pool, Task
from s2l.tables.declared import OF_TABLES, Row, Table, get_table
from s2l.tables.sheet import NO_DEFENCE, NO_MITIGATION

# {what is also measured of a row: (the function, the label of the row that it is compared with)}
ALSO: dict[str, tuple[Callable[..., dict], str]] = {
    "defences": (defences.facts, NO_DEFENCE),
    "sampler": (mitigations.facts, NO_MITIGATION),
}


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
            overrides = merged(OF_TABLES, merged(row.overrides, together))
            domain = overrides.pop("domain", {}) | {"name": name}
            yield row, preset(table.preset, domain, **overrides)


@dataclass(frozen=True)
class Missing:
    """A cell that a table lacks: its kind, its row's label, its run, its key, and the file for it."""

    kind: str
    row: str
    config: RunConfig
    key: str
    path: Path


def made(
    missing: list[Missing], store: Store | None, runtime: Runtime, progress: Progress, pool: Pool | None
) -> Iterator[Missing]:
    """Make the cells, one after the other or on a cluster; yields each when its file is written."""
    program = program_state()
    if pool is None:
        for new in missing:
            write_json(new.path, KINDS[new.kind].make(new.config, new.row, program, store, runtime, progress))
            yield new
        return
    missing = by_turns(missing)
    tasks = [
        Task(f"{new.row}, {new.config.domain.name}", _make_cell, (new.kind, new.config, new.row, program, runtime))
        for new in missing
    ]
    for i, cell in pool.map(tasks, progress):
        if cell["key"] != missing[i].key:
            raise UserError(f"{tasks[i].label}: its worker has other weights of {missing[i].config.model}")
        write_json(missing[i].path, cell)
        yield missing[i]


def by_turns(missing: list[Missing]) -> list[Missing]:
    """The cells in an order in which neighbours share no stage: only one worker at a time can make a stage."""
    queues: dict[frozenset[str], list[Missing]] = {}
    for new in missing:
        queues.setdefault(frozenset((new.config.domain.name, *(new.config.sp_set.together or ()))), []).append(new)
    return [new for turn in zip_longest(*queues.values()) for new in turn if new is not None]


def _options(people: int | None, runtime: Runtime) -> list[str]:
    """The options of the command that decide numbers, where they are not the usual ones."""
    dtype = [] if runtime.dtype == "mixed" else [f"--dtype {runtime.dtype}"]
    return [*([f"--people {people}"] if people else []), *dtype]


def with_labs(table: Table) -> Table:
    """The table without the rows whose labs nobody has built here; stderr names them.

    Raises UserError if no row is left.
    """
    absent = {row.overrides["model"] for row in table.rows if not is_there(row.overrides.get("model", LAB))}
    rows = tuple(row for row in table.rows if row.overrides.get("model") not in absent)
    recipes = ", ".join(sorted(model.removeprefix(f"{LAB}:") for model in absent))
    words = f"not built here: {recipes} (python -m s2l lab build --recipe NAME)"
    if not rows:
        raise UserError(f"the labs of this table are {words}")
    if absent:
        print(f"left out, as their labs are {words}", file=sys.stderr, flush=True)
    return replace(table, rows=rows)


def _make_cell(kind: str, config: RunConfig, row: str, program: dict, runtime: Runtime, store, progress) -> dict:
    return KINDS[kind].make(config, row, program, store, runtime, progress)


def keys_of(models: set[str], runtime: Runtime, pool: Pool | None, progress: Progress) -> dict[str, str]:
    """{model: key}; on a cluster the workers say it, as a key depends on the precision of their device."""
    names = sorted(models)
    if pool is None:
        return {name: _model_key(name, runtime) for name in names}
    tasks = [Task(f"weights of {name}", _model_key, (name, runtime)) for name in names]
    return {names[i]: key for i, key in pool.map(tasks, progress)}


def _model_key(model: str, runtime: Runtime, store: Store | None = None, progress: Progress = silent) -> str:
    return DiffusionModel.load(model, runtime).key


def calibrations_of(
    cells: dict[str, list[dict]], runtime: Runtime, store: Store | None, progress: Progress, pool: Pool | None
) -> dict[str, dict[str, np.ndarray]]:
    """{row: what `calibration_nonmembers` says of its first cell}."""
    if pool is None:
        return {label: _calibration(row[0], runtime, store, progress) for label, row in cells.items()}
    labels = list(cells)
    tasks = [Task(f"thresholds of {label}", _calibration, (cells[label][0], runtime)) for label in labels]
    results = dict(pool.map(tasks, progress))
    return {label: results[i] for i, label in enumerate(labels)}


def _calibration(cell: dict, runtime: Runtime, store: Store | None, progress: Progress) -> dict[str, np.ndarray]:
    return calibration_nonmembers(cell, runtime, Stages(store, progress))


def run_table(
    name: str,
    results: Path = Path("results"),
    people: int | None = None,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
    only: str = "",
    pool: Pool | None = None,
) -> dict:
    """Run the missing cells of a table and write its summary; returns the content of `results/NAME.json`.

    With `only`, just the rows whose label contains it are run. The summary has the rows that have all their cells.
    With `pool`, the cells are made on a cluster and written here as each is done.
    Raises UserError for an unknown table, too many people, or a file in the way of a new cell.
    """
    table = with_labs(get_table(name))
    kind = KINDS[table.kind]
    cells: dict[str, list[dict]] = {}
    incomplete: set[str] = set()
    work, chosen = list(configs(table, people)), {row.label for row, _ in configs(table, people, only)}
    model_keys = keys_of({config.model for _, config in work}, runtime, pool, progress)
    keys = [kind.key(model_keys[config.model], config) for _, config in work]
    cell_files = find_cells(results)
    missing = {
        key: Missing(table.kind, row.label, config, key, free_path(results, name, row.label, config.domain.name))
        for key, (row, config) in zip(keys, work, strict=True)
        if key not in cell_files and row.label in chosen
    }
    done = len({*keys} & cell_files.keys())
    for new in made(list(missing.values()), store, runtime, progress, pool):
        cell_files[new.key], done = new.path, done + 1
        progress(Event(f"table {name}", done, len({*keys}), {"row": new.row, "person": new.config.domain.name}))
    for key, (row, _) in zip(keys, work, strict=True):
        if key in cell_files:
            cells.setdefault(row.label, []).append(read_cell(cell_files[key]))
        else:
            incomplete.add(row.label)
    cells = {row.label: cells[row.label] for row in table.rows if row.label in cells.keys() - incomplete}
    first = next(iter(cells.values()))
    calibrated = table.role == "reporting" and table.kind == "run"
    calibrations = calibrations_of(cells, runtime, store, progress, pool) if calibrated else {}

    def summary_of(label: str, row_cells: list[dict]) -> dict:
        if table.kind == "split":
            return split.summarise(row_cells, _over_people)
        summary = summarise(row_cells, calibrations.get(label))
        if table.also:
            facts, without = ALSO[table.also]
            summary |= facts(row_cells, cells.get(without), runtime, Stages(store, progress))
        return summary | {"per_1000_gain": efficiency_gain(row_cells, first)}

    summary = {
        "schema_version": SCHEMA_VERSION,
        "title": table.title,
        "command": " ".join([f"python -m s2l table {name}", *_options(people, runtime)]),
        "preset": table.preset,
        "role": table.role,
        "n_people": len(first),
        "model": first[0]["model"],
        "rows": {label: summary_of(label, row_cells) for label, row_cells in cells.items()},
    }
    if table.kind != "run" or table.also:
        summary["kind"] = table.also or table.kind
    write_json(results / f"{name}.json", summary)
    table_view.write(name, summary, results)
    return summary
