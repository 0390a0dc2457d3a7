"""How close two pictures are: l2 on [0, 1] pixels, tiled l2 and SSIM, in bounded memory.

Images are (N,3,H,W) uint8 or float in [0,1], numpy (memory-mapped too) or torch.

Notation
    l2(a, b)       sqrt(mean((a - b)^2)) over channels and pixels, pixels in [0,1]; lies in [0,1]
    tiled l2       the largest l2 of any of the 4 x 4 tiles: a shared plain background does not make two images close

A distance is a float32, rounded from float64 wherever a decision depends on it, and is compared with delta rounded to
float32. So `l2 <= delta` includes the boundary, and the chunk size and the last bits of a product change no count.

Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch

Images: TypeAlias = "np.ndarray | torch.Tensor"

MEMORY_MB = 256

# Bound on the error of a mean square from the float32 matrix product. The largest error seen is 20 times smaller
# (a test checks this). Pairs closer than this to a decision are computed again, in float64 and from differences.
TOLERANCE = 1e-5

BOUND_SIDE = 32  # blocks per side by which large images are compared first


def check_images(images: Images, name: str, like: np.ndarray | None = None) -> np.ndarray:
    """`images` as a numpy array of its own dtype, not copied. ValueError unless (N,3,H,W), N > 0, uint8 or in [0,1].

    With `like`, also unless the images have its height and width.
    """
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3:
        hint = "; the channels come second: transpose(0, 3, 1, 2)" if images.shape[-1:] == (3,) else ""
        raise ValueError(f"{name} must have shape (N, 3, H, W), not {images.shape}{hint}")
    if 0 in images.shape:
        raise ValueError(f"{name} is empty: shape {images.shape}; at least one image is needed")
    if like is not None and images.shape[2:] != like.shape[2:]:
        raise ValueError(f"{name} are {images.shape[2:]} (H, W), the others {like.shape[2:]}: resize one of them")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 in [0, 255] or float in [0, 1], not {images.dtype}")
    for start in range(0, len(images), 256):  # a part at a time: the images may be a file larger than memory
        low, high = images[start : start + 256].min(), images[start : start + 256].max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name} holds NaN or infinity, in images {start} to {start + 255}")
        if low < -1e-6 or high > 1 + 1e-6:
            raise ValueError(f"{name} must lie in [0, 1], not [{low:.4g}, {high:.4g}]: use uint8, rescale or clamp")
    return images


def check_distance(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be an l2 in [0, 1] (pixels are in [0, 1]), not {value}")


def _unit(images: np.ndarray) -> np.ndarray:
    """float32 in [0,1]; shares memory with float32 input, so it is never changed in place."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32, copy=False)


