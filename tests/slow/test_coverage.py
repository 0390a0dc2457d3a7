"""Do the intervals cover the truth as often as they say? Simulated with scores whose true AUC is known.

    python -m tests.slow.test_coverage      # writes results/coverage.json, a few minutes on one idle core
    pytest -m slow tests/slow/test_coverage.py

Model: non-members ~ N(0, 1), members ~ N(sqrt(2) x, 1), hence a true AUC of Phi(x). Only ranks enter an AUC, so
this stands for every attack whose scores some monotone map makes normal with equal spread in both groups.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy
from scipy.stats import binom, norm

from s2l.measure import intervals, metrics, operating_points, over_people

RESULT = Path(__file__).resolve().parents[2] / "results" / "coverage.json"
CONFIDENCE = 0.95
AUCS = (0.5, 0.6, 0.7, 0.85, 0.95, 0.99)
IMAGES = 200  # members, and as many non-members
CORRELATION = 0.8  # of one image's scores before and after, given the domain

PROTOCOL = {
    "scores": "non-members N(0,1), members N(sqrt(2) probit(AUC), 1); 200 + 200 images unless stated",
    "confidence": CONFIDENCE,
    "coverage": "share of simulated data sets whose interval holds the true value; +- is one standard error",
    "delong": "4000 data sets an AUC; delong_interval",
    "bootstrap": "500 data sets an AUC; bootstrap_interval with 1000 resamples",
    "paired_delong": "4000 data sets a pair of AUCs; scores before and after correlate by 0.8; rejections at p < 0.05",
    "binomial": "no simulation: exact coverage from the binomial distribution, the worst of 999 true rates",
    "tpr_at_fpr": (
        "4000 data sets; binomial interval of tpr_at_fpr (threshold chosen on the same non-members) against the TPR "
        "at a true FPR of 1 %; its docstring says that it leaves out the threshold's own uncertainty"
    ),
    "frozen_threshold": "the same, at a threshold fixed beforehand on other non-members",
    "hierarchical": (
        "300 data sets; hierarchical_difference with 1000 resamples against the mean difference over all conceivable "
        "domains; probit AUC before ~ N(0.2, 0.1) and its gain ~ N(gain, sd of the gain) a domain; correlation 0.8; "
        "'mean width / ideal' compares with 2 x 1.96 x the true standard deviation of the estimate"
    ),
    "set_evidence": "4000 data sets of 100 + 200 images without any effect; share of p < 0.05",
}


def share(hits: np.ndarray | list[bool]) -> dict[str, float]:
    rate = float(np.mean(hits))
    return {"rate": round(rate, 4), "standard_error": round(math.sqrt(rate * (1 - rate) / len(hits)), 4)}


def draw(rng: np.random.Generator, true_auc: float, N: int = IMAGES, M: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(math.sqrt(2) * norm.ppf(true_auc), 1, N), rng.normal(0, 1, M)


def draw_before_after(
    rng: np.random.Generator, x_before: float, x_after: float, images: int = IMAGES
) -> list[np.ndarray]:
    """[m_before, n_before, m_after, n_after]; x is the probit of the true AUC."""
    noise = rng.normal(size=(2, images))
    noise_after = CORRELATION * noise + math.sqrt(1 - CORRELATION**2) * rng.normal(size=(2, images))
    return [noise[0] + math.sqrt(2) * x_before, noise[1], noise_after[0] + math.sqrt(2) * x_after, noise_after[1]]


def cover_auc(make: Callable, n_datasets: int, aucs: tuple[float, ...]) -> dict:
    figures = {}
    for true_auc in aucs:
        rng = np.random.default_rng(1)
        intervals = [make(*draw(rng, true_auc)) for _ in range(n_datasets)]
        figures[str(true_auc)] = share([i.low <= true_auc <= i.high for i in intervals]) | {
            "mean_width": round(float(np.mean([i.high - i.low for i in intervals])), 4),
            "fallbacks": sum(i.method.startswith("Newcombe") for i in intervals),
        }
    return figures


def cover_paired(n_datasets: int) -> dict:
    figures = {}
    for before, after in ((0.55, 0.55), (0.55, 0.60), (0.70, 0.75), (0.90, 0.95)):
        rng = np.random.default_rng(2)
        x = norm.ppf([before, after])
        changes = [intervals.paired_auc_difference(*draw_before_after(rng, *x)) for _ in range(n_datasets)]
        figures[f"{before} -> {after}"] = {
            "coverage": share([c.low <= after - before <= c.high for c in changes]),
            "rejections_at_0.05": share([c.p_value < 0.05 for c in changes]),
        }
    return figures


def cover_binomial() -> dict:
    figures = {}
    for trials in (50, 100, 400):
        low, high = np.array([
            (interval.low, interval.high)
            for interval in (intervals.binomial_interval(k, trials, CONFIDENCE) for k in range(trials + 1))
        ]).T  # fmt: skip
        rates = np.linspace(0.001, 0.999, 999)[:, None]
        covered = ((low <= rates) & (rates <= high)) * binom.pmf(np.arange(trials + 1), trials, rates)
        coverage = covered.sum(axis=1)
        figures[f"{trials} trials"] = {
            "worst": round(float(coverage.min()), 4),
            "mean": round(float(coverage.mean()), 4),
        }
    return figures


def cover_tpr(n_datasets: int, M: int, frozen: bool, true_auc: float = 0.8, target: float = 0.01) -> dict:
    rng = np.random.default_rng(3)
    shift = math.sqrt(2) * norm.ppf(true_auc)
    threshold = operating_points.threshold_for_fpr(rng.normal(0, 1, M), target)
    truth = norm.sf((threshold if frozen else norm.isf(target)) - shift)
    covered = []
    for _ in range(n_datasets):
        m, n = draw(rng, true_auc, 400, M)
        if frozen:
            interval = intervals.binomial_interval(int((m >= threshold).sum()), len(m))
        else:
            interval = operating_points.tpr_at_fpr(m, n, target)
        covered.append(interval.low <= truth <= interval.high)
    return share(covered) | {"true_tpr": round(float(truth), 4)}


def cover_hierarchical(n_datasets: int, n_domains: int, images: int, gain: float, gain_sd: float) -> dict:
    rng = np.random.default_rng(4)
    start, start_sd = 0.2, 0.1
    # E Phi(X) for a normal X ~ N(mu, s^2) is Phi(mu / sqrt(1 + s^2))
    truth = norm.cdf((start + gain) / math.sqrt(1 + start_sd**2 + gain_sd**2)) - norm.cdf(
        start / math.sqrt(1 + start_sd**2)
    )
    changes = []
    for repeat in range(n_datasets):
        before, after = [], []
        for _ in range(n_domains):
            x = rng.normal(start, start_sd)
            m0, n0, m1, n1 = draw_before_after(rng, x, x + rng.normal(gain, gain_sd), images)
            before.append((m0, n0))
            after.append((m1, n1))
        changes.append(over_people.hierarchical_difference(before, after, n_resamples=1000, seed=repeat))
    ideal = 2 * norm.ppf(0.975) * np.std([c.difference for c in changes], ddof=1)
    return {
        "n_domains": n_domains,
        "images_a_group": images,
        "gain_probit": gain,
        "gain_sd_probit": gain_sd,
        "true_difference": round(float(truth), 4),
        "coverage": share([c.low <= truth <= c.high for c in changes]),
        "rejections_at_0.05": share([c.p_value < 0.05 for c in changes]),
        "mean_width_over_ideal": round(float(np.mean([c.high - c.low for c in changes]) / ideal), 3),
    }


def set_evidence_size(n_datasets: int) -> dict:
    rng = np.random.default_rng(5)
    return share([metrics.set_evidence(*draw(rng, 0.5, 100, 200)).p_value < 0.05 for _ in range(n_datasets)])


def simulate(path: Path | None = None) -> dict:
    """Every figure; written with the protocol to `path` if given. Same seeds, same figures."""
    start = time.perf_counter()
    hierarchical = [  # (domains, images a group, gain, its spread over domains)
        (5, 100, 0.1, 0.05),
        (10, 100, 0.1, 0.05),
        (20, 100, 0.1, 0.05),
        (10, 100, 0.0, 0.0),
        (10, 100, 0.1, 0.3),
        (10, 400, 0.1, 0.05),
    ]
    figures = {
        "delong": cover_auc(intervals.delong_interval, 4000, AUCS),
        "bootstrap": cover_auc(lambda m, n: intervals.bootstrap_interval(m, n, 1000), 500, AUCS),
        "paired_delong": cover_paired(4000),
        "binomial": cover_binomial(),
        "tpr_at_fpr": {f"{M} non-members": cover_tpr(4000, M, frozen=False) for M in (100, 400, 4000)},
        "frozen_threshold": cover_tpr(4000, 400, frozen=True),
        "hierarchical": [cover_hierarchical(300, *setting) for setting in hierarchical],
        "set_evidence": set_evidence_size(4000),
    }
    result = {
        "protocol": PROTOCOL,
        "figures": figures,
        "command": "python -m tests.slow.test_coverage",
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
        "seconds": round(time.perf_counter() - start),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say(tmp_path):
    figures = simulate(tmp_path / "coverage.json")["figures"]
    for row in figures["delong"].values():
        assert 0.93 <= row["rate"] <= 0.97
    for row in figures["paired_delong"].values():
        assert 0.93 <= row["coverage"]["rate"] <= 0.97
    for row in figures["binomial"].values():
        assert row["worst"] >= CONFIDENCE
    assert figures["frozen_threshold"]["rate"] >= CONFIDENCE - 0.01
    assert figures["set_evidence"]["rate"] == pytest.approx(0.05, abs=0.01)


if __name__ == "__main__":
    print(json.dumps(simulate(RESULT)["figures"], indent=2))
    print(f"wrote {RESULT}")
