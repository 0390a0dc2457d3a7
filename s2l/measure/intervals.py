"""Intervals and tests for an AUC, for a change of AUC, and for a rate.

Notation
    m          scores of members, (N,); higher = more likely a member, as everywhere in this project
    n          scores of held-out photos, (M,)
    AUC        P(a random member scores higher than a random held-out photo), ties counted half
    placement  how many images of the other group score below one image (DeLong's "structural component", as a count)

Which one to use
    one person or domain                        delong_interval, paired_auc_difference
    the same, without a normal approximation    bootstrap_interval, paired_bootstrap_difference
    a claim about people in general             over_people.py
    a rate such as TPR at a given threshold     binomial_interval
    a mean over domains, such as a count        mean_interval
    a sample without any spread                 constant_interval; the others would have no width

Every result is plain floats, strings and lists: json.dumps(asdict(result), allow_nan=False) works.
tests/slow/test_coverage.py measures how often these intervals cover the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, rankdata
from scipy.stats import t as student_t

Scores = Sequence[float] | np.ndarray
Pair = tuple[Scores, Scores]  # (member scores, non-member scores) of one domain


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True)
class PairedDifference:
    """AUC after minus AUC before: positive if the attack is stronger after fine-tuning."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, of "no difference"
    method: str
    confidence: float
    per_domain: list[float] | None = None  # one difference per domain; None for a single domain


# ---------------------------------------------------------------------------------------------- validation


def check_scores(scores: Scores, name: str) -> np.ndarray:
    """`scores` as a float64 array (N,), or a ValueError that says what is wrong with them."""
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, one score per image: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), one score per image; got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one score")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite score(s) of {array.size}; find out why the attack made them"
        )
    return array


