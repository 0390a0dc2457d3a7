"""Which signal tells a model's own pictures best: candidates for a gate, compared on calibration people only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from s2l import attacks, gates
from s2l.config import AuditConfig
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import photos_as_images
from s2l.gates.evasions import EVASIONS
from s2l.gates.residue import decoded
from s2l.keys import key_of
from s2l.labs import Lab, find_lab
from s2l.measure.intervals import auc
from s2l.model.diffusion import DiffusionModel
from s2l.store import Store, read_json, write_json
from s2l.tables.gate_pictures import drawn_by, unnamed
from s2l.worlds.people import public_photo

PEOPLE, PICTURES, STEPS = 4, 16, 10
SEED = 3000  # of the pictures: not that of the attacks' noise
FIRST_PUBLIC = 400_000
T = 100  # of the predicted noise whose norm is tried
OWN = ("guidance 1", "guidance 4", "guidance 1, JPEG 75")
OTHERS = ("held-out photos", "public photos", "another lab's pictures")


@dataclass(frozen=True)
class Signal:
    """AUC per picture of one signal: {lab: {own pictures: {others: AUC, pooled over people}}}."""

    name: str
    auc: dict[str, dict[str, dict[str, float]]]


def _residue(model: DiffusionModel, pictures: ImageSet) -> np.ndarray:
    x = pictures.floats()
    return -(x - decoded(model, x)).square().mean(dim=(1, 2, 3)).sqrt().numpy()


def _gate(name: str, model: DiffusionModel, pictures: ImageSet) -> np.ndarray:
    return gates.get_gate(name).score(model, gates.Upload(pictures), gates.gate_settings(name)).numpy()


def _attack(name: str, model: DiffusionModel, pictures: ImageSet) -> np.ndarray:
    """Without captions: an upload may lie about what it shows."""
    config = AuditConfig(attacks=(name,), noise="content")
    query = attacks.query_of(model, pictures, config, ("",) * len(pictures))
    return attacks.run_attack(name, model, query, config).numpy()


def _norm(model: DiffusionModel, pictures: ImageSet) -> np.ndarray:
    query = attacks.make_query(model, pictures)
    parts = [query.part(some).clean_eps(model, T) for group in model.batches(len(query)) for some in group]
    return -torch.cat(parts).square().mean(dim=(1, 2, 3)).sqrt().cpu().numpy()


SIGNALS: dict[str, Callable[[DiffusionModel, ImageSet], np.ndarray]] = {
    "VAE residue": _residue,
    "own_output": partial(_gate, "own_output"),
    "own_output_jpeg": partial(_gate, "own_output_jpeg"),
    "Loss": partial(_attack, "loss"),
    "SimA": partial(_attack, "sima"),
    "norm of the predicted noise": _norm,
}
TOGETHER = {"own_output + Loss": ("own_output", "Loss"), "own_output + SimA": ("own_output", "SimA"),
            "VAE residue + Loss": ("VAE residue", "Loss")}  # fmt: skip


def _pictures(models: Sequence[DiffusionModel], labs: Sequence[Lab], i: int, name: str) -> list[dict]:
    """For each lab: {set: its pictures} of one person, the i-th."""
    seeds = list(range(SEED, SEED + PICTURES))
    own = [[drawn_by(model, name, guidance, seeds, STEPS) for guidance in (1.0, 4.0)] for model in models]
    crowd = [public_photo(FIRST_PUBLIC + PICTURES * i + j) for j in range(PICTURES)]
    public = photos_as_images(crowd, labs[0].resolution).images
    sets = []
    for k, lab in enumerate(labs):
        held_out = photos_as_images(lab.person(name).held_out(PICTURES), lab.resolution).images
        mine = (*own[k], EVASIONS["JPEG 75"](own[k][0]))
        others = (held_out, public, own[1 - k][0])
        sets.append(dict(zip((*OWN, *OTHERS), (*mine, *others), strict=True)))
    return sets


def _standard(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores in units of the spread of honest pictures, so that two signals can be added."""
    honest = np.concatenate([parts[kind] for kind in OTHERS[:2]])
    return {what: (scores - honest.mean()) / (honest.std() or 1.0) for what, scores in parts.items()}


def signals(models: Sequence[DiffusionModel], lab: Lab, names: Sequence[str], store: Store) -> list[Signal]:
    """Every signal and combination, on both labs: each one's pictures are the other's "another lab's pictures".

    `models` are of `names`, the first one's lab is `lab`. Scores are kept in the cache.
    """
    labs = [lab, find_lab(names[1]) or lab]
    people = lab.names("calibration")[:PEOPLE]
    key = key_of("gate signals", [m.key for m in models], people, PICTURES, STEPS, list(SIGNALS))

    def work(folder: Path) -> None:
        found: dict = {name: {m: {} for m in names} for name in SIGNALS}
        for i, person in enumerate(people):
            for model, its_name, sets in zip(models, names, _pictures(models, labs, i, person), strict=True):
                for what, pictures in sets.items():
                    for signal, score in SIGNALS.items():
                        values = score(model, unnamed(pictures)).tolist()
                        found[signal][its_name].setdefault(what, []).extend(values)
        write_json(folder / "signals.json", found)

    raw = read_json(store.stage("gate", key, work)[0] / "signals.json")
    scores = {
        name: {m: {w: np.array(v) for w, v in sets.items()} for m, sets in by_lab.items()}
        for name, by_lab in raw.items()
    }
    for together, parts in TOGETHER.items():
        scores[together] = {}
        for m in names:
            first, second = (_standard(scores[part][m]) for part in parts)
            scores[together][m] = {what: first[what] + second[what] for what in first}
    return [
        Signal(name, {m: {o: {k: auc(s[o], s[k]) for k in OTHERS} for o in OWN} for m, s in by_lab.items()})
        for name, by_lab in scores.items()
    ]
