"""metrics.py and intervals.py against sklearn, scipy and naive double loops."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest, kstest, norm, sem, t
from sklearn.metrics import roc_auc_score, roc_curve

from s2l.measure import intervals, metrics, operating_points, over_people
from s2l.measure.intervals import bootstrap_p_value, constant_interval, mean_interval, newcombe_interval


def random_scores(seed: int = 0, N: int = 60, M: int = 45, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, N), rng.normal(0, 1, M)


def tied_scores(seed: int = 0, N: int = 60, M: int = 45) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 7, N).astype(float), rng.integers(0, 6, M).astype(float)


CASES = [random_scores(0), random_scores(1, 7, 90), random_scores(2, shift=-1.0), tied_scores(0), tied_scores(1, 30, 9)]
cases = pytest.mark.parametrize("m, n", CASES)


def sklearn_form(m: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.r_[np.ones(len(m)), np.zeros(len(n))], np.r_[m, n]


def naive_placements(m: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components, by the definition: O(N M)."""
    wins = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in n] for a in m])
    return wins.mean(axis=1), wins.mean(axis=0)


# ---------------------------------------------------------------------------------------------- curve and AUC


@cases
def test_roc_and_auc_equal_sklearn(m, n):
    labels, scores = sklearn_form(m, n)
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    curve = metrics.roc(m, n)
    assert curve.fpr == fpr.tolist()
    assert curve.tpr == tpr.tolist()
    assert curve.thresholds[1:] == thresholds[1:].tolist()
    assert intervals.auc(m, n) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@cases
def test_every_roc_threshold_gives_its_point_by_the_rule(m, n):
    curve = metrics.roc(m, n)
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        assert (np.mean(n >= threshold), np.mean(m >= threshold)) == pytest.approx((fpr, tpr))


@cases
def test_swapping_the_groups_mirrors_the_auc(m, n):
    assert intervals.auc(m, n) == pytest.approx(1 - intervals.auc(n, m), abs=1e-12)
    forth, back = intervals.delong_interval(m, n), intervals.delong_interval(n, m)
    assert (forth.low, forth.high) == pytest.approx((1 - back.high, 1 - back.low))


@cases
def test_a_monotone_transform_changes_nothing(m, n):
    def transform(scores):
        return np.exp(scores / 2) * 3 - 7

    assert intervals.auc(m, n) == intervals.auc(transform(m), transform(n))
    assert intervals.delong_interval(m, n) == intervals.delong_interval(transform(m), transform(n))
    assert intervals.bootstrap_interval(m, n, 200) == intervals.bootstrap_interval(transform(m), transform(n), 200)
    assert metrics.set_evidence(m, n) == metrics.set_evidence(transform(m), transform(n))
    change = intervals.paired_auc_difference(m, n, transform(m), transform(n))
    assert (change.difference, change.p_value) == (0, 1) and "no pair changed its order" in change.method
    assert (
        operating_points.tpr_at_fpr(m, n, 0.2).tpr == operating_points.tpr_at_fpr(transform(m), transform(n), 0.2).tpr
    )


@cases
def test_best_accuracy_by_brute_force(m, n):
    best = metrics.best_accuracy(m, n)
    thresholds = np.append(np.r_[m, n], np.inf)
    assert best.balanced_accuracy == pytest.approx(max((np.mean(m >= t) + np.mean(n < t)) / 2 for t in thresholds))
    assert (np.mean(m >= best.threshold), np.mean(n >= best.threshold)) == pytest.approx((best.tpr, best.fpr))


# ---------------------------------------------------------------------------------------------- intervals of one AUC


@cases
def test_delong_variance_equals_the_naive_double_loop(m, n):
    v10, v01 = naive_placements(m, n)
    deviation = np.sqrt(v10.var(ddof=1) / len(m) + v01.var(ddof=1) / len(n))
    estimate = v10.mean()
    z = norm.ppf(0.95)  # both tails of a 90 % interval
    odds = np.log(estimate / (1 - estimate)) + np.array([-1, 1]) * z * deviation / (estimate * (1 - estimate))
    interval = intervals.delong_interval(m, n, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))), abs=1e-12)
    assert interval.method == "DeLong (logit)"