def check_pair(m: Scores, n: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Scores of members (N,) and non-members (M,) as float64 arrays. Raises ValueError for anything else."""
    return check_scores(m, "member scores"), check_scores(n, "non-member scores")


def check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a fraction between 0 and 1, such as 0.95; got {confidence}")
    return float(confidence)


def check_paired(before: np.ndarray, after: np.ndarray, who: str) -> None:
    if len(before) != len(after):
        raise ValueError(
            f"a paired comparison scores the same {who} in the same order before and after; "
            f"got {len(before)} before and {len(after)} after"
        )


# ---------------------------------------------------------------------------------------------- rates


def binomial_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a rate, `successes` of `trials` (Clopper & Pearson 1934).

    Covers with at least the stated confidence for every true rate and every number of trials.
    ValueError unless 0 <= successes <= trials and trials >= 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1; got {successes} of {trials}")
    interval = binomtest(int(successes), int(trials)).proportion_ci(check_confidence(confidence), method="exact")
    return Interval(float(interval.low), float(interval.high), float(confidence), "Clopper-Pearson (exact)")


# ---------------------------------------------------------------------------------------------- means


def constant_interval(
    value: float, n: int, least: float, most: float, confidence: float = 0.95, draws: str = "values"
) -> Interval:
    """Interval of a mean in [least, most] if each of n independent draws was `value`.

    Such a sample has no variance, but it proves nothing: if a share q of all draws were different, n equal ones would
    still occur with probability (1 - q)^n. The interval allows for every q at which this is at least 1 - confidence:
    the "rule of three", q < 3/n (Hanley & Lippman-Hand 1983), without its approximation. ValueError unless n >= 1.
    """
    if n < 1:
        raise ValueError(f"at least one draw is needed; got {n}")
    share = 1 - (1 - check_confidence(confidence)) ** (1 / n)
    low, high = value - share * (value - least), value + share * (most - value)
    return Interval(float(low), float(high), float(confidence), f"rule of three ({n} {draws} without any spread)")


def mean_interval(values: Scores, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of one number per domain, such as a count: values (N,), N >= 2.

    For few domains, a percentile bootstrap over them would be too narrow. ValueError for one value.
    """
    values = check_scores(values, "values")
    if len(values) < 2:
        raise ValueError("one value has no spread: an interval over domains needs at least two of them")
    half = student_t.ppf((1 + check_confidence(confidence)) / 2, len(values) - 1) * values.std(ddof=1)
    mean, half = values.mean(), half / math.sqrt(len(values))
    return Interval(float(mean - half), float(mean + half), float(confidence), f"Student t over {len(values)} domains")


# ---------------------------------------------------------------------------------------------- one AUC


def _placements(m: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) non-members below each member and (M,) members above each non-member; a tie counts half.

    The fast algorithm of Sun & Xu (2014): an image's midrank among all images less its midrank in its own
    group counts the other group's images below it, so sorting replaces the N x M comparisons. The counts are
    multiples of 1/2 and exact in floating point, so "no variance" below really is 0 and not 1e-34.
    """
    ranks = rankdata(np.concatenate([m, n]))
    return ranks[: len(m)] - rankdata(m), len(m) - (ranks[len(m) :] - rankdata(n))


def auc(m: Scores, n: Scores) -> float:
    """Area under the ROC curve of member scores m (N,) against non-member scores n (M,), in [0, 1].

    Equals sklearn's roc_auc_score and the Mann-Whitney U / (N M). 0.5 is chance. ValueError for bad scores.
    """
    m, n = check_pair(m, n)
    return float(_placements(m, n)[0].sum() / (len(m) * len(n)))


def _delong_variance(members_place: np.ndarray, nonmembers_place: np.ndarray) -> float:
    """Var(AUC) of DeLong et al. (1988) from placements; of a difference, from differences of placements.

    The difference form equals Var(after) + Var(before) - 2 Cov: the paired covariance needs no matrix.
    0 if a group has only one image: then it cannot be estimated, and callers use another method.
    """
    N, M = len(members_place), len(nonmembers_place)
    if N < 2 or M < 2:
        return 0.0
    return float(members_place.var(ddof=1) / (M**2 * N) + nonmembers_place.var(ddof=1) / (N**2 * M))


def _null_variance(theta: float, N: int, M: int) -> float:
    """Var(AUC) if the true AUC is theta: Hanley & McNeil (1982) with Newcombe's (2006) balanced sample size."""
    size = (N + M) / 2 - 1
    return theta * (1 - theta) * (1 + size * (1 - theta) / (2 - theta) + size * theta / (1 + theta)) / (N * M)


def newcombe_interval(estimate: float, N: int, M: int, confidence: float) -> Interval:
    """Wilson-like score interval of an AUC (Newcombe 2006, part 2, method 5).

    Contains every theta whose *own* variance makes the estimate plausible, so its width is sensible even at
    estimate = 1, where any variance estimated from the sample is 0.
    """
    z = norm.ppf((1 + confidence) / 2)

    def excess(theta: float) -> float:
        return (theta - estimate) ** 2 - z**2 * _null_variance(theta, N, M)

    # excess > 0 at the far ends and < 0 next to the estimate; the step away from 0 and 1 avoids the root there
    step = 1e-9
    low = brentq(excess, 0.0, min(estimate, 1 - step)) if estimate > 0 else 0.0
    high = brentq(excess, max(estimate, step), 1.0) if estimate < 1 else 1.0
    return Interval(float(low), float(high), confidence, "Newcombe score (scores without variance)")


def delong_interval(m: Scores, n: Scores, confidence: float = 0.95) -> Interval:
    """Interval of the AUC of m (N,) against n (M,): DeLong, DeLong & Clarke-Pearson (1988).

    Computed on the logit scale and mapped back, so it stays inside [0, 1] and is asymmetric near 1. Perfect
    separation (AUC 0 or 1), all scores tied, or a single image in a group leave no variance to estimate: then the
    interval is Newcombe's score interval, and `method` says so.
    """
    m, n = check_pair(m, n)
    confidence = check_confidence(confidence)
    members_place, nonmembers_place = _placements(m, n)
    estimate = members_place.sum() / (len(m) * len(n))
    variance = _delong_variance(members_place, nonmembers_place)
    if variance == 0:
        return newcombe_interval(estimate, len(m), len(n), confidence)
    half_width = norm.ppf((1 + confidence) / 2) * math.sqrt(variance) / (estimate * (1 - estimate))  # delta method
    low, high = expit(logit(estimate) + np.array([-half_width, half_width]))
    return Interval(float(low), float(high), confidence, "DeLong (logit)")


def _draw_counts(rng: np.random.Generator, size: int, n_resamples: int) -> np.ndarray:
    """(n_resamples, size): how often each of `size` images occurs in a resample with replacement."""
    picks = rng.integers(size, size=(n_resamples, size)) + size * np.arange(n_resamples)[:, None]
    return np.bincount(picks.ravel(), minlength=n_resamples * size).reshape(n_resamples, size)


def resampled_aucs(rng: np.random.Generator, conditions: Sequence[Pair], n_resamples: int) -> np.ndarray:
    """(n_resamples, conditions): AUCs of stratified resamples; all conditions use the same resampled images.

    A resample changes how often an image counts, never the order of the scores. So each condition is
    sorted once, and a member's placement in every resample is read off the cumulated non-member counts.
    """
    N, M = len(conditions[0][0]), len(conditions[0][1])
    sorted_conditions = []
    for members, nonmembers in conditions:
        m, n = np.asarray(members), np.asarray(nonmembers)
        order = np.argsort(n)
        below, not_above = (np.searchsorted(n[order], m, side) for side in ("left", "right"))
        sorted_conditions.append((order, below, not_above))

    aucs = np.empty((n_resamples, len(conditions)))
    block = max(1, 50_000 // (N + M))  # blocks that fit the processor's cache: twice as fast, and little memory
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        member_counts, nonmember_counts = _draw_counts(rng, N, stop - start), _draw_counts(rng, M, stop - start)
        for column, (order, below, not_above) in enumerate(sorted_conditions):
            cumulated = np.zeros((stop - start, M + 1), dtype=np.int64)
            np.cumsum(nonmember_counts[:, order], axis=1, out=cumulated[:, 1:])
            twice = (member_counts * (cumulated[:, below] + cumulated[:, not_above])).sum(axis=1)
            aucs[start:stop, column] = twice / (2 * N * M)
    return aucs


def percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Two-sided: the smallest 1 - confidence whose percentile interval excludes 0; at least 2 / (resamples + 1)."""
    one_sided = 1 + min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return float(min(1.0, 2 * one_sided / (len(differences) + 1)))


def bootstrap_interval(
    m: Scores, n: Scores, n_resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of the AUC, members (N,) and non-members (M,) resampled separately (Efron 1979).

    Perfect separation gives AUC 1 in every resample; then Newcombe's interval is used, and `method` says so.
    """
    m, n = check_pair(m, n)
    confidence = check_confidence(confidence)
    aucs = resampled_aucs(np.random.default_rng(seed), [(m, n)], n_resamples)[:, 0]
    if np.ptp(aucs) == 0:
        return newcombe_interval(auc(m, n), len(m), len(n), confidence)
    return Interval(*percentiles(aucs, confidence), confidence, f"stratified percentile bootstrap ({n_resamples})")


# ---------------------------------------------------------------------------------------------- a change of AUC


def _check_before_after(
    m_before: Scores, n_before: Scores, m_after: Scores, n_after: Scores
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    m_before, n_before = check_scores(m_before, "members before"), check_scores(n_before, "non-members before")
    m_after, n_after = check_scores(m_after, "members after"), check_scores(n_after, "non-members after")
    check_paired(m_before, m_after, "members")
    check_paired(n_before, n_after, "non-members")
    return m_before, n_before, m_after, n_after


def difference_without_variance(
    m_before: np.ndarray, n_before: np.ndarray, m_after: np.ndarray, n_after: np.ndarray, confidence: float
) -> PairedDifference:
    """The change of AUC if the sample shows no variance of it: no pair changed its order, or all changed alike.

    Only identical *scores*, that is the same model twice, have an interval of width 0.
    """
    if np.array_equal(m_before, m_after) and np.array_equal(n_before, n_after):
        return PairedDifference(0.0, 0.0, 0.0, 1.0, "identical scores before and after", confidence)
    N, M = len(m_before), len(n_before)
    if all(map(np.array_equal, _placements(m_before, n_before), _placements(m_after, n_after))):
        # The AUC is the mean over pairs of a member and a non-member, and min(N, M) of them share no image.
        equal = constant_interval(0.0, min(N, M), -1, 1, confidence, "pairs")
        return PairedDifference(
            0.0, equal.low, equal.high, 1.0, f"no pair changed its order; {equal.method}", confidence
        )

    # Newcombe's square-and-add: combine the two separate intervals, without credit for the pairing
    before, after = auc(m_before, n_before), auc(m_after, n_after)
    interval_before = newcombe_interval(before, N, M, confidence)
    interval_after = newcombe_interval(after, N, M, confidence)
    down = math.hypot(after - interval_after.low, interval_before.high - before)
    up = math.hypot(interval_after.high - after, before - interval_before.low)
    difference = after - before
    # p-value: a score test with the variance that both AUCs would have at their mean
    spread = math.sqrt(2 * _null_variance((before + after) / 2, N, M))
    p_value = 2 * norm.sf(abs(difference) / spread) if difference else 1.0
    method = "Newcombe square-and-add, unpaired (scores without variance)"
    low, high = max(-1.0, difference - down), min(1.0, difference + up)
    return PairedDifference(float(difference), float(low), float(high), float(p_value), method, confidence)


def paired_auc_difference(
    m_before: Scores, n_before: Scores, m_after: Scores, n_after: Scores, confidence: float = 0.95
) -> PairedDifference:
    """AUC after minus AUC before on the *same* images in the same order: DeLong et al. (1988), paired.

    m_before, m_after (N,); n_before, n_after (M,). Scores before and after need no common scale: only ranks
    matter. The p-value is two-sided. Where the sample shows no variance, `method` names the fallback.
    ValueError for bad scores or lengths that do not match.
    """
    scores = _check_before_after(m_before, n_before, m_after, n_after)
    confidence = check_confidence(confidence)
    before, after = _placements(*scores[:2]), _placements(*scores[2:])
    members_change, nonmembers_change = after[0] - before[0], after[1] - before[1]
    difference = members_change.mean() / len(nonmembers_change)
    deviation = math.sqrt(_delong_variance(members_change, nonmembers_change))
    if deviation == 0:
        return difference_without_variance(*scores, confidence)
    half_width = norm.ppf((1 + confidence) / 2) * deviation
    return PairedDifference(
        difference=float(difference),
        low=float(max(-1.0, difference - half_width)),
        high=float(min(1.0, difference + half_width)),
        p_value=float(2 * norm.sf(abs(difference) / deviation)),
        method="DeLong, paired",
        confidence=confidence,
    )


def paired_bootstrap_difference(
    m_before: Scores,
    n_before: Scores,
    m_after: Scores,
    n_after: Scores,
    n_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference:
    """As paired_auc_difference, by a percentile bootstrap that draws each image with both of its scores.

    The p-value cannot fall below 2 / (n_resamples + 1).
    """
    scores = _check_before_after(m_before, n_before, m_after, n_after)
    confidence = check_confidence(confidence)
    aucs = resampled_aucs(np.random.default_rng(seed), [scores[:2], scores[2:]], n_resamples)
    differences = aucs[:, 1] - aucs[:, 0]
    if np.ptp(differences) == 0:
        return difference_without_variance(*scores, confidence)
    low, high = percentiles(differences, confidence)
    method = f"paired percentile bootstrap ({n_resamples})"
    difference = auc(*scores[2:]) - auc(*scores[:2])
    return PairedDifference(difference, low, high, bootstrap_p_value(differences), method, confidence)
