"""The blind control: can a classifier that never sees the model tell members from held-out photos?

If so, the split is confounded (other dates, other cameras, other captions) and an attack's AUC says
nothing about the model: a mistake in many published evaluations (Duan et al. 2024, Das et al.
2024). A random split of one distribution must give an AUC around .5 here.

The interval of the AUC takes the photos' scores as independent, which those of a cross-validation are not: it lies
above .5 for far more random splits than 2.5 %. So the verdict is that of an exact test (exchange.py) on the same
features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from s2l.data.domain import MembershipSplit
from s2l.measure.exchange import LEVEL, PERMUTATIONS, exchange_test
from s2l.measure.intervals import auc, delong_interval

if TYPE_CHECKING:
    import torch  # loaded when it is needed

COMPONENTS = 20  # principal components of the pixels
BATCH = 2**19  # pixels as floats that are looked at together: they stay in the processor's cache
WORDS = 5.0  # weight of the caption words beside them in the test: else its ridge would leave hardly anything of them


@dataclass(frozen=True)
class BlindControl:
    """AUC of the model-blind classifier with its interval; `confounded` when `p_value` is at most LEVEL."""

    auc: float
    low: float
    high: float
    confounded: bool
    method: str
    p_value: float


def pixel_features(images: torch.Tensor) -> np.ndarray:
    """(N, 3, H, W) uint8 at 16 x 16 with per-channel moments: (N, P)."""
    import torch

    parts, side, n = [], min(16, images.shape[-1]), images[0, 0].numel()
    for batch in images.split(max(1, BATCH // images[0].numel())):
        x = batch.float()
        small = torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1)
        total, squares = (each.sum(dim=(2, 3), dtype=torch.float64) for each in (x, x * x))  # exact: whole numbers
        mean = total / n
        std = ((squares - total * mean) / (n - 1)).clamp(min=0).sqrt()  # in torch's own, most of the time goes
        parts.append(torch.cat([small, mean.float(), std.float()], dim=1) / 255)
    return torch.cat(parts).numpy()


def word_features(captions: Sequence[str]) -> np.ndarray:
    """(N, W): how often each caption has each word, rare words counting more."""
    try:
        return TfidfVectorizer().fit_transform(captions).toarray()
    except ValueError:  # no caption has a word
        return np.zeros((len(captions), 0))


def _components(pixels: np.ndarray, words: np.ndarray, seed: int) -> np.ndarray:
    """(N, P), (N, W) to (N, C): principal components of both, which do not depend on who is a member."""
    parts = [x for x in (StandardScaler().fit_transform(pixels), WORDS * words) if x.size and np.ptp(x) > 0]
    reduced = [PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(x) for x in parts]
    return np.concatenate([np.zeros((len(pixels), 1)), *reduced], axis=1)


def split_test(pixels: np.ndarray, words: np.ndarray, n_members: int, seed: int = 0) -> float:
    """The p-value of the control: pixels (N, P) and words (N, W), members first."""
    return exchange_test(_components(pixels, words, seed), n_members, seed)[1]


def blind_control(split: MembershipSplit, seed: int = 0, folds: int = 5) -> BlindControl:
    """Cross-validated logistic regression on pixels and captions; every image is scored out of fold.

    Raises ValueError when a class has fewer than two images.
    """
    n_members, n_nonmembers = len(split.members), len(split.nonmembers)
    folds = min(folds, n_members, n_nonmembers)
    if folds < 2:
        raise ValueError("the blind control needs at least two members and two held-out photos")
    labels = np.r_[np.ones(n_members), np.zeros(n_nonmembers)]
    sides = (split.members, split.nonmembers)
    pixels = np.concatenate([pixel_features(side.images) for side in sides])
    words = word_features([caption for side in sides for caption in side.captions])
    # Ranks of each fold's scores, because the folds' classifiers need not have the same scale.
    scores = np.zeros(len(labels))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(pixels, labels):
        reducer = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, len(train) - 1), random_state=seed))
        x_train = np.concatenate([reducer.fit_transform(pixels[train]), words[train]], axis=1)
        x_test = np.concatenate([reducer.transform(pixels[test]), words[test]], axis=1)
        classifier = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decision = classifier.fit(x_train, labels[train]).decision_function(x_test)
        scores[test] = (np.argsort(np.argsort(decision)) + 0.5) / len(decision)
    p_value = split_test(pixels, words, n_members, seed)
    m, n = scores[:n_members], scores[n_members:]
    interval = delong_interval(m, n)
    return BlindControl(
        auc=auc(m, n),
        low=interval.low,
        high=interval.high,
        confounded=p_value <= LEVEL,
        method=f"{folds}-fold logistic regression on pixels and caption words; p-value: ridge regression on their "
        f"principal components, {PERMUTATIONS} permutations",
        p_value=p_value,
    )