@cases
def test_bootstrap_agrees_with_explicit_resampling(m, n):
    rng = np.random.default_rng(5)
    naive = [intervals.auc(rng.choice(m, len(m)), rng.choice(n, len(n))) for _ in range(1000)]
    interval = intervals.bootstrap_interval(m, n, n_resamples=4000)
    tolerance = 0.25 * np.std(naive)  # Monte Carlo noise of a 2.5 % quantile is about 0.1 standard deviations
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])), abs=tolerance)


def test_bootstrap_of_many_scores_runs_in_several_blocks():
    m, n = random_scores(0, 3000, 3000)  # 6000 scores: several blocks of resamples
    interval = intervals.bootstrap_interval(m, n, n_resamples=700)
    delong = intervals.delong_interval(m, n)
    assert (interval.low, interval.high) == pytest.approx((delong.low, delong.high), abs=0.003)


@pytest.mark.parametrize("make", [intervals.delong_interval, intervals.bootstrap_interval])
def test_separated_scores_get_a_sensible_interval(make):
    high, low = np.arange(10.0) + 100, np.arange(8.0)
    perfect, inverted, tied = make(high, low), make(low, high), make(np.ones(10), np.ones(8))
    assert perfect.high == 1 and 0.5 < perfect.low < 1
    assert inverted.low == 0 and 0 < inverted.high < 0.5
    assert tied.low < 0.5 < tied.high
    assert all(interval.method.startswith("Newcombe") for interval in (perfect, inverted, tied))
    assert make(high + 0, low).low < make(np.arange(100.0) + 100, np.arange(80.0)).low  # more images, more certain
    single = make([1.0], [0.0])
    assert single.high == 1 and single.low < 0.5


def testnewcombe_interval_bounds_solve_the_score_equation():
    interval = newcombe_interval(0.8, 30, 50, 0.95)
    size = (30 + 50) / 2 - 1
    for theta in (interval.low, interval.high):
        q = 1 + size * (1 - theta) / (2 - theta) + size * theta / (1 + theta)
        assert (0.8 - theta) ** 2 == pytest.approx(norm.ppf(0.975) ** 2 * theta * (1 - theta) * q / 1500, rel=1e-6)


@pytest.mark.parametrize("successes, trials", [(0, 5), (5, 5), (3, 400), (1, 1)])
def test_binomial_interval_is_scipys_exact_one(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.9, method="exact")
    interval = intervals.binomial_interval(successes, trials, 0.9)
    assert (interval.low, interval.high) == (expected.low, expected.high)


def test_mean_interval_is_scipys_t():
    values = [0.1, 0.4, 0.0, 0.9, 0.3]
    found = mean_interval(values, 0.9)
    assert (found.low, found.high) == pytest.approx(t.interval(0.9, 4, np.mean(values), sem(values)))
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([1.0])


# ---------------------------------------------------------------------------------------------- change of AUC


def before_and_after(seed: int = 0, gain: float = 0.5, make=random_scores):
    (m, n), rng = make(seed), np.random.default_rng(seed + 100)
    return m, n, m + gain + rng.normal(0, 0.5, len(m)).round(0), n + rng.normal(0, 0.5, len(n)).round(0)


@pytest.mark.parametrize("make", [random_scores, tied_scores])
def test_paired_difference_equals_the_naive_covariance_matrix(make):
    m0, n0, m1, n1 = before_and_after(make=make)
    (a10, a01), (b10, b01) = naive_placements(m0, n0), naive_placements(m1, n1)
    covariance = np.cov([a10, b10]) / len(m0) + np.cov([a01, b01]) / len(n0)
    deviation = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = b10.mean() - a10.mean()
    change = intervals.paired_auc_difference(m0, n0, m1, n1)
    assert change.difference == pytest.approx(difference, abs=1e-12)
    assert change.difference == pytest.approx(intervals.auc(m1, n1) - intervals.auc(m0, n0), abs=1e-12)
    assert (change.low, change.high) == pytest.approx(
        (difference - 1.959964 * deviation, difference + 1.959964 * deviation)
    )
    assert change.p_value == pytest.approx(2 * norm.sf(abs(difference) / deviation))


