"""TPR at a bounded FPR: on the images under test, and at a threshold frozen on other people's images.

Notation and rule as in metrics.py: m scores of members (N,), n of non-members (M,); an image is called a member when
its score >= threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l.measure import nonmembers_needed
from s2l.measure.intervals import (
    Interval,
    Scores,
    binomial_interval,
    check_confidence,
    check_pair,
    check_scores,
    constant_interval,
)


@dataclass(frozen=True)
class OperatingPoint:
    """TPR at an FPR. Everything measured is None when non-members are too few, and `note` says why."""

    target_fpr: float
    tpr: float | None
    low: float | None
    high: float | None
    realised_fpr: float | None
    threshold: float | None
    n_members: int
    n_nonmembers: int
    note: str


@dataclass(frozen=True)
class PooledPoint:
    """TPR and FPR over all people at one frozen threshold. The cluster intervals are None for a single person."""

    threshold: float
    tpr: float
    tpr_exact: Interval
    tpr_cluster: Interval | None
    realised_fpr: float
    fpr_exact: Interval
    fpr_cluster: Interval | None
    n_domains: int
    n_members: int
    n_nonmembers: int


@dataclass(frozen=True)
class FrozenPoint:
    """TPR and realised FPR at a threshold frozen on other held-out photos. `point` is None when those were too few."""

    target_fpr: float
    n_calibration: int  # held-out photos that the threshold is frozen on
    point: PooledPoint | None
    note: str


def _allowed_false_positives(target_fpr: float, n_nonmembers: int) -> int:
    """How many of the non-members may be called members; 0 when they are too few for this FPR."""
    if not 0 < target_fpr < 1:
        raise ValueError(f"target_fpr is a fraction between 0 and 1, such as 0.01; got {target_fpr}")
    allowed = math.floor(target_fpr * n_nonmembers + 1e-9)  # 0.07 * 100 is 7.000000000000001, 0.29 * 100 is 28.99...
    return min(allowed, n_nonmembers - 1)


def _too_few(target_fpr: float, n_nonmembers: int) -> str:
    needed = nonmembers_needed(target_fpr)
    return f"too few non-members for this FPR: needs at least {needed}, has {n_nonmembers}"


def threshold_for_fpr(n: Scores, target_fpr: float) -> float:
    """The lowest threshold at which at most target_fpr of the non-members n (M,) have score >= threshold.

    Conservative: with ties the realised FPR is below the target; it never exceeds it. On *other* non-members of
    the same distribution the expected FPR is (k + 1) / (M + 1), k = floor(target_fpr * M): calibrate on many.
    ValueError when target_fpr * M < 1.
    """
    scores = check_scores(n, "non-member scores")
    allowed = _allowed_false_positives(target_fpr, len(scores))
    if allowed == 0:
        raise ValueError(_too_few(target_fpr, len(scores)))
    first_rejected = np.sort(scores)[-allowed - 1]
    # Step up in the precision the scores came in: a step of float64 would round away next to float32 scores.
    dtype = np.asarray(n).dtype
    dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
    return float(np.nextafter(first_rejected.astype(dtype), np.array(np.inf, dtype)))


def tpr_at_fpr(m: Scores, n: Scores, target_fpr: float, confidence: float = 0.95) -> OperatingPoint:
    """The share of members m (N,) found while at most target_fpr of the non-members n (M,) are accused.

    The metric of Carlini et al. (2022, "Membership inference attacks from first principles"). low and high are the
    exact binomial interval of the TPR *at this threshold*. They ignore that the threshold itself depends on the few
    highest non-members, which matters: as an interval of the TPR at a *true* FPR of 1 % they cover 33 %, 59 % and 91 %
    of the time with 100, 400 and 4000 non-members (400 members; results/coverage.json). If the threshold depends on
    fewer than ten non-members, `note` says on how many. For a claim use pooled_tpr at a frozen threshold.

    With target_fpr * M < 1 there is nothing to measure: the numbers are None and `note` says how many it takes.
    """
    members, nonmembers = check_pair(m, n)
    N, M = len(members), len(nonmembers)
    check_confidence(confidence)
    if _allowed_false_positives(target_fpr, M) == 0:
        return OperatingPoint(target_fpr, None, None, None, None, None, N, M, _too_few(target_fpr, M))
    threshold = threshold_for_fpr(n, target_fpr)
    hits = int(np.count_nonzero(members >= threshold))
    false_alarms = int(np.count_nonzero(nonmembers >= threshold))
    interval = binomial_interval(hits, N, confidence)
    note = f"the realised FPR rests on {false_alarms} of {M} non-members" if false_alarms < 10 else ""
    return OperatingPoint(target_fpr, hits / N, interval.low, interval.high, false_alarms / M, threshold, N, M, note)


def pooled_tpr(
    threshold: float,
    members_by_domain: Sequence[Scores],
    nonmembers_by_domain: Sequence[Scores],
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> PooledPoint:
    """TPR and realised FPR over all people at one threshold, frozen beforehand on *calibration* people.

    members_by_domain[d] (N_d,) and nonmembers_by_domain[d] (M_d,) are the scores of person d, who was not among the
    calibration people: threshold = threshold_for_fpr(calibration non-members, target_fpr).

    There are two intervals per rate. The exact one treats images as independent, which photos of one person are not;
    the cluster one resamples people and so applies to other people too. Quote the wider: with few people the cluster
    interval is too narrow.
    """
    if len(members_by_domain) != len(nonmembers_by_domain) or len(members_by_domain) == 0:
        raise ValueError(
            "need members and non-members of the same people, at least one; "
            f"got {len(members_by_domain)} and {len(nonmembers_by_domain)} domains"
        )
    if not math.isfinite(threshold):
        raise ValueError(
            f"threshold must be a finite number, from threshold_for_fpr on calibration people; got {threshold}"
        )
    confidence = check_confidence(confidence)
    D = len(members_by_domain)
    people = np.random.default_rng(seed).integers(D, size=(n_resamples, D))  # the same people for both rates

    def rate(by_domain: Sequence[Scores], who: str) -> tuple[float, Interval, Interval | None, int]:
        scores = [check_scores(s, f"{who} of domain {d}") for d, s in enumerate(by_domain)]
        above = np.array([np.count_nonzero(s >= threshold) for s in scores])
        total = np.array([len(s) for s in scores])
        exact = binomial_interval(int(above.sum()), int(total.sum()), confidence)
        cluster = None
        if D > 1:
            rates = above[people].sum(axis=1) / total[people].sum(axis=1)
            low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
            cluster = Interval(float(low), float(high), confidence, f"percentile bootstrap over {D} domains")
            if np.ptp(rates) == 0:  # every resample has the same rate
                cluster = constant_interval(float(rates[0]), D, 0, 1, confidence, "domains")
        return float(above.sum() / total.sum()), exact, cluster, int(total.sum())

    tpr, tpr_exact, tpr_cluster, N = rate(members_by_domain, "members")
    fpr, fpr_exact, fpr_cluster, M = rate(nonmembers_by_domain, "non-members")
    return PooledPoint(float(threshold), tpr, tpr_exact, tpr_cluster, fpr, fpr_exact, fpr_cluster, D, N, M)


def frozen_tpr(
    calibration_nonmembers: Scores,
    members_by_domain: Sequence[Scores],
    nonmembers_by_domain: Sequence[Scores],
    target_fpr: float,
    confidence: float = 0.95,
) -> FrozenPoint:
    """`pooled_tpr` at the threshold that `calibration_nonmembers` (K,) allow for target_fpr.

    They must not belong to anyone under test. With target_fpr * K < 1 there is no threshold, and `note`
    says how many it takes.
    """
    scores = check_scores(calibration_nonmembers, "calibration non-member scores")
    allowed = _allowed_false_positives(target_fpr, len(scores))
    if allowed == 0:
        return FrozenPoint(target_fpr, len(scores), None, _too_few(target_fpr, len(scores)))
    threshold = threshold_for_fpr(calibration_nonmembers, target_fpr)
    note = f"the threshold rests on {allowed} of {len(scores)} calibration non-members" if allowed < 10 else ""
    point = pooled_tpr(threshold, members_by_domain, nonmembers_by_domain, confidence)
    return FrozenPoint(target_fpr, len(scores), point, note)
