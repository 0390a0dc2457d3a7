"""How well an attack works: ROC, its summary, the most exposed images, evidence about a whole set.

One rule: a higher score means "more likely a member". m are the scores of members, (N,), n those of non-members,
(M,); they are separate arrays, so labels cannot be swapped by accident. The decision rule everywhere is

    call an image a member when score >= threshold

Intervals live in intervals.py, TPR at a low FPR in operating_points.py. Every result is a frozen dataclass of plain
floats, strings, lists and None: json.dumps(asdict(result), allow_nan=False) works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_curve

from s2l.measure.intervals import Interval, Scores, auc, bootstrap_interval, check_pair, check_scores, delong_interval
from s2l.measure.operating_points import OperatingPoint, tpr_at_fpr

WHISKERS = 4.0  # normal scores never reach that far, so for them the inner 99 % decide


@dataclass(frozen=True)
class Roc:
    fpr: list[float]
    tpr: list[float]
    thresholds: list[float]  # falling; at thresholds[i] the rule gives (fpr[i], tpr[i])


@dataclass(frozen=True)
class BestAccuracy:
    balanced_accuracy: float
    threshold: float
    tpr: float
    fpr: float


@dataclass(frozen=True)
class SetEvidence:
    p_value: float  # one-sided; a small value is evidence that the set as a whole was trained on
    effect: float  # AUC of the set against the known non-members; 0.5 = no effect
    statistic: float
    method: str
    n_members: int
    n_nonmembers: int


@dataclass(frozen=True)
class Histogram:
    edges: list[float]  # bins + 1
    members: list[int]  # counts, they add up to N
    nonmembers: list[int]  # counts, they add up to M


@dataclass(frozen=True)
class ExposedImage:
    """One member image. An fpr_rank of 0.02 means: 2 % of the non-members score at least as high."""

    index: int
    score_before: float
    score_after: float
    fpr_rank_before: float
    fpr_rank_after: float


@dataclass(frozen=True)
class AttackSummary:
    auc: float
    delong: Interval
    bootstrap: Interval
    best_accuracy: BestAccuracy
    tpr_at_fpr: list[OperatingPoint]
    n_members: int
    n_nonmembers: int


# ---------------------------------------------------------------------------------------------- the curve


def roc(m: Scores, n: Scores) -> Roc:
    """All points of the ROC curve of m (N,) against n (M,), from (0, 0) to (1, 1); one point per distinct score.

    Same as sklearn.metrics.roc_curve(drop_intermediate=False), except for the first threshold: sklearn has infinity
    there, this the next number above the highest score, which means the same ("no image is a member") and survives
    JSON.
    """
    m, n = check_pair(m, n)
    labels = np.concatenate([np.ones(len(m)), np.zeros(len(n))])
    fpr, tpr, thresholds = roc_curve(labels, np.concatenate([m, n]), drop_intermediate=False)
    thresholds[0] = np.nextafter(thresholds[1], np.inf)
    return Roc(fpr.tolist(), tpr.tolist(), thresholds.tolist())


def best_accuracy(m: Scores, n: Scores) -> BestAccuracy:
    """The highest balanced accuracy (TPR + 1 - FPR) / 2 over all thresholds, called ASR in the literature.

    Optimistic: the threshold is chosen and evaluated on the same scores, so useless scores of a small
    sample reach more than 0.5. Quote it to compare with papers, not as what an attacker would achieve.
    """
    curve = roc(m, n)
    accuracies = (np.array(curve.tpr) + 1 - np.array(curve.fpr)) / 2
    best = int(accuracies.argmax())
    return BestAccuracy(float(accuracies[best]), curve.thresholds[best], curve.tpr[best], curve.fpr[best])


# ---------------------------------------------------------------------------------------------- sets and images


def set_evidence(m: Scores, n: Scores) -> SetEvidence:
    """Was the set as a whole trained on? One-sided test of suspect scores m (N,) against known non-members n (M,).

    Dataset inference in the manner of CDI (Dubinski et al. 2025, arXiv 2411.12858): an attack too weak for a single
    image can still be certain about a hundred. CDI uses Welch's t-test; this is the Mann-Whitney test. Under the null
    both groups are a random split of one distribution, hence exchangeable, which is all a rank test needs, while the
    t-test also needs nearly normal means, and scores such as ||eps||_4^4 have heavy tails. It costs next
    to no power (relative efficiency .955 on normal scores, more on heavy tails), and its statistic is N M AUC, so
    the p-value and the ROC curve on the same page are about the same quantity.

    The p-value holds only if nothing about the attack was tuned on these images and both groups come from one
    source: a difference between the sources is "evidence" as well.
    """
    m, n = check_pair(m, n)
    test = mannwhitneyu(m, n, alternative="greater")
    return SetEvidence(
        float(test.pvalue), auc(m, n), float(test.statistic), "Mann-Whitney U, one-sided", len(m), len(n)
    )


def histogram(m: Scores, n: Scores, bins: int = 40) -> Histogram:
    """Counts of m (N,) and n (M,) over shared equal bins.

    The edges span the inner 99 % of each group, but no more than WHISKERS interquartile ranges beyond the quartiles of
    all scores, so that a few extreme scores (as fourth powers have) cannot squeeze the rest into a single bar; scores
    outside count in the outermost bin.
    """
    m, n = check_pair(m, n)
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}")
    low, high = (pick(np.quantile(m, q), np.quantile(n, q)) for pick, q in ((min, 0.005), (max, 0.995)))
    first, third = np.quantile(np.concatenate([m, n]), [0.25, 0.75])
    if (reach := WHISKERS * (third - first)) > 0:
        low, high = max(low, first - reach), min(high, third + reach)
    # Equal (or nearly equal) scores: make the range wide enough for distinct edges.
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = 0.5 * max(abs(low), 1e-12)
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, bins + 1)
    members, nonmembers = (np.histogram(np.clip(scores, low, high), edges)[0].tolist() for scores in (m, n))
    return Histogram(edges.tolist(), members, nonmembers)


def most_exposed(
    scores_before: Scores,
    scores_after: Scores,
    n_reference_before: Scores,
    n_reference_after: Scores,
    top: int = 10,
) -> list[ExposedImage]:
    """The `top` member images by score after, each with its rank among the non-members before and after.

    scores_before, scores_after (N,): the same members in the same order. n_reference_* (M,): non-members. The rank
    is the share of non-members that score at least as high: the FPR one accepts to call this image a member. Unlike
    raw scores it compares before with after; 0 means "below 1 / M", not "never".
    """
    before, after = check_scores(scores_before, "scores before"), check_scores(scores_after, "scores after")
    reference_before = check_scores(n_reference_before, "non-member scores before")
    reference_after = check_scores(n_reference_after, "non-member scores after")
    for who, a, b in (("members", before, after), ("non-members", reference_before, reference_after)):
        if len(a) != len(b):
            raise ValueError(f"need the same {who} before and after; got {len(a)} before and {len(b)} after")
    if top < 1:
        raise ValueError(f"top must be at least 1; got {top}")

    def fpr_rank(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
        below = np.searchsorted(np.sort(reference), scores, side="left")
        return (len(reference) - below) / len(reference)

    rank_before, rank_after = fpr_rank(before, reference_before), fpr_rank(after, reference_after)
    order = np.argsort(-after, kind="stable")[:top]  # stable: equal scores keep the order of the images
    return [
        ExposedImage(int(i), float(before[i]), float(after[i]), float(rank_before[i]), float(rank_after[i]))
        for i in order
    ]


def summary(
    m: Scores,
    n: Scores,
    fprs: Sequence[float] = (0.1, 0.01, 0.001),
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> AttackSummary:
    """Everything a report prints about one attack on one domain: m (N,) members, n (M,) non-members."""
    return AttackSummary(
        auc=auc(m, n),
        delong=delong_interval(m, n, confidence),
        bootstrap=bootstrap_interval(m, n, n_resamples, seed, confidence),
        best_accuracy=best_accuracy(m, n),
        tpr_at_fpr=[tpr_at_fpr(m, n, fpr, confidence) for fpr in fprs],
        n_members=len(m),
        n_nonmembers=len(n),
    )
