"""Calibrations: attack scores improved by calibration data, or by a second model.

A calibration wraps the *scores* of any attack, so it knows no attack by name and imports none. There are two:

    Combination        alpha * S(first) + (1 - alpha) * S(second) of an attack with two components (CLiD), S and
                       alpha fitted on calibration people, never on the images under test
    shake_calibrated   the change of a score between the model before and after S2L

Convention: higher = more likely a member, before and after calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.metrics import roc_auc_score

from s2l.config import Settings
from s2l.errors import UserError

ALPHAS = tuple(round(0.1 * i, 1) for i in range(11))  # the grid of the published CLiD code


def _matrix(scores) -> np.ndarray:
    """Any array or tensor of scores as finite float64."""
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite: look for NaN in the attack")
    return scores


class RobustScale(Settings):
    """S(a) = (a - median) / IQR, with both fitted on calibration scores. JSON by `model_dump_json`.

    median   of the calibration scores
    iqr      their third quartile minus their first; 1 where that is 0, as in sklearn's RobustScaler
    """

    median: float
    iqr: float = Field(gt=0)

    @classmethod
    def fit(cls, scores) -> RobustScale:
        """Fit on the scores (N,) of calibration images, members and held-out photos together."""
        scores = _matrix(scores).ravel()
        if not len(scores):
            raise UserError("there are no calibration scores to fit a scale on: give at least one calibration person")
        low, middle, high = np.percentile(scores, [25, 50, 75])
        return cls(median=float(middle), iqr=float(high - low) or 1.0)

    def __call__(self, scores) -> np.ndarray:
        """Scaled scores, float64, of the same shape."""
        return (_matrix(scores) - self.median) / self.iqr


class Combination(Settings):
    """alpha * S1(first component) + (1 - alpha) * S2(second component): CLiD's equation 16. JSON round trip.

    Fit it once on the *base* model's scores of calibration people, freeze it, and use the same one before and after
    S2L: a difference between the two then comes from the model, not from the scale. `fitted_on` counts those people;
    0 stands for `Combination.uncalibrated()`.
    """

    alpha: float = Field(ge=0, le=1)
    scales: tuple[RobustScale, RobustScale]
    fitted_on: int = Field(0, ge=0)
    auc: float | None = None  # mean over the calibration people: optimistic, because alpha was chosen to maximise it

    @classmethod
    def uncalibrated(cls) -> Combination:
        """The fallback without calibration data: the first component alone, unscaled.

        At alpha = 1 the scale is a monotone map and cannot change a ROC, so nothing has to be guessed. Any other alpha
        would need the spread of both components, which only the images under test could give.
        """
        return cls(alpha=1.0, scales=(RobustScale(median=0.0, iqr=1.0),) * 2)

    @classmethod
    def fit(cls, people: Sequence[tuple], alphas: Sequence[float] = ALPHAS) -> Combination:
        """Fit on calibration people, each a pair (components of members (M, 2), of held-out photos (N, 2)).

        S is fitted on all their scores pooled. alpha is the one with the highest AUC averaged over people, because that
        is what the lab reports: pooling would also reward telling people apart. Of equal ones, the largest is taken.
        """
        people = [(_matrix(members), _matrix(nonmembers)) for members, nonmembers in people]
        if not people:
            raise UserError("there is no calibration person: fit on at least one, or use Combination.uncalibrated()")
        for members, nonmembers in people:
            if {members.ndim, nonmembers.ndim} != {2} or {members.shape[1], nonmembers.shape[1]} != {2}:
                raise ValueError(f"components must be (N, 2), not {members.shape} and {nonmembers.shape}")
            if not len(members) or not len(nonmembers):
                raise UserError("each calibration person needs members and held-out photos")
        pooled = np.concatenate([rows for pair in people for rows in pair])
        scales = (RobustScale.fit(pooled[:, 0]), RobustScale.fit(pooled[:, 1]))

        def candidate(alpha: float) -> Combination:
            combination = cls(alpha=alpha, scales=scales, fitted_on=len(people))
            aucs = [_auc(combination(members), combination(nonmembers)) for members, nonmembers in people]
            return combination.model_copy(update={"auc": float(np.mean(aucs))})

        # max keeps the first of equals.
        return max(map(candidate, sorted(alphas, reverse=True)), key=lambda combination: combination.auc or 0.0)

    def __call__(self, components) -> np.ndarray:
        """Components (N, 2), each higher = member -> scores (N,) float64, higher = member."""
        components = _matrix(components)
        if components.ndim != 2 or components.shape[1] != 2:
            raise ValueError(f"components must be (N, 2), not {components.shape}: see run_components")
        first, second = (scale(components[:, i]) for i, scale in enumerate(self.scales))
        return self.alpha * first + (1 - self.alpha) * second


def _auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    return roc_auc_score(np.r_[np.ones(len(members)), np.zeros(len(nonmembers))], np.r_[members, nonmembers])


def are_distances(*scores) -> bool:
    """Whether all scores are negated distances above 0, of which logarithms can be taken."""
    return all((_matrix(some) < 0).all() for some in scores)


def shake_calibrated(
    scores_before, scores_after, variant: Literal["difference", "log_ratio", "reference"] = "difference", weight=0.8
) -> np.ndarray:
    """An attack's score from both models together: (N,) float64, higher = more likely a member.

    scores_before, scores_after   (N,) of the same images with the same noise, higher = member
    difference   after - before. For a loss it is the decrease of the loss, as in a reference-model attack with the base
                 model as the reference.
    log_ratio    log(distance before / distance after) with distance = -score: the *relative* decrease. The spread of a
                 change grows with the distance itself (PIA's and SimA's are fourth powers), so that in a difference
                 the hardest images have the most noise; the logarithm removes that. It needs distances above 0:
                 Loss, SecMI, PIA, PIAN, SimA and SimA-MC have them, PFAMI and CLiD are differences already.
    reference    weight * log(distance after) - log(distance before): the fine-tuned model as the reference of the base
                 model (difficulty calibration, Watson et al. 2022). After training on pictures of its own, the model
                 still knows what the person looks like but forgets single photos, so the loss of a member rises more.
                 This assumes the opposite of the two above: that fine-tuning makes the model forget. `weight` in [0, 1]
                 is frozen on the lab's calibration people; 0 is the base model's score, 1 the likelihood ratio.

    Read the first two together. If S2L only scales all distances by one factor, the difference is that factor times the
    base score: it ranks members although the change contains nothing new, and log_ratio is the same for all images.

    Raises UserError for an unknown variant, scores of different shapes, or logarithms of scores that are no distances.
    """
    before, after = _matrix(scores_before), _matrix(scores_after)
    if before.shape != after.shape:
        raise UserError(f"scores before {before.shape} and after {after.shape} must be of the same images")
    if variant == "difference":
        return after - before
    if variant not in ("log_ratio", "reference"):
        raise UserError(f"unknown variant {variant!r} of shake_calibrated. Allowed: difference, log_ratio, reference")
    if not are_distances(before, after):
        raise UserError(
            f"{variant} needs scores that are negated distances, all below 0; these are not: use variant 'difference'"
        )
    ratio = np.log(-before) - np.log(-after)
    return ratio if variant == "log_ratio" else weight * np.log(-after) - np.log(-before)
