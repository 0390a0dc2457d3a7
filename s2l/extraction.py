"""Which training images came out: compare generated images with members and with held-out photos.

Nothing here generates; it takes images, (N,3,H,W) uint8 or float in [0,1], numpy (memory-mapped too) or torch.

Notation
    l2(a, b)       sqrt(mean((a - b)^2)) over channels and pixels, pixels in [0,1]; lies in [0,1]
    extracted      a member x is extracted when some generation g has l2(g, x) <= delta
    (k, l2, delta)-eidetic
                   x is extracted and at most k training images, repeats counted, lie within delta of x itself;
                   x is one of them: a photo repeated 20 times has at least 20, so it is not eidetic at k = 10
    tiled l2       the largest l2 of any of the 4 x 4 tiles: one plain background no longer makes two images close

A distance is a float32, rounded from float64 wherever a decision hangs on it, and is compared with delta rounded to
float32. So `l2 <= delta` includes the boundary, and no chunk size and no last bit of a matrix product moves a count.

Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models", definitions 1 and 2.
The published Shake-to-Leak code counts *generations* that match; here "extracted" counts distinct members, and the
same search against held-out non-members, the false-discovery control, always comes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln
from scipy.stats import binomtest

Images = np.ndarray | torch.Tensor

THRESHOLDS = tuple(round(0.05 + 0.01 * i, 2) for i in range(16))  # .05, .06, ..., .20
MEMORY_MB = 256

# Bound on the error of a mean square from the float32 matrix product. The largest error seen is 20 times smaller
# (a test holds it); what lies closer than this to a decision is computed again, in float64 and from differences.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Match:
    """A member (or non-member) and the generation nearest to it.

    `repeats` is 0 for a non-member. `neighbours` counts training images within delta of `reference` itself, repeats
    counted; it is None where it was not needed: for non-members, and for members that were not extracted.
    """

    reference: int
    generation: int
    distance: float
    extracted: bool
    repeats: int
    neighbours: int | None
    eidetic: bool


@dataclass(frozen=True)
class Search:
    """All generations against one set of references. Tuples over references have n_references entries."""

    n_references: int
    distinct: int  # references with a generation within delta
    share: float  # distinct / n_references, with its exact 95 % (Clopper-Pearson) interval
    share_low: float
    share_high: float
    matching_generations: int  # generations with a reference within delta: the published code's way of counting
    nearest_generation: tuple[int, ...]  # over references
    distances: tuple[float, ...]  # over references, to their nearest generation
    nearest_reference: tuple[int, ...]  # over generations
    generation_distances: tuple[float, ...]  # over generations, to their nearest reference
    curve: tuple[int, ...]  # distinct at each of the extraction's thresholds
    hits: tuple[tuple[int, int], ...]  # every (generation, reference) within delta


@dataclass(frozen=True)
class Extraction:
    """The result of `extract`; `dataclasses.asdict` makes it JSON, `extraction_from_dict` reads it back."""

    delta: float
    k: int
    n_generations: int
    thresholds: tuple[float, ...]
    members: Search
    nonmembers: Search  # the false-discovery control
    eidetic: int  # members that are (k, l2, delta)-eidetic
    matches: tuple[Match, ...]  # the extracted members, nearest first
    repeats: tuple[int, ...]  # over members
    # What the control would show with as many references as there are members: the expectation over a random subset
    # of the non-members. It is None for generations when there are fewer non-members than members.
    nonmembers_scaled: float
    nonmember_generations_scaled: float | None
    nonmember_curve_scaled: tuple[float, ...]

    @property
    def distinct(self) -> int:
        """Distinct members extracted: the headline."""
        return self.members.distinct


@dataclass(frozen=True)
class ExtractionCurve:
    """Distinct members extracted among `counts` generations: expectation and 95 % interval over subsets."""

    counts: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class PairedExtraction:
    """After minus before, in distinct members extracted, with a 95 % bootstrap interval and McNemar's exact p."""

    before: int
    after: int
    difference: int
    low: float
    high: float
    only_before: int
    only_after: int
    p_value: float
    n_members: int


