"""Summaries of an extraction: growth with generations, change between models, cost, other distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binomtest

from s2l.measure.distances import Images, check_images, paired_l2, paired_tiled_l2, short_floats, ssim_pairs, within
from s2l.measure.extraction import Extraction, chance, gallery_pairs
from s2l.measure.intervals import constant_interval


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
    # The largest l2 of 4 x 4 tiles: high if l2 is low only because of a plain background. None if they do not fit.
    tiled_l2: float | None
    ssim: float  # structural similarity: 1 for equal images


@dataclass(frozen=True)
class Floor:
    """l2 between images and their reconstructions by the VAE."""

    mean: float
    p95: float
    n: int


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
        ValueError: when a count is not in 1..n_generations, or a hit names a generation or member that does not exist.
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
    mean = np.array([chance(sizes, n_generations, n).sum() for n in numbers.tolist()])
    low, high = n_members * _binomial_limits(mean, n_members, confidence)
    return ExtractionCurve(*(tuple(values.tolist()) for values in (numbers, mean, low, high)))


def _binomial_limits(successes: np.ndarray, trials: int, confidence: float) -> np.ndarray:
    """(2,N) Clopper-Pearson limits of a rate, also for a mean number of successes (N,) that is not an integer."""
    tail = (1 - confidence) / 2
    x = np.clip(successes, 0, trials)
    low = np.where(x > 0, beta.ppf(tail, np.maximum(x, 1e-9), trials - x + 1), 0)
    high = np.where(x < trials, beta.ppf(1 - tail, x + 1, np.maximum(trials - x, 1e-9)), 1)
    return np.stack([low, high])


def paired_extraction(
    before: Extraction, after: Extraction, n_bootstrap: int = 2000, seed: int = 0
) -> PairedExtraction:
    """Are more members extracted after fine-tuning? The same members, in the same order, before and after.

    The interval is a percentile bootstrap over members (the rule of three if all of them changed alike, or none),
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
    return paired_counts(b, a, n_bootstrap, seed)


def paired_counts(b: np.ndarray, a: np.ndarray, n_bootstrap: int = 2000, seed: int = 0) -> PairedExtraction:
    """As paired_extraction, from which of the same N members each of two searches extracted: (N,) bool, (N,) bool."""
    n, lost, gained = len(b), int((b & ~a).sum()), int((a & ~b).sum())
    # Members differ in nothing but (before, after), so drawing n of them with replacement is one multinomial draw.
    draws = np.random.default_rng(seed).multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], n_bootstrap)
    low, high = np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5])
    if n in (gained, lost, n - gained - lost):  # every resample is the sample
        interval = constant_interval((gained - lost) / n, n, -1, 1)
        low, high = n * interval.low, n * interval.high
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


def efficiency(extraction: Extraction, unet_evaluations: int) -> Efficiency:
    """Members extracted by the generations, relative to what these cost (`guidance.generation_cost`).

    Distinct members saturate: fewer generations look more efficient. Compare at about equal cost.
    """
    if unet_evaluations < 1:
        raise ValueError(f"generations cost at least one UNet evaluation, not {unet_evaluations}")
    scale = 1000 * extraction.members.n_references / unet_evaluations
    return Efficiency(
        unet_evaluations=unet_evaluations,
        per_1000=extraction.members.share * scale,
        low=extraction.members.share_low * scale,
        high=extraction.members.share_high * scale,
        nonmembers_per_1000=1000 * extraction.nonmembers_scaled / unet_evaluations,
    )


def second_opinions(extraction: Extraction, generations: Images, members: Images, top: int = 12) -> tuple[Opinion, ...]:
    """Tiled l2 and SSIM of the nearest pairs: every extracted member, and at least the `top` nearest ones.

    `generations` and `members` are those of `extract`. Nearest first, as in `gallery_pairs`.
    """
    generations = check_images(generations, "generations")
    members = check_images(members, "members", like=generations)
    matches = gallery_pairs(extraction, max(top, len(extraction.matches)))
    pair = generations[[m.generation for m in matches]], members[[m.reference for m in matches]]
    fits = all(side % 4 == 0 for side in members.shape[2:])
    tiled = short_floats(paired_tiled_l2(*pair)) if fits else (None,) * len(matches)
    ssim = short_floats(ssim_pairs(*pair))
    return tuple(
        Opinion(m.reference, m.generation, m.extracted, m.distance, worst, similar)
        for m, worst, similar in zip(matches, tiled, ssim, strict=True)
    )


def reconstruction_floor(images: Images, reconstructions: Images) -> Floor:
    """The l2 that the VAE alone costs: no generation can be expected closer. It should be well below delta."""
    l2 = paired_l2(images, reconstructions)
    return Floor(mean=float(l2.mean()), p95=float(np.percentile(l2, 95)), n=len(l2))