@pytest.mark.parametrize("compare", [intervals.paired_auc_difference, intervals.paired_bootstrap_difference])
def test_sign_and_significance_of_a_change(compare):
    m0, n0, m1, n1 = before_and_after(gain=1.0)
    more, less = compare(m0, n0, m1, n1), compare(m1, n1, m0, n0)
    assert more.difference > 0 and more.low > 0 and more.p_value < 0.01
    assert less.difference == -more.difference and less.high < 0
    same = compare(m0, n0, m0, n0)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_paired_bootstrap_agrees_with_delong():
    scores = before_and_after(3)
    delong, bootstrap = (
        intervals.paired_auc_difference(*scores),
        intervals.paired_bootstrap_difference(*scores, n_resamples=4000),
    )
    assert bootstrap.difference == pytest.approx(delong.difference, abs=1e-12)
    assert (bootstrap.low, bootstrap.high) == pytest.approx(
        (delong.low, delong.high), abs=0.15 * (delong.high - delong.low)
    )


def test_paired_bootstrap_keeps_both_scores_of_an_image_together():
    m, n = random_scores(4)
    # every image falls as far as it stood high: before and after are as dependent as can be, and not by rank
    delong = intervals.paired_auc_difference(m, n, -m, -n)
    bootstrap = intervals.paired_bootstrap_difference(m, n, -m, -n, n_resamples=4000)
    assert (bootstrap.low, bootstrap.high) == pytest.approx((delong.low, delong.high), abs=0.03)


def testbootstrap_p_value_is_two_sided_and_never_zero():
    assert bootstrap_p_value(np.array([-1.0] + [1.0] * 98)) == pytest.approx(2 * (1 + 1) / 100)
    assert bootstrap_p_value(np.ones(99)) == pytest.approx(2 / 100)
    assert bootstrap_p_value(np.array([-1.0, 1.0])) == 1


@pytest.mark.parametrize("compare", [intervals.paired_auc_difference, intervals.paired_bootstrap_difference])
def test_a_ceiling_is_not_certainty(compare):
    n, climbing = np.zeros(20), np.arange(1.0, 21.0)
    both_perfect = compare(climbing, n, climbing[::-1], n)  # AUC 1 twice, but another ranking
    assert both_perfect.difference == 0 and both_perfect.p_value == 1 and both_perfect.low < 0 < both_perfect.high
    up = compare(np.zeros(20), n, climbing, n)  # from all tied to perfect
    assert up.difference == 0.5 and 0 < up.low < 0.5 < up.high < 1 and up.p_value < 0.01
    assert "unpaired" in up.method


@pytest.mark.parametrize("value, n, least, most", [(1.0, 12, 0, 1), (0.0, 40, -1, 1), (0.5, 1, 0, 1), (-1.0, 3, -1, 1)])
def test_equal_draws_are_not_certainty(value, n, least, most):
    """The interval ends where so many equal draws have a probability of exactly 1 - confidence."""
    interval = constant_interval(value, n, least, most, 0.9)
    for end, other in ((interval.low, least), (interval.high, most)):
        if other == value:
            assert end == value
            continue
        share_of_others = (end - value) / (other - value)
        assert (1 - share_of_others) ** n == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least one"):
        constant_interval(0, 0, 0, 1)


@pytest.mark.parametrize("compare", [intervals.paired_auc_difference, intervals.paired_bootstrap_difference])
def test_the_same_order_of_few_images_is_not_certainty(compare):
    m, n = random_scores(0, 12, 30)
    few = compare(m, n, m * 2, n * 2)
    assert (few.difference, few.p_value) == (0, 1) and "rule of three (12 pairs" in few.method
    assert few.high == -few.low == pytest.approx(1 - 0.05 ** (1 / 12))
    m, n = random_scores(0, 120, 300)
    assert 0 < compare(m, n, m * 2, n * 2).high < 0.03
    same = compare(m, n, m, n)  # one model: there is nothing to be unsure about
    assert (same.low, same.high, same.method) == (0, 0, "identical scores before and after")