@dataclass(frozen=True)
class Floor:
    """l2 between images and their reconstructions by the VAE."""

    mean: float
    p95: float
    n: int


# --- distances ---------------------------------------------------------------------------------------------------


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
    # Half the memory for images (two chunks and their making: six float32 copies), half for blocks of step x step.
    step = max(1, int(min(memory / 2 / (24 * values), (memory / 2 / 24) ** 0.5)))
    centre = _tiles(b[:: -(-len(b) // 32)], tiles).mean(axis=1, keepdims=True)
    for row in range(0, len(a), step):
        x = _tiles(a[row : row + step], tiles) - centre
        xx = np.square(x).sum(axis=-1)  # (tiles * tiles, r); numpy sums pairwise, which keeps float32 accurate
        for col in range(0, len(b), step):
            y = _tiles(b[col : col + step], tiles) - centre
            yy = np.square(y).sum(axis=-1)
            largest = None
            for t in range(tiles * tiles):
                ms = x[t] @ y[t].T
                ms *= -2
                ms += xx[t][:, None]
                ms += yy[t]
                ms /= x.shape[-1]
                largest = ms if t == 0 else np.maximum(largest, ms, out=largest)
            yield row, col, largest


def _exact(a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray, tiles: int = 1) -> np.ndarray:
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
        l2[r, c] = _exact(a, b, row + r, col + c, tiles)
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

    Carlini et al. 2023: plain l2 calls any two images with the same large plain area close.
    Other arguments as in `pairwise_l2`.

    Raises:
        ValueError: also when `tiles` does not divide height and width.
    """
    a = check_images(a, "a")
    b = check_images(b, "b", like=a)
    if tiles < 1 or a.shape[2] % tiles or a.shape[3] % tiles:
        raise ValueError(f"tiles must be positive and divide height and width {a.shape[2:]}, not {tiles}")
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
    return _exact(a, b, index, index)


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
    than a chunk of a memory-mapped array is ever in memory.

    Raises:
        ValueError: for unfit images, or `k` not in 1..M.
    """
    a = check_images(generations, "generations")
    b = check_images(references, "references", like=a)
    if not 1 <= k <= len(b):
        raise ValueError(f"k must be from 1 to the number of references, {len(b)}, not {k}")
    indices = np.empty((len(a), k), np.int64)
    distances = np.empty((len(a), k), np.float32)
    best, found = None, []
    for row, col, ms in _mean_squares(a, b, 1, memory_mb):
        r = len(ms)
        if col == 0:
            best, found = np.full((r, k), np.inf, np.float32), []
        best = np.partition(np.concatenate([best, ms], axis=1), k - 1, axis=1)[:, :k]
        # Whoever may yet turn out to be among the k nearest, given that each mean square errs by up to TOLERANCE.
        limit = best.max(axis=1, keepdims=True) + 2 * TOLERANCE
        rows, cols = np.nonzero(ms <= limit)
        found.append((rows, cols + col, ms[rows, cols]))
        if col + ms.shape[1] < len(b):
            continue
        rows, cols, approximate = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = approximate <= limit[rows, 0]
        rows, cols = rows[keep], cols[keep]
        exact = _exact(a, b, row + rows, cols)
        order = np.lexsort((cols, exact, rows))
        first = np.searchsorted(rows[order], np.arange(r))
        chosen = order[first[:, None] + np.arange(k)]  # (r,k)
        indices[row : row + r], distances[row : row + r] = cols[chosen], exact[chosen]
    return indices, distances


def hit_pairs(
    generations: Images, references: Images, delta: float = 0.1, memory_mb: float = MEMORY_MB
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair within `delta`: generation indices (P,) and reference indices (P,), sorted. Exact; streams."""
    check_distance(delta, "delta")
    a = check_images(generations, "generations")
    b = check_images(references, "references", like=a)
    found = []
    for row, col, l2 in _blocks(a, b, delta, None, 1, memory_mb):
        r, c = np.nonzero(within(l2, delta))
        found.append((row + r, col + c))
    rows, cols = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((cols, rows))
    return rows[order], cols[order]


# --- extraction --------------------------------------------------------------------------------------------------


def extract(
    generations: Images,
    members: Images,
    nonmembers: Images,
    repeats: Sequence[int],
    delta: float = 0.1,
    k: int = 10,
    thresholds: Sequence[float] = THRESHOLDS,
    background: Images | None = None,
    memory_mb: float = MEMORY_MB,
) -> Extraction:
    """Distinct members extracted by the generations, which of them are eidetic, and the control on non-members.

    `repeats` says how often each member was in the training set. `background` holds further training images (other
    people, the public), each once: they cannot be extracted here, but they count towards k. Without it the k check
    sees the members only, and an image that resembles the public may be called eidetic wrongly.

    Raises:
        ValueError: for unfit images, `delta`, `k`, `thresholds` (increasing, in [0,1]) or `repeats` (one integer of
            at least 1 a member).
    """
    generations = check_images(generations, "generations")
    members = check_images(members, "members", like=generations)
    nonmembers = check_images(nonmembers, "nonmembers", like=generations)
    counts = np.asarray(repeats)
    if counts.shape != (len(members),) or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 1:
        raise ValueError(
            f"repeats must be {len(members)} integers, one a member and each at least 1 (a photo that was never "
            f"trained on belongs in nonmembers), not {np.array2string(counts, threshold=8)}"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, as an image is its own neighbour, not {k}")
    check_distance(delta, "delta")
    thresholds = tuple(float(t) for t in thresholds)
    for t in thresholds:
        check_distance(t, "every threshold")
    if sorted(set(thresholds)) != list(thresholds):
        raise ValueError(f"thresholds must increase, not {thresholds}")

    inside = _search(generations, members, delta, thresholds, memory_mb)
    outside = _search(generations, nonmembers, delta, thresholds, memory_mb)
    extracted = np.flatnonzero(within(inside.distances, delta))
    neighbours = np.zeros(len(extracted), np.int64)
    if len(extracted):
        rows, cols = hit_pairs(members[extracted], members, delta, memory_mb)
        np.add.at(neighbours, rows, counts[cols])
        if background is not None:
            rows, _ = hit_pairs(members[extracted], background, delta, memory_mb)
            np.add.at(neighbours, rows, 1)
    matches = [
        Match(
            reference=int(m),
            generation=inside.nearest_generation[m],
            distance=inside.distances[m],
            extracted=True,
            repeats=int(counts[m]),
            neighbours=int(n),
            eidetic=bool(n <= k),
        )
        for m, n in zip(extracted, neighbours, strict=True)
    ]
    scale = len(members) / len(nonmembers)
    scaled_generations = None
    if scale <= 1:
        _, hits = np.unique([g for g, _ in outside.hits], return_counts=True)  # of each generation that has any
        scaled_generations = float(_chance(hits, len(nonmembers), len(members)).sum())
    return Extraction(
        delta=float(delta),
        k=int(k),
        n_generations=len(generations),
        thresholds=thresholds,
        members=inside,
        nonmembers=outside,
        eidetic=sum(m.eidetic for m in matches),
        matches=tuple(sorted(matches, key=lambda m: (m.distance, m.reference))),
        repeats=tuple(counts.tolist()),
        nonmembers_scaled=outside.distinct * scale,
        nonmember_generations_scaled=scaled_generations,
        nonmember_curve_scaled=tuple(n * scale for n in outside.curve),
    )


def _search(generations, references, delta: float, thresholds: tuple[float, ...], memory_mb: float) -> Search:
    nearest_reference, generation_distances = nearest(generations, references, 1, memory_mb)
    nearest_generation, distances = nearest(references, generations, 1, memory_mb)
    hits = hit_pairs(generations, references, delta, memory_mb)
    distinct = int(within(distances, delta).sum())
    low, high = exact_interval(distinct, len(references))
    return Search(
        n_references=len(references),
        distinct=distinct,
        share=distinct / len(references),
        share_low=low,
        share_high=high,
        matching_generations=int(within(generation_distances, delta).sum()),
        nearest_generation=tuple(nearest_generation[:, 0].tolist()),
        distances=short_floats(distances[:, 0]),
        nearest_reference=tuple(nearest_reference[:, 0].tolist()),
        generation_distances=short_floats(generation_distances[:, 0]),
        curve=tuple(int(within(distances, t).sum()) for t in thresholds),
        hits=tuple(zip(hits[0].tolist(), hits[1].tolist(), strict=True)),
    )


def short_floats(distances: np.ndarray) -> tuple[float, ...]:
    # The shortest decimal of each float32: short in JSON, and 0.1f reads 0.1, so it still is <= 0.1 in any language.
    return tuple(float(str(d)) for d in distances)


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """The exact 95 % (Clopper-Pearson) interval of a share."""
    interval = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def _chance(hits: np.ndarray, population: int, sample: int) -> np.ndarray:
    """Probability that a random `sample` out of `population` holds at least one of `hits` (hypergeometric)."""
    missed = gammaln(np.maximum(population - hits - sample, 0) + 1) * -1.0
    missed += gammaln(population - hits + 1) + gammaln(population - sample + 1) - gammaln(population + 1)
    return np.where(hits > population - sample, 1.0, -np.expm1(missed))


def extraction_curve(
    hits: Sequence[tuple[int, int]],
    n_generations: int,
    counts: Sequence[int] | None = None,
    n_resamples: int = 200,
    seed: int = 0,
) -> ExtractionCurve:
    """How many distinct members the first n of the generations, in random order, extract, for n in `counts`.

    `hits` are (generation, member) pairs within delta, as `Extraction.members.hits`. The mean is exact (rarefaction:
    each member is missed with hypergeometric probability); the interval is the middle 95 % of random subsets drawn
    without replacement. It says what another choice among *these* generations would have given: at n =
    n_generations there is no choice, mean and interval are the count itself, and new seeds would still vary.

    Raises:
        ValueError: when a count is not in 1..n_generations or a hit names a generation beyond.
    """
    if counts is None:
        counts = np.unique(np.linspace(1, n_generations, min(n_generations, 20)).round().astype(int))
    counts = np.asarray(counts)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1 or counts.max() > n_generations:
        raise ValueError(f"counts must be from 1 to the number of generations, {n_generations}, not {counts.tolist()}")
    pairs = np.unique(np.asarray(hits, np.int64).reshape(-1, 2), axis=0)
    if len(pairs) and not 0 <= pairs[:, 0].min() <= pairs[:, 0].max() < n_generations:
        raise ValueError(f"hits name generation {pairs[:, 0].max()}, but there are only {n_generations}")
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    _, starts, sizes = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((n_resamples, len(counts)))
    for i in range(n_resamples if len(pairs) else 0):
        place = rng.permutation(n_generations)[pairs[:, 0]]
        first = np.sort(np.minimum.reduceat(place, starts))  # each member's first hit in this order
        drawn[i] = np.searchsorted(first, counts)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    mean = [float(_chance(sizes, n_generations, n).sum()) for n in counts.tolist()]
    return ExtractionCurve(tuple(counts.tolist()), tuple(mean), tuple(low.tolist()), tuple(high.tolist()))


def paired_extraction(
    before: Extraction, after: Extraction, n_bootstrap: int = 2000, seed: int = 0
) -> PairedExtraction:
    """Did fine-tuning extract more? The same members, in the same order, before and after.

    The interval is a percentile bootstrap over members, the p-value McNemar's exact test on the members that only
    one of the two extracted. Both hold the generations fixed: use the same seeds, sampler and captions for the two.

    Raises:
        ValueError: when delta, the number of members or of generations differ; counts grow with generations.
    """
    for name, x, y in (
        ("delta", before.delta, after.delta),
        ("the number of generations", before.n_generations, after.n_generations),
        ("the members' repeats", before.repeats, after.repeats),
    ):
        if x != y:
            raise ValueError(f"before and after must share {name}, but have {x} and {y}")
    b = within(before.members.distances, before.delta)
    a = within(after.members.distances, after.delta)
    n, lost, gained = len(b), int((b & ~a).sum()), int((a & ~b).sum())
    # Members differ in nothing but (before, after), so drawing n of them with replacement is one multinomial draw.
    draws = np.random.default_rng(seed).multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], n_bootstrap)
    low, high = np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5])
    return PairedExtraction(
        before=int(b.sum()),
        after=int(a.sum()),
        difference=gained - lost,
        low=float(low),
        high=float(high),
        only_before=lost,
        only_after=gained,
        p_value=float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0,
        n_members=n,
    )


def adaptive_threshold(
    generations: Images, members: Images, k: int = 50, alpha: float = 0.5, memory_mb: float = MEMORY_MB
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest member (N,) and d(g, nearest) / (alpha * mean distance to the k nearest) (N,) float32; low = copied.

    The CIFAR-10 variant of Carlini et al. 2023: plain images are close to everything, so what counts is
    whether the nearest member stands out among its neighbours. Lies in [0, 1/alpha]; a generation that equals all k
    gets 1/alpha, since none stands out.

    Raises:
        ValueError: also when there are fewer than `k` members.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    indices, distances = nearest(generations, members, k, memory_mb)
    scale = distances.mean(axis=1)
    ratio = np.divide(distances[:, 0], scale, out=np.ones_like(scale), where=scale > 0)
    return indices[:, 0], ratio / np.float32(alpha)


def reconstruction_floor(images: Images, reconstructions: Images) -> Floor:
    """The l2 that the VAE alone costs: no generation can be expected closer. It should be well below delta."""
    l2 = paired_l2(images, reconstructions)
    return Floor(mean=float(l2.mean()), p95=float(np.percentile(l2, 95)), n=len(l2))


def gallery_pairs(extraction: Extraction, top: int = 12, of: str = "members") -> tuple[Match, ...]:
    """The `top` references nearest to any generation, nearest first, each with its best generation.

    `of` is "members" or "nonmembers"; show both side by side, or a reader cannot tell likeness from leakage.
    """
    if of not in ("members", "nonmembers"):
        raise ValueError(f'of must be "members" or "nonmembers", not {of!r}')
    if of == "members":
        search, repeats, known = extraction.members, extraction.repeats, {m.reference: m for m in extraction.matches}
    else:
        search, repeats, known = extraction.nonmembers, (0,) * extraction.nonmembers.n_references, {}
    order = sorted(range(search.n_references), key=lambda i: (search.distances[i], i))[:top]
    extracted = within(search.distances, extraction.delta).tolist()
    return tuple(
        known.get(i)
        or Match(i, search.nearest_generation[i], search.distances[i], extracted[i], repeats[i], None, eidetic=False)
        for i in order
    )


def extraction_from_dict(data: dict) -> Extraction:
    """Read back `dataclasses.asdict(extraction)`, also after a round trip through JSON."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    fields = {name: tuples(value) for name, value in data.items()}
    for name in ("members", "nonmembers"):
        fields[name] = Search(**{key: tuples(value) for key, value in data[name].items()})
    fields["matches"] = tuple(Match(**match) for match in data["matches"])
    return Extraction(**fields)
