"""Whether features tell two groups of photos apart: a linear classifier, judged by exchanging the labels at random.

The test is exact. Folds and features do not depend on the labels, so under a random split the true labels are one more
exchange: the p-value is at most LEVEL in at most LEVEL of such splits, whatever the features and however few photos.
An interval of a cross-validated AUC does not have this property: its folds are not independent.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import KFold

LEVEL = 0.025  # of a warning: how often a random split is called different
PERMUTATIONS = 400
FOLDS = 5
RIDGE = 0.1  # of the linear classifier, per photo: features with a smaller variance count less


def out_of_fold(x: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Out-of-fold ridge regression for every column of labels: x (N, F), labels (N, P) of 0 and 1 to (N, P)."""
    scores = np.zeros(labels.shape)
    for train, test in KFold(min(FOLDS, len(x)), shuffle=True, random_state=seed).split(x):
        mean = x[train].mean(axis=0)
        a, b = x[train] - mean, x[test] - mean
        hat = b @ np.linalg.solve(a.T @ a + RIDGE * len(train) * np.eye(a.shape[1]), a.T)
        centre = labels[train].mean(axis=0)
        scores[test] = hat @ (labels[train] - centre) + centre - labels.mean(axis=0)
    return scores


def _aucs(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, P), (N, P) to (P,)."""
    ranks, members = rankdata(scores, axis=0), labels.sum(axis=0)
    return ((ranks * labels).sum(axis=0) - members * (members + 1) / 2) / (members * (len(labels) - members))


def exchange_test(x: np.ndarray, n_members: int, seed: int = 0) -> tuple[float, float]:
    """(out-of-fold AUC, one-sided p-value) of features x (N, F) whose first `n_members` rows are the members'.

    The p-value is the share of exchanged labels with an AUC at least as high; the observed one counts: it is never 0.
    """
    rng, truth = np.random.default_rng(seed), (np.arange(len(x)) < n_members).astype(float)
    labels = np.stack([truth, *(rng.permutation(truth) for _ in range(PERMUTATIONS))], axis=1)
    aucs = _aucs(out_of_fold(x, labels, seed), labels)
    return float(aucs[0]), float((aucs >= aucs[0]).mean())