def share_covered(rng, n_datasets: int, draw) -> tuple[float, int]:
    """How often the interval that `draw(rng)` gives holds the truth, and how often it has no width."""
    found = [draw(rng) for _ in range(n_datasets)]
    return np.mean([i.low <= truth <= i.high for i, truth in found]), sum(i.low == i.high for i, _ in found)


@pytest.mark.parametrize("true_auc", [0.9, 0.98, 0.999])
def test_an_auc_near_one_of_twelve_photos_is_covered(true_auc):
    """At 12 + 12 photos many samples separate perfectly; results/coverage.json has the interior."""
    shift = np.sqrt(2) * norm.ppf(true_auc)

    def draw(rng):
        return intervals.delong_interval(rng.normal(shift, 1, 12), rng.normal(0, 1, 12)), true_auc

    covered, without_width = share_covered(np.random.default_rng(0), 600, draw)
    assert covered > 0.93 and without_width == 0


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.1])
def test_a_small_change_of_twelve_photos_is_covered(gain):
    """Before and after put so few images into one order again and again, though the true AUC did change."""
    shift, noise = np.sqrt(2) * norm.ppf(0.8), 0.02
    truth = norm.cdf((shift + gain) / np.sqrt(2 * (1 + noise**2))) - 0.8

    def draw(rng):
        m, n, change_m, change_n = rng.normal(size=(4, 12))
        m_after, n_after = m + shift + gain + noise * change_m, n + noise * change_n
        return intervals.paired_auc_difference(m + shift, n, m_after, n_after), truth

    covered, without_width = share_covered(np.random.default_rng(1), 600, draw)
    assert covered > 0.93 and without_width == 0


def test_a_pairing_of_different_lengths_is_refused():
    m, n = random_scores()
    with pytest.raises(ValueError, match=r"same members .* got 60 before and 59 after"):
        intervals.paired_auc_difference(m, n, m[1:], n)
    with pytest.raises(ValueError, match="non-members"):
        intervals.paired_bootstrap_difference(m, n, m, n[1:])


# ---------------------------------------------------------------------------------------------- many domains


def domains_before_and_after(gain: float, n_domains: int = 6):
    pairs = [before_and_after(seed, gain) for seed in range(n_domains)]
    return [(m0, n0) for m0, n0, _, _ in pairs], [(m1, n1) for _, _, m1, n1 in pairs]


def test_hierarchical_difference_means_over_domains_and_repeats_by_seed():
    before, after = domains_before_and_after(gain=1.0)
    change = over_people.hierarchical_difference(before, after, n_resamples=400, seed=3)
    expected = [intervals.auc(*a) - intervals.auc(*b) for b, a in zip(before, after, strict=True)]
    assert change.per_domain == expected
    assert change.difference == pytest.approx(np.mean(expected))
    assert 0 < change.low < change.difference < change.high and change.p_value < 0.02
    assert change == over_people.hierarchical_difference(before, after, n_resamples=400, seed=3)
    assert change != over_people.hierarchical_difference(before, after, n_resamples=400, seed=4)
    assert over_people.hierarchical_difference(after, before, n_resamples=400).difference == -change.difference


def test_hierarchical_bootstrap_agrees_with_a_naive_one():
    before, after = domains_before_and_after(gain=0.5)
    rng, naive = np.random.default_rng(9), []
    for _ in range(1000):
        changes = []
        for d in rng.integers(len(before), size=len(before)):
            (m0, n0), (m1, n1) = before[d], after[d]
            i, j = rng.integers(len(m0), size=len(m0)), rng.integers(len(n0), size=len(n0))
            changes.append(intervals.auc(m1[i], n1[j]) - intervals.auc(m0[i], n0[j]))
        naive.append(np.mean(changes))
    change = over_people.hierarchical_difference(before, after, n_resamples=4000)
    tolerance = 0.25 * np.std(naive)
    assert (change.low, change.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])), abs=tolerance)


