"""A lower bound of epsilon from an attack's scores: what differential privacy would forbid, did an attack achieve it?

If a training is (epsilon, delta)-DP, every attack on one unit has  TPR <= e^epsilon FPR + delta,  and the same for the
rates of the held-out photos, TNR <= e^epsilon FNR + delta (Kairouz et al. 2015, arXiv 1311.0776). Rates measured at a
threshold that was fixed on other people therefore bound epsilon from below (Jagielski et al. 2020, arXiv 2006.07709):

    epsilon >= max( log((TPR_low - delta) / FPR_high),  log((TNR_low - delta) / FNR_high),  0 )

with the ends of exact intervals (Clopper-Pearson). Both rates lie within theirs with the stated confidence together.
All photos come from one training: the intervals take them as independent trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from s2l.measure.intervals import Scores, binomial_interval, check_confidence, check_pair


@dataclass(frozen=True)
class EpsilonBound:
    """With the stated confidence, epsilon is at least `epsilon`. `largest` is what perfect scores would have shown."""

    epsilon: float
    largest: float
    threshold: float
    tpr: float
    fpr: float
    tpr_low: float
    fpr_high: float
    delta: float
    confidence: float
    n_members: int
    n_nonmembers: int


def _of_rates(tpr_low: float, fpr_high: float, delta: float) -> float:
    """Epsilon from the ends of the intervals. Both directions use the same two ends, as TNR_low = 1 - FPR_high."""
    ratios = ((tpr_low - delta, fpr_high), (1 - fpr_high - delta, 1 - tpr_low))
    return max([0.0, *(math.log(top / bottom) for top, bottom in ratios if top > 0 and bottom > 0)])


def _ends(hits: int, n: int, false_alarms: int, n_other: int, confidence: float) -> tuple[float, float]:
    """(TPR_low, FPR_high): each one-sided at half the error, so that both hold together with the confidence."""
    return binomial_interval(hits, n, confidence).low, binomial_interval(false_alarms, n_other, confidence).high


def epsilon_bound(m: Scores, n: Scores, threshold: float, delta: float, confidence: float = 0.95) -> EpsilonBound:
    """The bound that members' scores m (N,) and held-out photos' scores n (M,) prove at a threshold fixed elsewhere.

    A photo is called a member when its score >= threshold. Raises ValueError for unfit scores, or a delta outside
    [0, 1).
    """
    members, nonmembers = check_pair(m, n)
    check_confidence(confidence)
    if not 0 <= delta < 1:
        raise ValueError(f"delta is a probability below 1; got {delta}")
    N, M = len(members), len(nonmembers)
    hits, false_alarms = int(np.sum(members >= threshold)), int(np.sum(nonmembers >= threshold))
    low, high = _ends(hits, N, false_alarms, M, confidence)
    largest = _of_rates(*_ends(N, N, 0, M, confidence), delta)
    return EpsilonBound(
        _of_rates(low, high, delta), largest, float(threshold), hits / N, false_alarms / M, low, high, delta,
        confidence, N, M,
    )  # fmt: skip


def best_threshold(m: Scores, n: Scores, delta: float, confidence: float = 0.95) -> tuple[float, float]:
    """(threshold, its bound): the threshold whose bound is highest on these scores, of people who are not under test.

    The bound is then too high for these people: only other people's scores at this threshold prove one.
    """
    members, nonmembers = check_pair(m, n)
    N, M = len(members), len(nonmembers)
    best = (float(max(members.max(), nonmembers.max())), 0.0)
    for threshold in np.unique(members):
        counts = int(np.sum(members >= threshold)), N, int(np.sum(nonmembers >= threshold)), M
        bound = _of_rates(*_ends(*counts, confidence), delta)
        if bound > best[1]:
            best = float(threshold), bound
    return best
