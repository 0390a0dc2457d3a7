"""From scores to a verdict: a threshold set on honest uploads, and its false alarms.

An upload is judged as a whole: the statistic is the mean score of its pictures. Honest uploads of the same size are
sampled from groups of honest pictures, one group per person or folder. The threshold is set so that the share `alpha`
of them exceeds it. How often an honest upload is refused is measured by leaving out each group in turn, that is, on
people who were not used for the threshold: pictures of one person are alike, so only new people show what happens to a
new upload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from s2l.config import Settings
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import calibration_domains
from s2l.errors import UserError
from s2l.gates.registry import Upload, gate_settings, get_gate
from s2l.keys import key_of
from s2l.labs import Lab
from s2l.measure.intervals import Interval, mean_interval
from s2l.model.diffusion import DiffusionModel
from s2l.store import Store, read_json, write_json

ALPHA = 0.05  # the share of honest uploads that a threshold may refuse
DRAWS = 200  # honest uploads drawn from each group
MIN_GROUPS = 3  # with one left out, two remain: a single group does not show how people differ


@dataclass(frozen=True)
class Threshold:
    """An upload above `value` is refused; `false_alarm` is the share of honest uploads of left-out groups above it."""

    value: float
    false_alarm: float
    interval: Interval
    alpha: float
    n_groups: int


@dataclass(frozen=True)
class Verdict:
    """One gate's verdict on one upload: refused if `statistic`, the mean score, exceeds the threshold."""

    gate: str
    title: str
    question: str
    refused: bool
    statistic: float
    threshold: Threshold
    scores: tuple[float, ...]


def honest_groups(lab: Lab) -> list[ImageSet]:
    """Held-out photos of the lab's calibration people, one group per person: examples of honest uploads."""
    return [domain.membership.nonmembers for domain in calibration_domains(lab, "")]


def _statistics(scores: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) mean scores of uploads of `size` pictures of a group; with replacement only if the group is smaller."""
    replace = size > len(scores)
    return np.array([rng.choice(scores, size, replace=replace).mean() for _ in range(DRAWS)])


def threshold(groups: Sequence[np.ndarray], size: int, alpha: float = ALPHA, seed: int = 0) -> Threshold:
    """The threshold for uploads of `size` pictures, from `groups`: the scores (K,) of each group of honest pictures.

    Raises UserError for fewer than three groups.
    """
    if len(groups) < MIN_GROUPS:
        raise UserError(f"a threshold needs honest pictures of at least {MIN_GROUPS} people, not {len(groups)}")
    rng = np.random.default_rng(seed)
    uploads = [_statistics(np.asarray(scores, np.float64), size, rng) for scores in groups]

    def quantile(statistics: Sequence[np.ndarray]) -> float:
        return float(np.quantile(np.concatenate(statistics), 1 - alpha, method="higher"))

    refused = [
        float((statistics > quantile([*uploads[:i], *uploads[i + 1 :]])).mean()) for i, statistics in enumerate(uploads)
    ]
    interval = mean_interval(refused)
    clipped = Interval(max(0.0, interval.low), min(1.0, interval.high), interval.confidence, interval.method)
    return Threshold(quantile(uploads), float(np.mean(refused)), clipped, alpha, len(groups))


def decide(gate: str, scores: np.ndarray, honest: Sequence[np.ndarray], alpha: float = ALPHA, seed: int = 0) -> Verdict:
    """The verdict on an upload from its scores (N,) and those of each honest group, (K,).

    Raises UserError for an unknown gate and for fewer than three groups.
    """
    limit, statistic = threshold(honest, len(scores), alpha, seed), float(np.mean(scores, dtype=np.float64))
    entry = get_gate(gate)
    refused = statistic > limit.value
    return Verdict(gate, entry.title, entry.question, refused, statistic, limit, tuple(map(float, scores)))


def judge(
    name: str,
    model: DiffusionModel,
    upload: Upload,
    honest: Sequence[ImageSet],
    settings: dict | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Verdict:
    """Score an upload and the honest groups with one gate, and decide.

    Raises UserError for an unknown gate or setting, for fewer than three groups, and when the gate needs private photos
    and there are none.
    """
    gate, checked_settings = get_gate(name), gate_settings(name, settings)
    if gate.needs_private and upload.private is None:
        raise UserError(f"the gate {name!r} compares with private photos: give their folder", field="private")

    def scores_of(pictures: ImageSet) -> np.ndarray:
        scores: torch.Tensor = gate.score(model, Upload(pictures, upload.private), checked_settings)
        return scores.float().cpu().numpy()

    examples = _kept(name, checked_settings, model, upload.private, honest, scores_of)
    return decide(name, scores_of(upload.pictures), examples, alpha, seed)


def _kept(
    name: str,
    settings: Settings,
    model: DiffusionModel,
    private: ImageSet | None,
    honest: Sequence[ImageSet],
    scores_of: Callable[[ImageSet], np.ndarray],
) -> list[np.ndarray]:
    """The scores of the honest groups, from the cache: they are the same for every upload."""
    pictures = [group.images for group in (*honest, *((private,) if private is not None else ()))]
    contents = [hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest() for images in pictures]
    key = key_of("honest uploads", model.key, name, settings, contents)

    def work(folder: Path) -> None:
        write_json(folder / "scores.json", [scores_of(group).tolist() for group in honest])

    folder, _ = Store().stage("honest", key, work)
    return [np.array(scores, np.float64) for scores in read_json(folder / "scores.json")]
