"""The blind control at the finest scale: compression, sharpness, noise and colour, which a pooled picture hides.

A split whose non-members were saved in another JPEG quality gives itself away in the pixels' finest differences, and
the attacks take it for membership. So here a classifier sees only such differences, never the model. Its AUC is judged
by exchanging the labels (exchange.py), which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.fft import dctn

from s2l.data.domain import ImageSet, MembershipSplit
from s2l.measure.exchange import FOLDS, LEVEL, PERMUTATIONS, exchange_test, out_of_fold

MOST = 500  # photos of each side that are looked at, spread evenly
LOOK = 128  # pixels of a photo's centre that are looked at: as fine as the whole, and faster
BLOCK = 8  # JPEG's blocks
GROUPS = {"compression or noise": slice(0, 13), "sharpness": slice(13, 20), "colour": slice(20, 28)}


@dataclass(frozen=True)
class FineControl:
    """What tells two folders apart at the finest scale.

    auc        out-of-fold AUC of the classifier; about .5 for a random split
    p_value    of `exchange_test`, one-sided
    differ     whether `p_value` is at most LEVEL
    reason     the group of features that tells the two apart best on its own: a key of GROUPS
    by_group   {group: distance between the folders by its features alone, in standard deviations}
    method     how it was measured
    """

    auc: float
    p_value: float
    differ: bool
    reason: str
    by_group: dict[str, float]
    method: str


def _median(y: np.ndarray) -> np.ndarray:
    """The median of 3 x 3 pixels of a picture (H, W) whose edges are mirrored: `ndimage.median_filter(y, 3)`, faster.

    It is the median of three numbers: the largest of the columns' smallest, the median of their medians, and the
    smallest of their largest (Smith 1996, "Implementing median filters in XC4000E FPGAs").
    """
    padded = np.pad(y, 1, "symmetric")
    columns = _sorted3(padded[:-2], padded[1:-1], padded[2:])
    rows = [_sorted3(x[:, :-2], x[:, 1:-1], x[:, 2:]) for x in columns]
    return _sorted3(rows[0][2], rows[1][1], rows[2][0])[1]


def _sorted3(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(smallest, median, largest) of three arrays, at each place."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    middle = np.minimum(high, c)
    return np.minimum(low, middle), np.maximum(low, middle), np.maximum(high, c)


def _features(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to 28 numbers, in the order of GROUPS."""
    x = image.astype(np.float64)
    y = x @ (0.299, 0.587, 0.114)
    chroma = np.stack([x[..., 2] - y, x[..., 0] - y])
    blocky = []
    for axis in (0, 1):
        steps = np.abs(np.diff(y, axis=axis)).mean(axis=1 - axis)
        edges = np.arange(len(steps)) % BLOCK == BLOCK - 1
        blocky.append(np.log1p(steps[edges].mean() if edges.any() else 0) - np.log1p(steps[~edges].mean()))
    h, w = (side // BLOCK * BLOCK for side in y.shape)
    if h and w:
        blocks = y[:h, :w].reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(0, 2, 1, 3).reshape(-1, BLOCK, BLOCK)
        size = np.abs(dctn(blocks, axes=(1, 2), norm="ortho"))
        band = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
        parts = [size[:, (band >= low) & (band < high)] for low, high in ((1, 3), (3, 6), (6, 9), (9, 15))]
        bands = [np.log1p(part.mean()) for part in parts] + [(part < 0.6).mean() for part in parts[2:]]
    else:
        bands = [0.0] * 6
    detail = [np.log1p(ndimage.laplace(plane).std()) for plane in chroma]
    laplace = ndimage.laplace(y)
    centred = y - y.mean()
    spread = (centred**2).mean() + 1e-9
    near = [(centred[:, :-k] * centred[:, k:]).mean() / spread for k in (1, 2) if y.shape[1] > k]
    gradients = [np.log1p(np.abs(np.diff(y, axis=axis)).mean()) for axis in (0, 1)]
    second = np.log1p(np.abs(np.diff(y, 2)).mean())
    sharp = [np.log1p(laplace.std()), np.log1p(np.abs(laplace).mean()), *gradients, *near, second]
    residual = np.abs(y - _median(y))
    noise = [np.log1p(residual.mean()), np.log1p(np.median(residual)), (residual == 0).mean()]
    colour = [*x.mean(axis=(0, 1)), *x.std(axis=(0, 1)), (x <= 1).mean(), (x >= 254).mean()]
    return np.array([*blocky, *bands, *detail, *noise, *sharp, *colour])


def fine_features(images: Sequence[np.ndarray]) -> np.ndarray:
    """N pictures (H, W, 3) uint8 to (N, 28)."""
    return np.array([_features(image) for image in images])


def _standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)


def fine_test(x: np.ndarray, n_members: int, seed: int = 0) -> tuple[float, float]:
    """(AUC, p-value) of the control: features (N, 28), members first."""
    return exchange_test(_standardised(x), n_members, seed)


def _distance(x: np.ndarray, truth: np.ndarray, seed: int) -> float:
    """How far the out-of-fold scores of the two folders are apart, in standard deviations of one folder."""
    scores = out_of_fold(x, truth[:, None], seed)[:, 0]
    mine, theirs = scores[truth == 1], scores[truth == 0]
    return float((mine.mean() - theirs.mean()) / (np.sqrt((mine.var() + theirs.var()) / 2) + 1e-9))


def _looked_at(photos: ImageSet) -> list[np.ndarray]:
    """The centres of at most MOST photos: (h, w, 3) uint8. JPEG's blocks stay where they are in the whole photo."""
    height, width = photos.images.shape[2:]
    top, left = (max(0, (side - LOOK) // 2) // BLOCK * BLOCK for side in (height, width))
    chosen = np.linspace(0, len(photos) - 1, min(MOST, len(photos))).round().astype(int)
    return [photos.images[i, :, top : top + LOOK, left : left + LOOK].permute(1, 2, 0).numpy() for i in chosen]


def fine_control(split: MembershipSplit, seed: int = 0) -> FineControl:
    """Can a classifier that sees only the finest differences of pixels tell members from held-out photos?

    Raises ValueError when a side has fewer than two photos.
    """
    sides = [_looked_at(part) for part in (split.members, split.nonmembers)]
    n_members, n_others = map(len, sides)
    if min(n_members, n_others) < 2:
        raise ValueError("the blind control needs at least two members and two held-out photos")
    x = _standardised(fine_features([image for side in sides for image in side]))
    auc, p_value = exchange_test(x, n_members, seed)
    truth = np.r_[np.ones(n_members), np.zeros(n_others)]
    by_group = {name: _distance(x[:, part], truth, seed) for name, part in GROUPS.items()}
    return FineControl(
        auc=auc,
        p_value=p_value,
        differ=p_value <= LEVEL,
        reason=max(by_group, key=by_group.__getitem__),
        by_group=by_group,
        method=f"{FOLDS}-fold ridge regression on 28 features of the finest scale; {PERMUTATIONS} permutations",
    )