def _tiles(images: np.ndarray, tiles: int) -> np.ndarray:
    """(N,3,H,W) -> (tiles * tiles, N, values of a tile) float32; tiles = 1 is the whole image."""
    n, c, h, w = images.shape
    x = _unit(images).reshape(n, c, tiles, h // tiles, tiles, w // tiles)
    return np.ascontiguousarray(x.transpose(2, 4, 0, 1, 3, 5)).reshape(tiles * tiles, n, -1)


def _mean_squares(a: np.ndarray, b: np.ndarray, tiles: int, memory_mb: float) -> Iterator:
    """Yield (first row, first column, largest mean square over the tiles (r,c) float32) until all of a x b is done.

    |a|^2 + |b|^2 - 2ab loses digits when |a|^2 is large beside the difference, so both sides are shifted by the mean
    of a few references first: it changes no difference, and portraits share most of their length with their mean.
    """
    values = a[0].size
    memory = memory_mb * 2**20
    # Half the memory for images (two chunks and their copies: six in float32), half for blocks of step x step.
    step = max(1, int(min(memory / 2 / (24 * values), (memory / 2 / 24) ** 0.5)))
    centre = _tiles(b[:: -(-len(b) // 32)], tiles).mean(axis=1, keepdims=True)
    for row in range(0, len(a), step):
        x = _tiles(a[row : row + step], tiles) - centre
        xx = np.square(x).sum(axis=-1)  # (tiles * tiles, r); numpy sums pairwise, which keeps float32 accurate
        for col in range(0, len(b), step):
            y = _tiles(b[col : col + step], tiles) - centre
            yy = np.square(y).sum(axis=-1)
            largest: np.ndarray | None = None
            for t in range(tiles * tiles):
                ms = x[t] @ y[t].T
                ms *= -2
                ms += xx[t][:, None]
                ms += yy[t]
                ms /= x.shape[-1]
                largest = ms if largest is None else np.maximum(largest, ms, out=largest)
            yield row, col, largest


def exact_l2(a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray, tiles: int = 1) -> np.ndarray:
    """(P,) float32: l2 of the pairs a[rows], b[cols], from differences in float64."""
    out = np.empty(len(rows), np.float32)
    step = max(1, 2**20 // a[0].size)  # about 8 MB of float64 at a time
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = _tiles(a[rows[part]], tiles).astype(np.float64) - _tiles(b[cols[part]], tiles)
        out[part] = np.sqrt(np.square(difference).mean(axis=-1).max(axis=0))
    return out


def _blocks(a, b, delta: float | None, exact_below: float | None, tiles: int, memory_mb: float) -> Iterator:
    """Yield (first row, first column, l2 (r,c) float32), exact near `delta` and below `exact_below`."""
    for row, col, ms in _mean_squares(a, b, tiles, memory_mb):
        doubtful = np.zeros(ms.shape, bool) if exact_below is None else ms <= exact_below**2 + TOLERANCE
        if delta is not None:
            doubtful |= np.abs(ms - delta**2) <= TOLERANCE
        l2 = np.sqrt(np.maximum(ms, 0))
        r, c = np.nonzero(doubtful)
        l2[r, c] = exact_l2(a, b, row + r, col + c, tiles)
        yield row, col, l2


def within(distances, delta: float) -> np.ndarray:
    """Boolean: distance <= delta, both rounded to float32 (see the top of the file)."""
    return np.asarray(distances, np.float32) <= np.float32(delta)


def pairwise_l2(
    a: Images,
    b: Images,
    delta: float | None = None,
    exact_below: float | None = 0.01,
    memory_mb: float = MEMORY_MB,
) -> np.ndarray:
    """(N,M) float32: l2 of every image of `a` (N) to every image of `b` (M), by chunked matrix products.

    Pairs below `exact_below` and pairs near `delta` are computed again in float64, so `within(l2, delta)` is exact;
    elsewhere the error is below TOLERANCE / (2 l2). Working memory is about `memory_mb`, beside the result.
    `exact_below=None` saves time on many near-duplicates, whose l2 is then only known up to sqrt(TOLERANCE) = .003.

    Raises:
        ValueError: for images of other shapes, sizes or ranges than `check_images` allows.
    """
    return tiled_l2(a, b, 1, delta, exact_below, memory_mb)


def tiled_l2(
    a: Images,
    b: Images,
    tiles: int = 4,
    delta: float | None = None,
    exact_below: float | None = 0.01,
    memory_mb: float = MEMORY_MB,
) -> np.ndarray:
    """(N,M) float32: the largest l2 over tiles x tiles (sixteen) tiles; never below `pairwise_l2`.

    Carlini et al. 2023: by plain l2, any two images with the same large plain area are close.
    Other arguments as in `pairwise_l2`.

    Raises:
        ValueError: also when `tiles` does not divide height and width.
    """
    a = check_images(a, "a")
    b = check_images(b, "b", like=a)
    _check_tiles(a, tiles)
    for value, name in ((delta, "delta"), (exact_below, "exact_below")):
        if value is not None:
            check_distance(value, name)
    out = np.empty((len(a), len(b)), np.float32)
    for row, col, l2 in _blocks(a, b, delta, exact_below, tiles, memory_mb):
        out[row : row + l2.shape[0], col : col + l2.shape[1]] = l2
    return out


def paired_l2(a: Images, b: Images) -> np.ndarray:
    """(N,) float32: l2 of a[i] to b[i], computed in float64. ValueError when the two differ in shape."""
    a, b = _check_pairs(a, b)
    index = np.arange(len(a))
    return exact_l2(a, b, index, index)


def paired_tiled_l2(a: Images, b: Images, tiles: int = 4) -> np.ndarray:
    """(N,) float32: tiled l2 of a[i] to b[i], computed in float64. ValueError as in `tiled_l2` and `paired_l2`."""
    a, b = _check_pairs(a, b)
    _check_tiles(a, tiles)
    index = np.arange(len(a))
    return exact_l2(a, b, index, index, tiles)


def _check_tiles(images: np.ndarray, tiles: int) -> None:
    if tiles < 1 or images.shape[2] % tiles or images.shape[3] % tiles:
        raise ValueError(f"tiles must be positive and divide height and width {images.shape[2:]}, not {tiles}")


def ssim_pairs(a: Images, b: Images) -> np.ndarray:
    """(N,) float32: structural similarity of a[i] and b[i] (scikit-image, 7 x 7 window), 1 for equal images.

    Raises:
        ValueError: when the two differ in shape or are smaller than the window.
    """
    from skimage.metrics import structural_similarity  # most of a second to import, and only this needs it

    a, b = _check_pairs(a, b)
    if min(a.shape[2:]) < 7:
        raise ValueError(f"structural similarity needs images of 7 x 7 pixels or more, not {a.shape[2:]}")
    pairs = zip(a, b, strict=True)
    return np.array([structural_similarity(_unit(x), _unit(y), channel_axis=0, data_range=1.0) for x, y in pairs], "f4")


def _check_pairs(a: Images, b: Images) -> tuple[np.ndarray, np.ndarray]:
    a = check_images(a, "a")
    b = check_images(b, "b", like=a)
    if len(a) != len(b):
        raise ValueError(f"a and b are compared image by image but hold {len(a)} and {len(b)} images")
    return a, b


def nearest(
    generations: Images, references: Images, k: int = 1, memory_mb: float = MEMORY_MB
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest references of each generation: indices (N,k) int64 and l2 (N,k) float32, nearest first.

    Distances are exact, equal ones go to the lower index. Streams over chunks: neither the N x M matrix nor more
    than a chunk of a memory-mapped array is ever in memory (of large images, their block means are).

    Raises:
        ValueError: for unfit images, or `k` not in 1..M.
    """
    a = check_images(generations, "generations")
    b = check_images(references, "references", like=a)
    if not 1 <= k <= len(b):
        raise ValueError(f"k must be from 1 to the number of references, {len(b)}, not {k}")
    means = _block_means(a, b)
    return _nearest_plain(a, b, k, memory_mb) if means is None else _nearest_bounded(a, b, *means, k, memory_mb)


def _nearest_plain(a: np.ndarray, b: np.ndarray, k: int, memory_mb: float) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` by the distances of all pairs."""
    indices = np.empty((len(a), k), np.int64)
    distances = np.empty((len(a), k), np.float32)
    best = np.empty((0, k), np.float32)
    near: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for row, col, ms in _mean_squares(a, b, 1, memory_mb):
        r = len(ms)
        if col == 0:
            best, near = np.full((r, k), np.inf, np.float32), []
        best = np.partition(np.concatenate([best, ms], axis=1), k - 1, axis=1)[:, :k]
        # References that may still be among the k nearest: each mean square is off by up to TOLERANCE.
        limit = best.max(axis=1, keepdims=True) + 2 * TOLERANCE
        rows, cols = np.nonzero(ms <= limit)
        near.append((rows, cols + col, ms[rows, cols]))
        if col + ms.shape[1] < len(b):
            continue
        rows, cols, approximate = (np.concatenate(parts) for parts in zip(*near, strict=True))
        keep = approximate <= limit[rows, 0]
        rows, cols = rows[keep], cols[keep]
        exact = exact_l2(a, b, row + rows, cols)
        order = np.lexsort((cols, exact, rows))
        first = np.searchsorted(rows[order], np.arange(r))
        top = order[first[:, None] + np.arange(k)]  # (r,k)
        indices[row : row + r], distances[row : row + r] = cols[top], exact[top]
    return indices, distances


# --- large images -------------------------------------------------------------------------------------
# The mean square of a block's mean difference is at most the block's mean square difference (Jensen), so images
# averaged over blocks are never farther apart than the images themselves. Few pairs are near by that bound, and only
# those are compared pixel by pixel: all 512-pixel pairs of 5,000 and 10,000 images would take days.


def large(images: np.ndarray) -> bool:
    """Whether pictures are large enough for block means to spare comparisons."""
    height, width = images.shape[2:]
    return min(height, width) >= 4 * BOUND_SIDE and not (height % BOUND_SIDE or width % BOUND_SIDE)


def _block_means(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sets averaged to BOUND_SIDE x BOUND_SIDE blocks, float32; None if images are too small for this to help."""
    if not large(a):
        return None
    height, width = a.shape[2:]

    def means(images: np.ndarray) -> np.ndarray:
        out = np.empty((len(images), 3, BOUND_SIDE, BOUND_SIDE), np.float32)
        for i, image in enumerate(images):
            blocks = _unit(image).reshape(3, BOUND_SIDE, height // BOUND_SIDE, BOUND_SIDE, width // BOUND_SIDE)
            out[i] = blocks.mean(axis=(2, 4))
        return out

    return means(a), means(b)


def _nearest_bounded(
    a: np.ndarray, b: np.ndarray, a_means: np.ndarray, b_means: np.ndarray, k: int, memory_mb: float
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` that compares pixels only if the bound does not decide, and all pairs if it rarely decides."""
    indices = np.empty((len(a), k), np.int64)
    distances = np.empty((len(a), k), np.float32)
    rows = max(1, int(memory_mb * 2**20 / 4 / (4 * len(b))))  # a quarter of the memory for the bounds of these rows
    for start in range(0, len(a), rows):
        block = slice(start, min(start + rows, len(a)))
        bounds = np.empty((block.stop - start, len(b)), np.float32)
        for row, col, ms in _mean_squares(a_means[block], b_means, 1, memory_mb / 2):
            bounds[row : row + ms.shape[0], col : col + ms.shape[1]] = ms
        n_compared = 0
        for i, bound in enumerate(bounds, start):
            order = np.argsort(bound, kind="stable")
            near, exact = order[:k], exact_l2(a, b, np.full(k, i), order[:k])
            while len(near) < len(b):
                # Growing groups: the nearest so far rule out most of the rest.
                group = order[len(near) : 2 * len(near) + 4]
                worst = np.partition(exact, k - 1)[k - 1]
                group = group[bound[group] <= worst**2 + TOLERANCE]
                if not len(group):
                    break
                near, exact = np.append(near, group), np.append(exact, exact_l2(a, b, np.full(len(group), i), group))
            best = np.lexsort((near, exact))[:k]
            indices[i], distances[i] = near[best], exact[best]
            n_compared += len(near)
            if n_compared > 200 + len(b) * (i + 1 - start) / 50:  # the bound decides too little, as for images of noise
                indices[block], distances[block] = _nearest_plain(a[block], b, k, memory_mb)
                break
    return indices, distances


def hit_pairs(
    generations: Images, references: Images, delta: float = 0.1, memory_mb: float = MEMORY_MB
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair within `delta`: generation indices (P,) and reference indices (P,), sorted. Exact; streams."""
    check_distance(delta, "delta")
    a = check_images(generations, "generations")
    b = check_images(references, "references", like=a)
    pairs, means = [], _block_means(a, b)
    if means is None:
        for row, col, l2 in _blocks(a, b, delta, None, 1, memory_mb):
            r, c = np.nonzero(within(l2, delta))
            pairs.append((row + r, col + c))
    else:
        for row, col, bound in _mean_squares(*means, 1, memory_mb):
            r, c = np.nonzero(bound <= delta**2 + TOLERANCE)
            near = within(exact_l2(a, b, row + r, col + c), delta)
            pairs.append((row + r[near], col + c[near]))
    rows, cols = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.lexsort((cols, rows))
    return rows[order], cols[order]


def short_floats(distances: np.ndarray) -> tuple[float, ...]:
    # The shortest decimal of each float32: short in JSON, and 0.1f is written 0.1: still <= 0.1 in any language.
    return tuple(float(str(d)) for d in distances)
