"""Which training images came out: compare generated images with members and with held-out photos.

Nothing here generates; it takes images as `distances.py` does.

Notation
    extracted      a member x is extracted when some generation g has l2(g, x) <= delta
    (k, l2, delta)-eidetic
                   x is extracted and at most k training images, repeats counted, lie within delta of x itself;
                   x is one of them: a photo repeated 20 times has at least 20, so it is not eidetic at k = 10

Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models", definitions 1 and 2.
The published Shake-to-Leak code counts *generations* that match; here "extracted" counts distinct members, and the
same search against held-out non-members, the false-discovery control, always comes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from scipy.stats import beta, binomtest

from s2l.measure.distances import (
    MEMORY_MB,
    Images,
    check_distance,
    check_images,
    hit_pairs,
    nearest,
    paired_l2,
    paired_tiled_l2,
    short_floats,
    ssim_pairs,
    within,
)
from s2l.measure.intervals import binomial_interval, constant_interval

THRESHOLDS = tuple(round(0.05 + 0.01 * i, 2) for i in range(16))  # .05, .06, ..., .20


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
    """Distinct members extracted among `counts` generations: expectation and interval."""

    counts: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class PairedExtraction:
    """After minus before, in distinct members extracted, with a 95 % interval and McNemar's exact p."""

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
class Efficiency:
    """Distinct members extracted per 1,000 UNet evaluations, with the exact 95 % interval of their share."""

    unet_evaluations: int
    per_1000: float
    low: float
    high: float
    nonmembers_per_1000: float  # the control, scaled to as many references as there are members


@dataclass(frozen=True)
class Opinion:
    """A member and its nearest generation, judged by three distances. `extracted` is decided by l2 alone."""

    reference: int
    generation: int
    extracted: bool
    l2: float
    # The worst of sixteen tiles, high where l2 is low because of a plain background; None where four a side do not fit.
    tiled_l2: float | None
    ssim: float  # structural similarity: 1 for equal images


