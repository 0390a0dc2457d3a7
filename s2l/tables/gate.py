"""How well the gates tell a model's own pictures from honest uploads, whatever was done to them: `results/gate.json`.

An upload is 16 or 64 pictures of one person. Thresholds are frozen on honest uploads of the calibration people, and
everything is reported on reporting people. Each person's scores are a stage of their own in the cache: a run that was
stopped goes on, and more people can be added later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from s2l import gates
from s2l.config import LAB
from s2l.data.lab_domain import photos_as_images
from s2l.errors import UserError
from s2l.gates.evasions import EVASIONS, MIXED
from s2l.keys import key_of
from s2l.labs import Lab, find_lab
from s2l.measure.intervals import auc, constant_interval, percentiles
from s2l.measure.operating_points import pooled_tpr
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent
from s2l.store import Store, read_json, write_json
from s2l.tables.gate_pictures import drawn_by, unnamed
from s2l.tables.gate_signals import signals
from s2l.worlds.people import public_photo

GATES = ("own_output", "own_output_jpeg")  # an upload is refused if one of them exceeds its threshold
OTHER = "lab:buried"  # whose pictures are neither photos nor the model's own
PEOPLE = 12  # reporting people
PICTURES = 64  # of each person and kind
SIZES = (16, 64)  # pictures of an upload
STEPS = 10  # of the sampler
FIRST_SEED = 1000
FIRST_PUBLIC = 500_000  # numbers of public photos that no lab was trained on
FPR = 0.01  # of the gates together, on honest uploads of the calibration people
DRAWS = 200  # honest uploads drawn from each calibration person's photos of one kind
RESAMPLES = 2000
HELD_OUT = "held-out photos"
HONEST = {HELD_OUT: "untouched", "held-out photos, JPEG 75": "JPEG 75", "held-out photos, JPEG 50": "JPEG 50"}
PUBLIC = "public photos"
DRAWN = "another lab's pictures"
HONEST_KINDS = (*HONEST, PUBLIC)
NEGATIVES = (*HONEST_KINDS, DRAWN)
OWN = {1.0: tuple(EVASIONS), 4.0: ("untouched", "JPEG 75")}  # {guidance of the SP set: what was done to it}

Scores = dict[str, np.ndarray]  # {set: (PICTURES,)} of one person and gate


def label(guidance: float, evasion: str) -> str:
    """A row of the table: "guidance 1, JPEG 75"."""
    return f"guidance {guidance:g}, {evasion}"


# --- pictures and scores ----------------------------------------------------------------------------------------------


class _Study:
    """The models, the people, and the scores of each person."""

    def __init__(self, model: str, other: str, n_people: int, pictures: int, runtime: Runtime, store: Store):
        lab = find_lab(model)
        if lab is None:
            raise UserError(f"--model: {model!r} is not a lab: give 'lab', 'lab:NAME' (see `labs`) or its folder")
        if not (lab.names("calibration") and lab.names("reporting")):
            raise UserError(f"the lab {lab.name} has no people to freeze thresholds on, or none to report on")
        self.lab: Lab = lab
        self.names, self.pictures, self.runtime, self.store = (model, other), pictures, runtime, store
        self.calibration, self.reporting = lab.names("calibration"), lab.names("reporting")[:n_people]

    @cached_property
    def models(self) -> list[DiffusionModel]:
        return [DiffusionModel.load(name, self.runtime) for name in self.names]

    def sets(self, name: str, own: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """(name of a set, its pictures) of one person; only the honest ones if not `own`."""
        n, side = self.pictures, self.lab.resolution
        seeds = list(range(FIRST_SEED, FIRST_SEED + n))
        held_out = photos_as_images(self.lab.person(name).held_out(n), side).images
        for kind, change in HONEST.items():
            yield kind, EVASIONS[change](held_out)
        first = FIRST_PUBLIC + n * self.lab.names().index(self.lab.person(name).name)
        yield PUBLIC, photos_as_images([public_photo(first + i) for i in range(n)], side).images
        if not own:
            return
        yield DRAWN, drawn_by(self.models[1], name, 1.0, seeds, STEPS)
        for guidance, evasions in OWN.items():
            pictures = drawn_by(self.models[0], name, guidance, seeds, STEPS)
            for evasion in evasions:
                yield label(guidance, evasion), EVASIONS[evasion](pictures)

    def scores(self, name: str, own: bool = True) -> dict[str, Scores]:
        """{gate: scores of one person's sets}, kept in the cache."""
        settings = [gates.gate_settings(gate) for gate in GATES]
        about = [self.lab.person(name).row, [model.key for model in self.models], own, self.pictures, STEPS]
        key = key_of("gate study", *about, {g: s.model_dump(mode="json") for g, s in zip(GATES, settings, strict=True)})

        def work(folder: Path) -> None:
            found: dict[str, dict[str, list[float]]] = {gate: {} for gate in GATES}
            for what, pictures in self.sets(name, own):
                upload = gates.Upload(unnamed(pictures))
                for gate, own_settings in zip(GATES, settings, strict=True):
                    found[gate][what] = gates.get_gate(gate).score(self.models[0], upload, own_settings).tolist()
            write_json(folder / "scores.json", found)

        folder, _ = self.store.stage("gate", key, work)
        return {
            gate: {what: np.array(values) for what, values in sets.items()}
            for gate, sets in read_json(folder / "scores.json").items()
        }


def mixed(own: np.ndarray, honest: np.ndarray) -> np.ndarray:
    """Scores of uploads in which every second picture is an honest one, (N,)."""
    return np.where(np.arange(len(own)) % 2 == 0, own, honest)


def with_mixed(scores: Scores) -> Scores:
    """The same scores, with the uploads that are half honest photos of the person."""
    more = {label(g, MIXED): mixed(scores[label(g, "untouched")], scores[HELD_OUT]) for g in OWN}
    return scores | more


def uploads(scores: np.ndarray, size: int) -> np.ndarray:
    """(N // size,) mean scores of disjoint uploads of `size` pictures."""
    n = len(scores) // size
    return scores[: n * size].reshape(n, size).mean(axis=1)


# --- thresholds, frozen on calibration people -------------------------------------------------------------------------


def thresholds(people: Sequence[Mapping[str, Scores]], size: int) -> dict[str, dict[str, float]]:
    """{gate: {"value", "spread"}} from the calibration people's honest uploads of `size` pictures, drawn with
    replacement; each gate gets an equal share of the false alarms."""
    rng, found = np.random.default_rng(size), {}
    for gate in GATES:
        means = np.concatenate(
            [rng.choice(person[gate][kind], (DRAWS, size)).mean(axis=1) for person in people for kind in HONEST_KINDS]
        )
        value = float(np.quantile(means, 1 - FPR / len(GATES), method="higher"))
        found[gate] = {"value": value, "spread": float(means.std())}
    return found


def margins(person: Mapping[str, Scores], what: str, size: int, limits: Mapping[str, dict[str, float]]) -> np.ndarray:
    """(uploads,) how far the gate that is surest lies above its threshold, in spreads: above 0 is refused."""
    every = [(uploads(person[g][what], size) - limits[g]["value"]) / limits[g]["spread"] for g in GATES]
    return np.max(every, axis=0)


# --- the table --------------------------------------------------------------------------------------------------------


def auc_over_people(own: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> dict[str, float]:
    """AUC of all uploads against all, own[p] and others[p] of person p, with a 95 % interval that resamples people."""
    value, n = auc(np.concatenate(own), np.concatenate(others)), len(own)
    rng = np.random.default_rng(0)
    draws = np.array([
        auc(np.concatenate([own[i] for i in some]), np.concatenate([others[i] for i in some]))
        for some in rng.integers(n, size=(RESAMPLES, n))
    ])  # fmt: skip
    low, high = percentiles(draws, 0.95)
    if np.ptp(draws) == 0:
        interval = constant_interval(value, n, 0, 1, draws="people")
        low, high = interval.low, interval.high
    return {"mean": value, "low": low, "high": high}


def _rate(above: float, interval) -> dict[str, float]:
    return {"rate": above, "low": interval.low, "high": interval.high}


def rates(own: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> tuple[dict, dict]:
    """(share of own uploads refused, share of the others) with the wider of two 95 % intervals: over uploads, as if
    they were independent, and over people."""
    point = pooled_tpr(float(np.nextafter(0, 1)), own, others)
    pairs = ((point.tpr, point.tpr_exact, point.tpr_cluster),
             (point.realised_fpr, point.fpr_exact, point.fpr_cluster))  # fmt: skip
    wider = [max((x for x in (exact, cluster) if x), key=lambda x: x.high - x.low) for _, exact, cluster in pairs]
    return _rate(point.tpr, wider[0]), _rate(point.realised_fpr, wider[1])


def rows_of(people: Sequence[Mapping[str, Scores]], limits: Mapping[str, Mapping]) -> tuple[dict, dict]:
    """(rows by what was done to the model's own pictures, negatives by kind), each by size of an upload."""
    rows: dict[str, dict] = {}
    negatives: dict[str, dict] = {kind: {} for kind in NEGATIVES}
    own = [label(g, e) for g, evasions in OWN.items() for e in (*evasions, MIXED)]
    for size, limit in limits.items():
        of = {what: [margins(p, what, int(size), limit) for p in people] for what in (*own, *NEGATIVES)}
        honest = of[HELD_OUT]
        for what in own:
            row = rows.setdefault(what, {})
            row[size] = {
                "uploads": sum(map(len, of[what])),
                "tpr": rates(of[what], honest)[0],
                "by_gate": {g: _alone(people, what, int(size), limit[g], g) for g in GATES},
                "auc": {kind: auc_over_people(of[what], of[kind]) for kind in NEGATIVES},
            }
        for kind in NEGATIVES:
            negatives[kind][size] = {"uploads": sum(map(len, of[kind])), "fpr": rates(honest, of[kind])[1]}
    return rows, negatives


def _alone(people: Sequence[Mapping[str, Scores]], what: str, size: int, limit: dict, gate: str) -> float:
    """The share of uploads that one gate refuses."""
    return float(np.mean(np.concatenate([uploads(p[gate][what], size) for p in people]) > limit["value"]))


def example(person: Mapping[str, Scores], name: str, limits: Mapping[str, Mapping]) -> dict:
    """One person's SP set as an upload of the largest size: what each gate says of each way to hide it."""
    size = max(limits, key=int)
    rows = {}
    for what in person[GATES[0]]:
        if what not in NEGATIVES or what == HELD_OUT:
            seen = {g: float(uploads(person[g][what], int(size))[0]) for g in GATES}
            rows[what] = {"scores": seen, "refused": any(seen[g] > limits[size][g]["value"] for g in GATES)}
    return {"person": name, "size": int(size), "rows": rows}


def run_gate(
    path: Path,
    people: int = PEOPLE,
    model: str = LAB,
    other: str = OTHER,
    pictures: int = PICTURES,
    sizes: Sequence[int] = SIZES,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> dict:
    """Measure the gates and write the table to `path`; what is in the cache is not measured again."""
    study = _Study(model, other, people, pictures, runtime, Store())
    names = [(name, False) for name in study.calibration] + [(name, True) for name in study.reporting]
    total, scores = len(names) + 1, []
    for i, (name, own) in enumerate(names):
        found = study.scores(name, own)
        scores.append({gate: with_mixed(sets) if own else sets for gate, sets in found.items()})
        progress(Event("gate", i + 1, total, {"person": name}))
    calibration, reporting = scores[: len(study.calibration)], scores[len(study.calibration) :]
    limits = {str(size): thresholds(calibration, size) for size in sizes if size <= pictures}
    rows, negatives = rows_of(reporting, limits)
    table = {
        "schema_version": 1,
        "kind": "gate-study",
        "title": "What the provider's gate catches, and what gets past it",
        "command": "python -m s2l gate-study",
        "lab": study.lab.name,
        "other": other,
        "role": "reporting",
        "people": study.reporting,
        "n_people": len(reporting),
        "calibration": study.calibration,
        "pictures": pictures,
        "steps": STEPS,
        "fpr": FPR,
        "gates": {gate: gates.get_gate(gate).title for gate in GATES},
        "thresholds": limits,
        "rows": rows,
        "negatives": negatives,
        "example": example(reporting[0], study.reporting[0], limits),
        "signals": [asdict(signal) for signal in signals(study.models, study.lab, study.names, study.store)],
    }
    progress(Event("gate", total, total))
    write_json(path, table)
    return table
