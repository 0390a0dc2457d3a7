"""What an attack achieves: ROC, AUC, TPR at a low FPR, the most exposed images, evidence about a whole set.

One law: a higher score means "more likely a member". m are the scores of members, (N,), n those of non-members,
(M,); they are separate arrays, so labels cannot be swapped by accident. The decision rule everywhere is

    call an image a member when score >= threshold

Intervals live in s2l/intervals.py and are exported from here too. Every result is a frozen dataclass of plain
floats, strings, lists and None: json.dumps(asdict(result), allow_nan=False) works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_curve

from s2l.measure import nonmembers_needed
from s2l.measure.intervals import (
    HierarchicalMean,
    Interval,
    PairedDifference,
    Scores,
    auc,
    binomial_interval,
    bootstrap_interval,
    check_confidence,
    check_scores,
    constant_interval,
    delong_interval,
    hierarchical_difference,
    hierarchical_mean,
    paired_auc_difference,
    paired_bootstrap_difference,
)

__all__ = [
    "AttackSummary",
    "BestAccuracy",
    "ExposedImage",
    "FrozenPoint",
    "HierarchicalMean",
    "Histogram",
    "Interval",
    "OperatingPoint",
    "PairedDifference",
    "PooledPoint",
    "Roc",
    "SetEvidence",
    "auc",
    "best_accuracy",
    "binomial_interval",
    "bootstrap_interval",
    "delong_interval",
    "frozen_tpr",
    "hierarchical_difference",
    "hierarchical_mean",
    "histogram",
    "most_exposed",
    "paired_auc_difference",
    "paired_bootstrap_difference",
    "pooled_tpr",
    "roc",
    "set_evidence",
    "summary",
    "threshold_for_fpr",
    "tpr_at_fpr",
]


WHISKERS = 4.0  # normal scores never reach that far: there the inner 99 % decide


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
    """TPR and realised FPR at a threshold that other non-members froze. `point` is None when those were too few."""

    target_fpr: float
    n_calibration: int  # non-members that froze the threshold
    point: PooledPoint | None
    note: str


@dataclass(frozen=True)
class SetEvidence:
    p_value: float  # one-sided; small = the set as a whole was trained on
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


def _check(m: Scores, n: Scores) -> tuple[np.ndarray, np.ndarray]:
    return check_scores(m, "member scores"), check_scores(n, "non-member scores")


# ---------------------------------------------------------------------------------------------- the curve


def roc(m: Scores, n: Scores) -> Roc:
    """All points of the ROC curve of m (N,) against n (M,), from (0, 0) to (1, 1); one point a distinct score.

    Same as sklearn.metrics.roc_curve(drop_intermediate=False), but for the first threshold: sklearn's infinity is
    the next number above the highest score here, which means the same ("nobody is a member") and survives JSON.
    """
    m, n = _check(m, n)
    labels = np.concatenate([np.ones(len(m)), np.zeros(len(n))])
    fpr, tpr, thresholds = roc_curve(labels, np.concatenate([m, n]), drop_intermediate=False)
    thresholds[0] = np.nextafter(thresholds[1], np.inf)
    return Roc(fpr.tolist(), tpr.tolist(), thresholds.tolist())


def best_accuracy(m: Scores, n: Scores) -> BestAccuracy:
    """The highest balanced accuracy (TPR + 1 - FPR) / 2 over all thresholds, called ASR in the literature.

    Optimistic: the threshold is chosen on the very scores that it is judged on, so useless scores of a small
    sample reach more than 0.5. Quote it to compare with papers, not as what an attacker would achieve.
    """
    curve = roc(m, n)
    accuracies = (np.array(curve.tpr) + 1 - np.array(curve.fpr)) / 2
    best = int(accuracies.argmax())
    return BestAccuracy(float(accuracies[best]), curve.thresholds[best], curve.tpr[best], curve.fpr[best])


# ---------------------------------------------------------------------------------------------- TPR at a low FPR


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

    Conservative: with ties the realised FPR falls below the target, it never exceeds it. On *other* non-members of
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
    exact binomial interval of the TPR *at this threshold*. They leave out that the threshold itself rests on the few
    highest non-members, and that is no detail: as an interval of the TPR at a *true* FPR of 1 % they cover 33 %, 59 %
    and 91 % of the time with 100, 400 and 4000 non-members (400 members; results/coverage.json). `note` says on how
    many non-members the threshold rests when they are under ten. For a claim use pooled_tpr at a frozen threshold.

    With target_fpr * M < 1 there is nothing to measure: the numbers are None and `note` says how many it takes.
    """
    members, nonmembers = _check(m, n)
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

    Two intervals a rate. The exact one takes images as independent, which photos of one person are not; the cluster
    one resamples people and speaks of other people too. Quote the wider: with few people the cluster interval is too
    narrow.
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
    drawn = np.random.default_rng(seed).integers(D, size=(n_resamples, D))  # people, the same ones for both rates

    def rate(by_domain: Sequence[Scores], who: str) -> tuple[float, Interval, Interval | None, int]:
        scores = [check_scores(s, f"{who} of domain {d}") for d, s in enumerate(by_domain)]
        above = np.array([np.count_nonzero(s >= threshold) for s in scores])
        total = np.array([len(s) for s in scores])
        exact = binomial_interval(int(above.sum()), int(total.sum()), confidence)
        cluster = None
        if D > 1:
            rates = above[drawn].sum(axis=1) / total[drawn].sum(axis=1)
            low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
            cluster = Interval(float(low), float(high), confidence, f"percentile bootstrap over {D} domains")
            if np.ptp(rates) == 0:  # nobody hit, or everybody
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

    They must be nobody's under test. With target_fpr * K < 1 there is no threshold, and `note` says how many it takes.
    """
    scores = check_scores(calibration_nonmembers, "calibration non-member scores")
    allowed = _allowed_false_positives(target_fpr, len(scores))
    if allowed == 0:
        return FrozenPoint(target_fpr, len(scores), None, _too_few(target_fpr, len(scores)))
    threshold = threshold_for_fpr(calibration_nonmembers, target_fpr)
    note = f"the threshold rests on {allowed} of {len(scores)} calibration non-members" if allowed < 10 else ""
    point = pooled_tpr(threshold, members_by_domain, nonmembers_by_domain, confidence)
    return FrozenPoint(target_fpr, len(scores), point, note)


# ---------------------------------------------------------------------------------------------- sets and images


def set_evidence(m: Scores, n: Scores) -> SetEvidence:
    """Was the set as a whole trained on? One-sided test of suspect scores m (N,) against known non-members n (M,).

    Dataset inference in the manner of CDI (Dubinski et al. 2025, arXiv 2411.12858): an attack too weak to judge one
    image can still be sure about a hundred. CDI uses Welch's t-test; this is the Mann-Whitney test. Under the null
    both groups are a random split of one distribution, hence exchangeable, which is all a rank test asks, while the
    t-test also asks for means that are near normal, and scores such as ||eps||_4^4 have heavy tails. It costs next
    to no power (relative efficiency .955 on normal scores, more on heavy tails), and its statistic is N M AUC, so
    the p-value and the ROC curve on the same page speak of one quantity.

    The p-value holds only if nothing about the attack was tuned on these images and both groups come from one
    source: a difference between the sources is "evidence" as well.
    """
    m, n = _check(m, n)
    test = mannwhitneyu(m, n, alternative="greater")
    return SetEvidence(
        float(test.pvalue), auc(m, n), float(test.statistic), "Mann-Whitney U, one-sided", len(m), len(n)
    )


def histogram(m: Scores, n: Scores, bins: int = 40) -> Histogram:
    """Counts of m (N,) and n (M,) over shared equal bins.

    The edges span the inner 99 % of each group, but no more than WHISKERS interquartile ranges beyond the quartiles of
    all scores, so that a few wild scores (fourth powers have them) cannot squeeze the rest into a single bar; what lies
    outside counts in the outermost bin.
    """
    m, n = _check(m, n)
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins}")
    low, high = (pick(np.quantile(m, q), np.quantile(n, q)) for pick, q in ((min, 0.005), (max, 0.995)))
    first, third = np.quantile(np.concatenate([m, n]), [0.25, 0.75])
    if (reach := WHISKERS * (third - first)) > 0:
        low, high = max(low, first - reach), min(high, third + reach)
    # Equal (or all but equal) scores: open a window wide enough for distinct edges.
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
