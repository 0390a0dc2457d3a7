"""The lower bound of epsilon that attacks prove: against mechanisms whose epsilon is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from s2l.measure.privacy_bound import best_threshold, epsilon_bound


def randomised_response(epsilon: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a mechanism that tells the truth with probability e^eps / (1 + e^eps): exactly epsilon-DP."""
    rng, truth = np.random.default_rng(seed), np.exp(epsilon) / (1 + np.exp(epsilon))
    return (rng.random(n) < truth).astype(float), (rng.random(n) >= truth).astype(float)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
def test_it_lies_below_the_true_epsilon_as_often_as_it_says(epsilon):
    bounds = [epsilon_bound(*randomised_response(epsilon, 400, seed), 0.5, 0.0).epsilon for seed in range(200)]
    assert np.mean(np.array(bounds) <= epsilon) >= 0.95
    assert all(bound >= 0 for bound in bounds)
    if epsilon:
        assert np.mean(bounds) > 0.5 * epsilon  # and says something


def test_the_numbers_are_those_of_the_definition():
    m, n = np.repeat([1.0, 0.0], [60, 40]), np.repeat([1.0, 0.0], [5, 195])
    bound = epsilon_bound(m, n, 0.5, 1e-3, confidence=0.9)
    low, high = beta.ppf(0.05, 60, 41), beta.ppf(0.95, 6, 195)  # Clopper-Pearson by its other definition
    assert (bound.tpr_low, bound.fpr_high) == pytest.approx((low, high))
    assert bound.epsilon == pytest.approx(max(np.log((low - 1e-3) / high), np.log((1 - high - 1e-3) / (1 - low))))
    assert (bound.tpr, bound.fpr, bound.n_members, bound.n_nonmembers) == (0.6, 0.025, 100, 200)


def test_perfect_scores_prove_the_most_that_their_number_can():
    bound = epsilon_bound(np.ones(320), np.zeros(960), 0.5, 1e-4)
    assert bound.epsilon == bound.largest > 4
    assert epsilon_bound(np.zeros(320), np.ones(960), 0.5, 1e-4).epsilon == 0


def test_the_threshold_is_the_best_of_those_tried():
    rng = np.random.default_rng(0)
    m, n = rng.normal(1, 1, 80), rng.normal(0, 1, 160)
    threshold, best = best_threshold(m, n, 0.0)
    assert best == epsilon_bound(m, n, threshold, 0.0).epsilon > 0
    assert best == max(epsilon_bound(m, n, t, 0.0).epsilon for t in m)
    assert best_threshold(np.zeros(3), np.ones(3), 0.0) == (1.0, 0.0)  # nothing to find


@pytest.mark.parametrize("delta", [-0.1, 1.0])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(ValueError, match="delta is a probability below 1"):
        epsilon_bound([1.0], [0.0], 0.5, delta)