def test_hierarchical_intervals_without_spread_are_not_certainty():
    before, _ = domains_before_and_after(gain=1.0)
    same = over_people.hierarchical_difference(before, before, n_resamples=200)  # one model
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    apart, tied = (np.array([2.0, 3.0]), np.array([0.0, 1.0])), (np.ones(2), np.ones(2))
    mean = over_people.hierarchical_mean([apart] * 4, n_resamples=200)
    assert (mean.mean, mean.high, mean.per_domain) == (1, 1, [1.0] * 4)
    assert mean.low == pytest.approx(0.05 ** (1 / 4)) and "4 domains" in mean.method
    change = over_people.hierarchical_difference([tied] * 4, [apart] * 4, n_resamples=200)
    assert change.difference == 0.5 and change.low < 0.5 < change.high < 1 and change.per_domain == [0.5] * 4
    assert (change.low > 0) == (change.p_value < 0.05)
    alone = over_people.hierarchical_mean([apart], n_resamples=200)
    assert alone.low == intervals.delong_interval(*apart).low and alone.method.startswith("Newcombe")
    change = over_people.hierarchical_difference([tied], [apart], n_resamples=200)
    assert change.low == intervals.paired_auc_difference(*tied, *apart).low and change.per_domain == [0.5]


def test_the_interval_of_equal_domains_and_its_p_value_agree():
    tied, apart = (np.ones(2), np.ones(2)), (np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    for n in (2, 5, 7, 8, 12):
        found = over_people.hierarchical_difference([tied] * n, [apart] * n, n_resamples=50)
        assert (found.low > 0) == (found.p_value < 0.05), n


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_equal_domains_are_covered(share):
    """In a few of all domains the attack fails; four domains often show none of those."""
    apart, failed = (np.array([2.0, 3.0]), np.array([0.0, 1.0])), (np.array([0.0, 1.0]), np.array([2.0, 3.0]))

    def draw(rng):
        domains = [failed if rng.random() < share else apart for _ in range(4)]
        return over_people.hierarchical_mean(domains, n_resamples=100), 1 - share

    covered, without_width = share_covered(np.random.default_rng(2), 200, draw)
    assert covered > 0.93 and without_width == 0


def test_a_rate_of_zero_for_everybody_is_not_certainty():
    point = operating_points.pooled_tpr(5.0, [np.zeros(9)] * 3, [np.zeros(20)] * 3)
    assert point.tpr_cluster.low == 0 and point.tpr_cluster.high == pytest.approx(1 - 0.05 ** (1 / 3))


def test_hierarchical_mean_of_one_domain_is_its_bootstrap():
    m, n = random_scores()
    mean, interval = over_people.hierarchical_mean([(m, n)], 4000), intervals.bootstrap_interval(m, n, 4000)
    assert mean.mean == pytest.approx(intervals.auc(m, n))
    assert (mean.low, mean.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    assert "says nothing about other domains" in mean.method


def test_a_common_image_count_is_not_needed_but_the_same_images_are():
    before = [random_scores(0, 30, 20), random_scores(1, 12, 50)]
    over_people.hierarchical_difference(before, before, n_resamples=20)
    with pytest.raises(ValueError, match="same domains"):
        over_people.hierarchical_difference(before, before[:1])
    with pytest.raises(ValueError, match="members of domain 1"):
        over_people.hierarchical_difference(before, [before[0], (before[1][0][1:], before[1][1])])


# ---------------------------------------------------------------------------------------------- TPR at a low FPR


@cases
@pytest.mark.parametrize("target", [0.12, 0.2, 0.29, 0.5, 0.99])
def test_tpr_at_fpr_is_the_best_that_brute_force_finds(m, n, target):
    point = operating_points.tpr_at_fpr(m, n, target)
    candidates = np.append(np.r_[m, n], np.inf)
    allowed = [t for t in candidates if np.mean(n >= t) <= target + 1e-12]
    assert point.tpr == pytest.approx(max(np.mean(m >= t) for t in allowed))
    assert point.realised_fpr <= target + 1e-12
    assert (np.mean(m >= point.threshold), np.mean(n >= point.threshold)) == (point.tpr, point.realised_fpr)
    exact = intervals.binomial_interval(round(point.tpr * len(m)), len(m))
    assert (point.low, point.high) == (exact.low, exact.high)


def test_too_few_nonmembers_give_no_number():
    m, n = random_scores(N=50, M=99)
    point = operating_points.tpr_at_fpr(m, n, 0.01)
    assert (point.tpr, point.low, point.high, point.threshold, point.realised_fpr) == (None,) * 5
    assert point.note == "too few non-members for this FPR: needs at least 100, has 99"
    with pytest.raises(ValueError, match="needs at least 100, has 99"):
        operating_points.threshold_for_fpr(n, 0.01)
    enough = operating_points.tpr_at_fpr(m, np.arange(100.0), 0.01)
    assert enough.realised_fpr == 0.01 and "rests on 1 of 100" in enough.note


@pytest.mark.parametrize("target", [0.07, 0.29, 0.57])
def test_rounding_of_the_target_costs_no_false_positive(target):
    n = np.arange(100.0)  # in floating point 0.29 * 100 is 28.999999999999996
    assert np.mean(n >= operating_points.threshold_for_fpr(n, target)) == target


def test_threshold_holds_in_the_precision_of_the_scores():
    n = np.linspace(0, 1, 200, dtype=np.float32)
    threshold = operating_points.threshold_for_fpr(n, 0.1)
    assert np.mean(n >= threshold) == 0.1  # a float64 step would be rounded away: 0.105


def test_all_tied_nonmembers_leave_only_what_is_above_them():
    point = operating_points.tpr_at_fpr([0.0, 1.0, 2.0], np.ones(50), 0.1)
    assert point.realised_fpr == 0 and point.tpr == pytest.approx(1 / 3)


def test_pooled_tpr_counts_over_people_and_bootstraps_people():
    rng = np.random.default_rng(0)
    members = [rng.normal(person, 1, 40) for person in range(5)]
    nonmembers = [rng.normal(0, 1, 100 + person) for person in range(5)]
    point = operating_points.pooled_tpr(1.5, members, nonmembers)
    assert point.tpr == np.mean(np.concatenate(members) >= 1.5)
    assert point.realised_fpr == np.mean(np.concatenate(nonmembers) >= 1.5)
    assert (point.n_domains, point.n_members, point.n_nonmembers) == (5, 200, 510)
    assert point.tpr_exact.low < point.tpr < point.tpr_exact.high
    # people differ a lot here, so the interval over people must be the wider one
    assert point.tpr_cluster.high - point.tpr_cluster.low > 2 * (point.tpr_exact.high - point.tpr_exact.low)
    assert operating_points.pooled_tpr(1.5, members[:1], nonmembers[:1]).tpr_cluster is None
    assert point == operating_points.pooled_tpr(1.5, members, nonmembers)
    with pytest.raises(ValueError, match="same people"):
        operating_points.pooled_tpr(1.5, members, nonmembers[1:])


# ---------------------------------------------------------------------------------------------- sets and images


def test_set_evidence_is_uniform_without_and_tiny_with_an_effect():
    rng = np.random.default_rng(0)
    p_values = [metrics.set_evidence(rng.exponential(size=40), rng.exponential(size=60)).p_value for _ in range(300)]
    assert kstest(p_values, "uniform").pvalue > 0.01
    strong = metrics.set_evidence(rng.normal(1, 1, 100), rng.normal(0, 1, 100))
    assert strong.p_value < 1e-8 and strong.effect > 0.7
    assert metrics.set_evidence(rng.normal(-1, 1, 100), rng.normal(0, 1, 100)).p_value > 0.99  # one-sided
    assert metrics.set_evidence(np.ones(20), np.ones(20)).p_value == 1


def test_histogram_keeps_every_score_and_shrugs_off_a_wild_one():
    m, n = random_scores(N=500, M=300)
    wild = np.append(m, 1e9)
    result = metrics.histogram(wild, n, bins=25)
    assert sum(result.members) == 501 and sum(result.nonmembers) == 300
    assert len(result.edges) == 26 and result.edges[-1] < 10


def test_histogram_of_heavy_tails_shows_the_bulk():
    m, n = random_scores(N=100, M=100)
    wild = np.r_[n[:92], -np.geomspace(1e2, 1e4, 8)]  # 8 % of the images are far off, as with a fourth power
    result = metrics.histogram(m, wild, bins=40)
    assert sum(count > 0 for count in result.members) > 10 and sum(result.nonmembers) == 100
    assert result.nonmembers[0] >= 8  # the wild ones count in the outermost bin
    plain = metrics.histogram(m, n)  # normal scores: the inner 99 % of each group, as ever
    assert plain.edges[0] == min(np.quantile(m, 0.005), np.quantile(n, 0.005))


@pytest.mark.parametrize("value", [0.0, 1.0, -3e7, 1e-300, 1e300])
def test_histogram_of_equal_scores_has_distinct_edges(value):
    result = metrics.histogram(np.full(5, value), np.full(7, value), bins=10)
    assert (np.diff(result.edges) > 0).all()
    assert sum(result.members) == 5 and sum(result.nonmembers) == 7


def test_most_exposed_ranks_by_score_after_against_the_nonmembers():
    reference = np.arange(10.0)
    images = metrics.most_exposed([0.0, 9.5, 5.0], [8.5, 1.0, 20.0], reference, reference, top=2)
    assert [image.index for image in images] == [2, 0]
    assert [image.fpr_rank_after for image in images] == [0.0, 0.1]
    assert [image.fpr_rank_before for image in images] == [0.5, 1.0]
    tied = metrics.most_exposed([3.0], [3.0], reference, reference)
    assert tied[0].fpr_rank_after == 0.7  # 3, 4, ..., 9: a tie counts as "at least as high"
    with pytest.raises(ValueError, match="same members"):
        metrics.most_exposed([1.0], [1.0, 2.0], reference, reference)


# ---------------------------------------------------------------------------------------------- contracts


@cases
def test_every_result_is_plain_json(m, n):
    perfect = (np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    results = [
        metrics.roc(m, n),
        metrics.summary(m, n, n_resamples=50),
        metrics.summary(*perfect, n_resamples=50),
        intervals.paired_auc_difference(m, n, m[::-1], n),
        over_people.hierarchical_difference([(m, n)] * 2, [(m[::-1], n)] * 2, n_resamples=50),
        over_people.hierarchical_mean([(m, n), perfect], n_resamples=50),
        metrics.set_evidence(m, n),
        metrics.histogram(m, n),
        operating_points.pooled_tpr(1.0, [m, m], [n, n], n_resamples=50),
        operating_points.frozen_tpr(n, [m], [n], 0.1),
        operating_points.frozen_tpr(n, [m], [n], 1e-9),
        *metrics.most_exposed(m, m, n, n, top=3),
    ]
    for result in results:
        assert json.loads(json.dumps(asdict(result), allow_nan=False)) == asdict(result)


@pytest.mark.parametrize(
    "bad, message",
    [
        ([], "empty"),
        ([[1.0, 2.0]], r"shape \(N,\).*got shape \(1, 2\)"),
        ([1.0, np.nan], "1 NaN or infinite"),
        ([np.inf, 1.0], "1 NaN or infinite"),
        (["high", "low"], "must be numbers"),
    ],
)
@pytest.mark.parametrize(
    "measure", [intervals.auc, metrics.roc, intervals.delong_interval, metrics.set_evidence, metrics.summary]
)
def test_bad_scores_are_refused_with_a_reason(measure, bad, message):
    for arguments, who in (((bad, [0.0, 1.0]), "member scores"), (([0.0, 1.0], bad), "non-member scores")):
        with pytest.raises(ValueError, match=message) as error:
            measure(*arguments)
        assert str(error.value).startswith(who)


def test_bad_settings_are_refused_with_the_allowed_range():
    m, n = random_scores()
    with pytest.raises(ValueError, match=r"such as 0\.95; got 95"):
        intervals.delong_interval(m, n, confidence=95)
    with pytest.raises(ValueError, match=r"such as 0\.01; got 1"):
        operating_points.tpr_at_fpr(m, n, 1)
    with pytest.raises(ValueError, match="5 of 4"):
        intervals.binomial_interval(5, 4)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.histogram(m, n, bins=0)