@dataclass(frozen=True)
class Floor:
    """l2 between images and their reconstructions by the VAE."""

    mean: float
    p95: float
    n: int


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

    `repeats` says how often each member was in the training set; all 0 means a reference set that the model never saw,
    which is judged as if each photo had been in it once. `background` holds further training images (other
    people, the public), each once: they cannot be extracted here, but they count towards k. Without it the k check
    sees the members only, and an image that resembles the public may be called eidetic wrongly.

    Raises:
        ValueError: for unfit images, `delta`, `k`, `thresholds` (increasing, in [0,1]) or `repeats` (one integer of
            at least 1 per member, or all 0).
    """
    generations = check_images(generations, "generations")
    members = check_images(members, "members", like=generations)
    nonmembers = check_images(nonmembers, "nonmembers", like=generations)
    counts = np.asarray(repeats)
    fits = counts.shape == (len(members),) and np.issubdtype(counts.dtype, np.integer)
    if not fits or counts.min() < 0 or (counts.min() < 1 and counts.any()):
        raise ValueError(
            f"repeats must be {len(members)} integers, one per member and each at least 1 (a photo that was never "
            f"trained on belongs in nonmembers) or all 0 (a reference set), not {np.array2string(counts, threshold=8)}"
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
        np.add.at(neighbours, rows, np.maximum(counts, 1)[cols])
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
    share = binomial_interval(distinct, len(references))
    return Search(
        n_references=len(references),
        distinct=distinct,
        share=distinct / len(references),
        share_low=share.low,
        share_high=share.high,
        matching_generations=int(within(generation_distances, delta).sum()),
        nearest_generation=tuple(nearest_generation[:, 0].tolist()),
        distances=short_floats(distances[:, 0]),
        nearest_reference=tuple(nearest_reference[:, 0].tolist()),
        generation_distances=short_floats(generation_distances[:, 0]),
        curve=tuple(int(within(distances, t).sum()) for t in thresholds),
        hits=tuple(zip(hits[0].tolist(), hits[1].tolist(), strict=True)),
    )


def _chance(hits: np.ndarray, population: int, sample: int) -> np.ndarray:
    """Probability that a random `sample` out of `population` holds at least one of `hits` (hypergeometric)."""
    missed = gammaln(np.maximum(population - hits - sample, 0) + 1) * -1.0
    missed += gammaln(population - hits + 1) + gammaln(population - sample + 1) - gammaln(population + 1)
    return np.where(hits > population - sample, 1.0, -np.expm1(missed))


def extraction_curve(
    hits: Sequence[tuple[int, int]],
    n_generations: int,
    n_members: int,
    counts: Sequence[int] | None = None,
    confidence: float = 0.95,
) -> ExtractionCurve:
    """How many distinct members n generations extract, for n in `counts` (default: about 20 up to all).

    `hits` are (generation, member) pairs within delta, as `Extraction.members.hits`. The mean over all choices of n
    generations is exact (rarefaction: each member is missed with hypergeometric probability). The interval is about
    new generations too: whether a member is hit is one trial, so the count is at most as spread as a binomial one
    (Hoeffding 1956), and Clopper-Pearson's interval, its beta quantiles taken at the mean, covers the expected count
    of n fresh generations with at least `confidence` as long as the members are hit independently of each other.

    Raises:
        ValueError: when a count is not in 1..n_generations or a hit names a generation or member beyond.
    """
    about = np.linspace(1, n_generations, min(n_generations, 20)).round().astype(int)
    numbers = np.unique(about) if counts is None else np.asarray(counts)
    if numbers.ndim != 1 or not len(numbers) or numbers.min() < 1 or numbers.max() > n_generations:
        raise ValueError(f"counts must be from 1 to the number of generations, {n_generations}, not {numbers.tolist()}")
    pairs = np.unique(np.asarray(hits, np.int64).reshape(-1, 2), axis=0)
    for column, name, number in ((0, "generation", n_generations), (1, "member", n_members)):
        if len(pairs) and not 0 <= pairs[:, column].min() <= pairs[:, column].max() < number:
            raise ValueError(f"hits name {name} {pairs[:, column].max()}, but there are only {number}")
    _, sizes = np.unique(pairs[:, 1], return_counts=True)
    mean = np.array([_chance(sizes, n_generations, n).sum() for n in numbers.tolist()])
    low, high = n_members * _binomial_limits(mean, n_members, confidence)
    return ExtractionCurve(*(tuple(values.tolist()) for values in (numbers, mean, low, high)))


def _binomial_limits(successes: np.ndarray, trials: int, confidence: float) -> np.ndarray:
    """(2,N) Clopper-Pearson limits of a rate, also for a mean number of successes (N,) that is no integer."""
    tail = (1 - confidence) / 2
    x = np.clip(successes, 0, trials)
    low = np.where(x > 0, beta.ppf(tail, np.maximum(x, 1e-9), trials - x + 1), 0)
    high = np.where(x < trials, beta.ppf(1 - tail, x + 1, np.maximum(trials - x, 1e-9)), 1)
    return np.stack([low, high])


def paired_extraction(
    before: Extraction, after: Extraction, n_bootstrap: int = 2000, seed: int = 0
) -> PairedExtraction:
    """Did fine-tuning extract more? The same members, in the same order, before and after.

    The interval is a percentile bootstrap over members (where all of them changed alike, or none, the rule of three),
    the p-value McNemar's exact test on the members that only one of the two extracted. Both hold the generations
    fixed: use the same seeds, sampler and captions for the two.

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
    if n in (gained, lost, n - gained - lost):  # every resample is the sample
        alike = constant_interval((gained - lost) / n, n, -1, 1)
        low, high = n * alike.low, n * alike.high
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


def efficiency(found: Extraction, unet_evaluations: int) -> Efficiency:
    """What the generations of `found` were worth, given what they cost (`guidance.generation_cost`).

    Distinct members saturate: fewer generations look more efficient. Compare at about equal cost.
    """
    if unet_evaluations < 1:
        raise ValueError(f"generations cost at least one UNet evaluation, not {unet_evaluations}")
    scale = 1000 * found.members.n_references / unet_evaluations
    return Efficiency(
        unet_evaluations=unet_evaluations,
        per_1000=found.members.share * scale,
        low=found.members.share_low * scale,
        high=found.members.share_high * scale,
        nonmembers_per_1000=1000 * found.nonmembers_scaled / unet_evaluations,
    )


def second_opinions(found: Extraction, generations: Images, members: Images, top: int = 12) -> tuple[Opinion, ...]:
    """Tiled l2 and SSIM of the nearest pairs: every extracted member, and at least the `top` nearest ones.

    `generations` and `members` are those of `extract`. Nearest first, as in `gallery_pairs`.
    """
    generations = check_images(generations, "generations")
    members = check_images(members, "members", like=generations)
    matches = gallery_pairs(found, max(top, len(found.matches)))
    pair = generations[[m.generation for m in matches]], members[[m.reference for m in matches]]
    fits = all(side % 4 == 0 for side in members.shape[2:])
    tiled = short_floats(paired_tiled_l2(*pair)) if fits else (None,) * len(matches)
    ssim = short_floats(ssim_pairs(*pair))
    return tuple(
        Opinion(m.reference, m.generation, m.extracted, m.distance, worst, similar)
        for m, worst, similar in zip(matches, tiled, ssim, strict=True)
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
