"""Release audit: would tuned weights, once handed out, tell more about the owner's photos than the base model does?

The owner knows photos that the base model was trained on, and held-out photos of the same people: canaries. The Loss
attack scores both, with the same noise on both models, and three attackers are compared with the one who has the base
model alone:

    tuned      the tuned model alone
    pair       the base model with the tuned one as its reference (`shake_calibrated`)
    un-shaken  base + 1 (base - tuned) in scores: a step away from the fine-tuning

Each comparison is paired, so what the photos have in common drops out. The weights are withheld if the interval of one
of the three lies above 0. The three intervals together miss with probability `alpha`: each is one-sided at alpha / 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from s2l.attacks.calibration import shake_calibrated
from s2l.config import AuditConfig, DomainConfig
from s2l.data.domain import Domain, ImageSet, folder_domain, load_folder
from s2l.data.lab_domain import lab_domain
from s2l.errors import UserError
from s2l.labs import Lab
from s2l.measure.distances import pairwise_l2
from s2l.measure.intervals import Pair, auc, paired_auc_difference
from s2l.measure.over_people import hierarchical_difference
from s2l.model.diffusion import DiffusionModel
from s2l.pipeline.membership import check_split
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.unshake import FineTuned, loss_at, loss_parts
from s2l.progress import Progress, silent

ALPHA = 0.05
THRESHOLD = 0.0  # a change of AUC whose interval lies above it withholds the weights
CANARIES = 4  # people of a lab whose photos are tried: those that the upload resembles most
HELD_OUT = 100  # photos of each of them
MOST = 1000  # held-out photos of a folder
W = 1.0  # of the un-shaken model
ATTACKERS = {
    "tuned": "the tuned model alone",
    "pair": "both models: the tuned one as the reference of the base",
    "un-shaken": "both models: a step from the tuned model beyond the base",
}


def canaries_of(lab: Lab, pictures: ImageSet, number: int, held_out: int) -> list[Domain]:
    """The `number` people of a lab whose photos the pictures resemble most, by the mean l2 to each one's nearest photo.

    No names are needed: an upload says whatever it likes about who is on it. Raises UserError for a lab that was
    trained on nobody.
    """
    trained = [person for person in lab.people if person.trained]
    if not trained:
        raise UserError(f"the lab {lab.name} was trained on no photo of its people: there is nothing to leak")
    domains = [lab_domain(lab, DomainConfig(name=person.name, n_nonmembers=held_out)) for person in trained]
    far = [pairwise_l2(pictures.images, each.membership.members.images).min(axis=1).mean() for each in domains]
    return [domains[i] for i in np.argsort(far, kind="stable")[:number]]


def release_audit(
    base: Subject,
    tuned: FineTuned,
    canaries: Sequence[Domain],
    alpha: float = ALPHA,
    seed: int = 0,
    stages: Stages | None = None,
) -> dict:
    """Compare what each attacker learns of the canaries with what the base model alone gives away.

    Returns what `s2l gate --tuned` writes under "release" (docs/result-schema.md). Raises UserError for canaries that
    are too few to measure anything.
    """
    if not canaries:
        raise UserError("a release audit needs canaries: photos that the base model was trained on, and held-out ones")
    for domain in canaries:
        check_split(domain)
    config = AuditConfig(attacks=("loss",), seed=seed, noise="content")
    stages, scores = stages or Stages(), []
    for domain in canaries:
        parts = loss_parts(base, tuned.subject, domain, config, stages)
        scores.append(_of_attackers(parts, len(domain.membership.members), config.shake_weight))
    confidence = 1 - 2 * alpha / len(ATTACKERS)
    rows = [_compared(name, scores, confidence) for name in ATTACKERS]
    return {
        "refused": any(row["leaks"] for row in rows),
        "threshold": THRESHOLD,
        "alpha": alpha,
        "attack": "loss",
        "base_auc": float(np.mean([auc(*each["base"]) for each in scores])),
        "attackers": rows,
        "canaries": [
            {"name": domain.name, "members": len(domain.membership.members),
             "held_out": len(domain.membership.nonmembers)}
            for domain in canaries
        ],
        "scores": {
            name: [{"members": m.tolist(), "held_out": n.tolist()} for m, n in (each[name] for each in scores)]
            for name in ("base", *ATTACKERS)
        },
    }  # fmt: skip


def _of_attackers(parts: np.ndarray, n_members: int, weight: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"base" or attacker: scores of members and of held-out photos} from L_base, L_tuned and G (N, 3)."""
    before, after = -parts[:, 0], -parts[:, 1]
    every = {
        "base": before,
        "tuned": after,
        "pair": shake_calibrated(before, after, "reference", weight),
        "un-shaken": loss_at(parts, W),
    }
    return {name: (scores[:n_members], scores[n_members:]) for name, scores in every.items()}


def _compared(name: str, scores: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], confidence: float) -> dict:
    """One attacker against the base model alone: over people, or over the photos of a single one."""
    before: list[Pair] = [each["base"] for each in scores]
    after: list[Pair] = [each[name] for each in scores]
    if len(scores) > 1:
        change = hierarchical_difference(before, after, confidence=confidence)
    else:
        change = paired_auc_difference(*before[0], *after[0], confidence=confidence)
    return {
        "attacker": name,
        "title": ATTACKERS[name],
        "auc": float(np.mean([auc(*pair) for pair in after])),
        "difference": asdict(change),
        "leaks": change.low > THRESHOLD,
    }


def audit_release(
    model: DiffusionModel,
    lab: Lab | None,
    tuned: FineTuned,
    upload: Path,
    folders: tuple[Path, Path] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict:
    """The release audit of a model that was fine-tuned on `upload`, as `s2l gate` runs it.

    `folders` are (private photos, held-out photos); without them a lab's own people are tried. Raises UserError for
    folders without usable photos.
    """
    if folders is not None:
        name = folders[0].resolve().name
        config = DomainConfig(name=name, members=str(folders[0]), nonmembers=str(folders[1]), n_nonmembers=MOST)
        canaries = [folder_domain(config, model.resolution)]
    elif lab is not None:
        canaries = canaries_of(lab, load_folder(upload, model.resolution, "")[0], CANARIES, HELD_OUT)
    else:
        raise UserError("this model is not a lab: the release audit needs private photos and held-out ones")
    return release_audit(Subject.of(model), tuned, canaries, seed=seed, stages=Stages(progress=progress))
