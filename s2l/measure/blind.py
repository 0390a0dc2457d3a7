"""Extraction without the training set: what an attacker who holds only the generations can flag.

A model that has memorised an image generates it again and again from different seeds, while other images differ. So:
join two generations by an edge when they are near-duplicates (small tiled l2), and flag every clique of at least ten.
Only then are the flags compared with members (precision, recall) and with held-out photos (the control).

Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models": 500 generations per prompt,
cliques of ten, the largest l2 of sixteen tiles. They search one prompt at a time; to do the same, call
`blind_clusters` once per prompt. The other signal that needs no training set, ||eps(z_t, c) - eps(z_t, empty)|| at the
first step (Wen et al. 2024, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models"), needs the
model and so is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l.measure.distances import (
    MEMORY_MB,
    Images,
    check_distance,
    check_images,
    hit_pairs,
    nearest,
    short_floats,
    tiled_l2,
    within,
)
from s2l.measure.intervals import binomial_interval

EDGE = 0.15  # tiled l2 below which two generations are near-duplicates
MIN_SIZE = 10  # generations of a clique, as in the source


@dataclass(frozen=True)
class Cluster:
    """Generations that are all near-duplicates of each other; the medoid represents them."""

    generations: tuple[int, ...]  # increasing
    medoid: int  # the generation with the smallest mean tiled l2 to the others
    size: int
    mean_distance: float  # tiled l2, over the pairs within the cluster
    max_distance: float


@dataclass(frozen=True)
class BlindScore:
    """How good the flags were. Shares have exact 95 % intervals; precision is None when nothing was flagged."""

    delta: float
    n_flags: int
    true_flags: int  # flags within delta of a member
    precision: float | None  # true_flags / n_flags
    precision_low: float | None
    precision_high: float | None
    n_members: int
    distinct: int  # members within delta of a flag
    recall: float  # distinct / n_members
    recall_low: float
    recall_high: float
    # The control: the same flags against held-out photos, scaled to as many references as there are members.
    n_nonmembers: int
    nonmember_flags: int  # flags within delta of a held-out photo
    nonmember_distinct: int
    nonmember_scaled: float  # nonmember_distinct * n_members / n_nonmembers
    flags: tuple[int, ...]  # the flagged generations, and for each of them:
    nearest_member: tuple[int, ...]
    member_distances: tuple[float, ...]
    nonmember_distances: tuple[float, ...]


def blind_clusters(
    generations: Images, edge: float = EDGE, min_size: int = MIN_SIZE, tiles: int = 4, memory_mb: float = MEMORY_MB
) -> tuple[Cluster, ...]:
    """Disjoint cliques of at least `min_size` generations with tiled l2 <= `edge`, largest first. Deterministic.

    Finding the largest clique is NP-hard, so cliques are grown greedily: from the generation with most edges, adding
    those that share most neighbours with it, as long as every pair stays joined. Each result is a true clique (no two
    of its images are further apart than `edge`), maximal among the generations not yet taken; one of barely
    `min_size` that overlaps a larger group may be missed, so the number of flags errs on the low side.

    `edge` is a starting point: choose it, like every hyper-parameter, on calibration domains and then freeze it.
    Memory: `memory_mb` plus 5 N^2 bytes (125 MB for 5,000 generations).

    Raises:
        ValueError: for unfit images, `tiles` or `edge`, or `min_size` below 2.
    """
    if min_size < 2:
        raise ValueError(f"min_size must be at least 2 (a single image is not a cluster), not {min_size}")
    check_distance(edge, "edge")
    # Only `edge` must be exact: a collapsed model gives millions of pairs near zero, too many to compute twice.
    distances = tiled_l2(generations, generations, tiles, delta=edge, exact_below=None, memory_mb=memory_mb)
    adjacency = within(distances, edge)
    np.fill_diagonal(adjacency, False)
    np.fill_diagonal(distances, 0)

    clusters = []
    free = _core(adjacency, np.ones(len(adjacency), bool), min_size - 1)
    seeds = free.copy()
    while seeds.any():
        degree = adjacency[:, free].sum(axis=1)
        # Seeds that fail stay available to others' cliques, so `free` and `degree` change only with a success.
        for seed in np.lexsort((np.arange(len(degree)), -degree)):
            if not seeds[seed]:
                continue
            seeds[seed] = False
            clique = _grow(adjacency, int(seed), free)
            if len(clique) >= min_size:
                clusters.append(_cluster(clique, distances))
                free[clique] = False
                free = _core(adjacency, free, min_size - 1)
                seeds &= free
                break
    return tuple(sorted(clusters, key=lambda c: (-c.size, c.medoid)))


def _core(adjacency: np.ndarray, free: np.ndarray, least: int) -> np.ndarray:
    """Drop vertices with fewer than `least` free neighbours until none is left: they can be in no clique."""
    while True:
        rest = free & (adjacency[:, free].sum(axis=1) >= least)
        if (rest == free).all():
            return rest
        free = rest


def _grow(adjacency: np.ndarray, seed: int, free: np.ndarray) -> np.ndarray:
    """A maximal clique around `seed` among the free vertices, sorted."""
    neighbours = np.flatnonzero(adjacency[seed] & free)
    edges = adjacency[np.ix_(neighbours, neighbours)]
    order = np.argsort(-edges.sum(axis=1), kind="stable")
    candidates = np.ones(len(neighbours), bool)
    clique = [seed]
    for i in order:
        if candidates[i]:
            clique.append(neighbours[i])
            candidates &= edges[i]
    return np.sort(clique)


def _cluster(clique: np.ndarray, distances: np.ndarray) -> Cluster:
    d = distances[np.ix_(clique, clique)]
    # Rounding: the last bits of the matrix product must not choose between duplicates.
    medoid = clique[np.argmin(d.mean(axis=1).round(5))]
    mean = float(d.sum(dtype=np.float64) / (len(d) * (len(d) - 1)))
    return Cluster(tuple(clique.tolist()), int(medoid), len(clique), mean, float(d.max()))


def blind_flags(clusters: Sequence[Cluster]) -> tuple[int, ...]:
    """The flagged generations: the medoid of each cluster. The attacker claims that each shows a training image."""
    return tuple(c.medoid for c in clusters)


def score_blind(
    generations: Images,
    clusters: Sequence[Cluster],
    members: Images,
    nonmembers: Images,
    delta: float = 0.1,
    memory_mb: float = MEMORY_MB,
) -> BlindScore:
    """Precision and recall of the flags of `blind_clusters(generations)`; plain l2, as in `extract`.

    Precision counts flags, recall counts distinct members: two clusters of one member are two true flags and one
    member. A high precision means leakage only if the control is low.

    Raises:
        ValueError: for unfit images or delta, or clusters that name generations beyond the last.
    """
    generations = check_images(generations, "generations")
    members = check_images(members, "members", like=generations)
    nonmembers = check_images(nonmembers, "nonmembers", like=generations)
    flags = blind_flags(clusters)
    if flags and max(flags) >= len(generations):
        raise ValueError(
            f"the clusters name generation {max(flags)}, but there are only {len(generations)} generations"
        )
    m_flags, m_distinct, nearest_member, member_distances = _compare(generations, flags, members, delta, memory_mb)
    n_flags, n_distinct, _, nonmember_distances = _compare(generations, flags, nonmembers, delta, memory_mb)
    precision = binomial_interval(m_flags, len(flags)) if flags else None
    recall = binomial_interval(m_distinct, len(members))
    return BlindScore(
        delta=float(delta),
        n_flags=len(flags),
        true_flags=m_flags,
        precision=m_flags / len(flags) if flags else None,
        precision_low=precision.low if precision else None,
        precision_high=precision.high if precision else None,
        n_members=len(members),
        distinct=m_distinct,
        recall=m_distinct / len(members),
        recall_low=recall.low,
        recall_high=recall.high,
        n_nonmembers=len(nonmembers),
        nonmember_flags=n_flags,
        nonmember_distinct=n_distinct,
        nonmember_scaled=n_distinct * len(members) / len(nonmembers),
        flags=flags,
        nearest_member=nearest_member,
        member_distances=member_distances,
        nonmember_distances=nonmember_distances,
    )


def _compare(generations, flags, references, delta, memory_mb) -> tuple[int, int, tuple[int, ...], tuple[float, ...]]:
    """Flags with a hit, distinct references hit, and each flag's nearest reference with its l2."""
    if not flags:
        return 0, 0, (), ()
    flag_images = generations[list(flags)]
    hit_flags, hit_references = hit_pairs(flag_images, references, delta, memory_mb)
    index, l2 = nearest(flag_images, references, 1, memory_mb)
    return len(set(hit_flags)), len(set(hit_references)), tuple(index[:, 0].tolist()), short_floats(l2[:, 0])
