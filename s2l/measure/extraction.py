"""Extracted photos: compare generations with members and with held-out photos.

Nothing here generates; it takes images as `distances.py` does.

Notation
    extracted      a member x is extracted when some generation g has l2(g, x) <= delta
    (k, l2, delta)-eidetic
                   x is extracted and at most k training images, repeats counted, lie within delta of x itself;
                   x is one of them: a photo repeated 20 times has at least 20, so it is not eidetic at k = 10

Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models", definitions 1 and 2.
The published Shake-to-Leak code counts *generations* that match; here "extracted" counts distinct members, and the
same search among held-out photos, the false-discovery control, is always part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln

from s2l.measure.distances import (
    MEMORY_MB,
    Images,
    check_distance,
    check_images,
    hit_pairs,
    short_floats,
    within,
)
from s2l.measure.intervals import binomial_interval
from s2l.measure.pairs import all_pairs

THRESHOLDS = tuple(round(0.05 + 0.01 * i, 2) for i in range(16))  # .05, .06, ..., .20


@dataclass(frozen=True)
class Match:
    """A member (or held-out photo) and the generation nearest to it.

    `repeats` is 0 for a held-out photo. `neighbours` counts training images within delta of `reference` itself, repeats
    counted; it is None where it was not needed: for held-out photos, and for members that were not extracted.
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
    matching_generations: int  # generations with a reference within delta: the published code counts these
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
    # of the held-out photos. It is None for generations if there are fewer held-out photos than members.
    nonmembers_scaled: float
    nonmember_generations_scaled: float | None
    nonmember_curve_scaled: tuple[float, ...]

    @property
    def distinct(self) -> int:
        """Distinct members extracted: the headline."""
        return self.members.distinct


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
    device: torch.device | str = "cpu",
) -> Extraction:
    """Distinct members extracted by the generations, which of them are eidetic, and the control on held-out photos.

    `repeats` says how often each member was in the training set; all 0 means a reference set that the model never saw,
    which is treated as if each photo had been in it once. `background` holds further training images (other
    people, the public), each once: they cannot be extracted here, but they count towards k. Without it the k check
    sees the members only, and an image that resembles a public one may wrongly be called eidetic.

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

    inside = _search(generations, members, delta, thresholds, memory_mb, device)
    outside = _search(generations, nonmembers, delta, thresholds, memory_mb, device)
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
        _, hits = np.unique([g for g, _ in outside.hits], return_counts=True)  # per generation that has any
        scaled_generations = float(chance(hits, len(nonmembers), len(members)).sum())
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


def _search(generations, references, delta: float, thresholds: tuple[float, ...], memory_mb: float, device) -> Search:
    pairs = all_pairs(generations, references, delta, memory_mb, device)
    distinct = int(within(pairs.l2_b, delta).sum())
    share = binomial_interval(distinct, len(references))
    return Search(
        n_references=len(references),
        distinct=distinct,
        share=distinct / len(references),
        share_low=share.low,
        share_high=share.high,
        matching_generations=int(within(pairs.l2_a, delta).sum()),
        nearest_generation=tuple(pairs.nearest_a.tolist()),
        distances=short_floats(pairs.l2_b),
        nearest_reference=tuple(pairs.nearest_b.tolist()),
        generation_distances=short_floats(pairs.l2_a),
        curve=tuple(int(within(pairs.l2_b, t).sum()) for t in thresholds),
        hits=tuple(zip(pairs.hits[0].tolist(), pairs.hits[1].tolist(), strict=True)),
    )


def chance(hits: np.ndarray, population: int, sample: int) -> np.ndarray:
    """Probability that a random `sample` out of `population` holds at least one of `hits` (hypergeometric)."""
    log_none = gammaln(np.maximum(population - hits - sample, 0) + 1) * -1.0
    log_none += gammaln(population - hits + 1) + gammaln(population - sample + 1) - gammaln(population + 1)
    return np.where(hits > population - sample, 1.0, -np.expm1(log_none))


def gallery_pairs(extraction: Extraction, top: int = 12, of: str = "members") -> tuple[Match, ...]:
    """The `top` references nearest to any generation, nearest first, each with its best generation.

    `of` is "members" or "nonmembers"; show both side by side, or a reader cannot tell likeness from leakage.
    """
    if of not in ("members", "nonmembers"):
        raise ValueError(f'of must be "members" or "nonmembers", not {of!r}')
    if of == "members":
        search, repeats, matches = extraction.members, extraction.repeats, {m.reference: m for m in extraction.matches}
    else:
        search, repeats, matches = extraction.nonmembers, (0,) * extraction.nonmembers.n_references, {}
    order = sorted(range(search.n_references), key=lambda i: (search.distances[i], i))[:top]
    extracted = within(search.distances, extraction.delta).tolist()
    return tuple(
        matches.get(i)
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
