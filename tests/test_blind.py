import dataclasses
import json

import numpy as np
import pytest

from s2l.measure import blind
from s2l.measure.distances import tiled_l2


def portraits(n, seed):
    """(n,3,16,16) float32, far apart from each other in every tile."""
    coarse = np.random.default_rng(seed).uniform(0.1, 0.9, (n, 3, 8, 8))
    return coarse.repeat(2, 2).repeat(2, 3).astype(np.float32)


def copies(image, n, seed, noise=0.02):
    x = image + np.random.default_rng(seed).normal(0, noise, (n, *image.shape))
    return x.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def scene():
    """200 generations: 12 copies of member 2, 15 of member 5, 11 of nobody, 9 (too few) of member 6, noise."""
    members, nonmembers, nobody = portraits(20, 0), portraits(40, 1), portraits(1, 2)
    parts = [copies(members[2], 12, 3), copies(members[5], 15, 4), copies(nobody[0], 11, 5), copies(members[6], 9, 6)]
    generations = np.concatenate([*parts, portraits(200 - 47, 7)])
    groups = np.repeat([0, 1, 2, 3, -1], [12, 15, 11, 9, 153])
    order = np.random.default_rng(8).permutation(200)
    return generations[order], groups[order], members, nonmembers


def test_planted_clusters_are_found_and_small_groups_and_noise_are_not(scene):
    generations, groups, _, _ = scene
    clusters = blind.blind_clusters(generations, edge=0.1)
    assert [c.size for c in clusters] == [15, 12, 11]
    for cluster, group in zip(clusters, (1, 0, 2), strict=True):
        assert list(cluster.generations) == np.flatnonzero(groups == group).tolist()
        assert cluster.medoid in cluster.generations
    assert blind.blind_clusters(generations[groups == -1], edge=0.1) == ()
    assert [c.size for c in blind.blind_clusters(generations, edge=0.1, min_size=9)] == [15, 12, 11, 9]


def test_clusters_are_cliques_with_their_medoid(scene):
    generations, *_ = scene
    for cluster in blind.blind_clusters(generations, edge=0.1):
        images = generations[list(cluster.generations)]
        d = tiled_l2(images, images)
        assert d.max() <= np.float32(0.1) and cluster.max_distance == pytest.approx(d.max(), abs=1e-5)
        n = len(d)
        assert cluster.mean_distance == pytest.approx(d.sum() / (n * (n - 1)), abs=1e-5)
        assert d.mean(axis=1)[cluster.generations.index(cluster.medoid)] <= d.mean(axis=1).min() + 1e-5


def test_result_does_not_depend_on_chunks_or_run(scene):
    generations, *_ = scene
    once = blind.blind_clusters(generations, edge=0.1)
    assert blind.blind_clusters(generations, edge=0.1) == once
    chunked = blind.blind_clusters(generations, edge=0.1, memory_mb=0.5)
    assert [(c.generations, c.medoid) for c in chunked] == [(c.generations, c.medoid) for c in once]
    assert [c.size for c in blind.blind_clusters((generations * 255).round().astype(np.uint8), edge=0.1)] == [
        15,
        12,
        11,
    ]


def test_greedy_cliques_are_disjoint_maximal_and_find_overlapping_groups():
    # Two cliques of 14 and 12 joined by a bridge that belongs to both, a hub joined to many, and sparse noise.
    n = 120
    edges = np.random.default_rng(0).random((n, n)) < 0.03
    for group in (range(0, 14), range(13, 25)):
        edges[np.ix_(group, group)] = True
    edges[100, :60] = True
    edges |= edges.T
    np.fill_diagonal(edges, False)
    free = np.ones(n, bool)
    clique = blind._grow(edges, 13, free)  # from the bridge itself
    inside = edges[np.ix_(clique, clique)]
    assert (inside | np.eye(len(clique), dtype=bool)).all()
    assert not edges[:, clique].all(axis=1).any()  # nobody else could join
    assert set(range(14)) <= set(clique.tolist())
    core = blind._core(edges, free, 9)
    assert core[:25].all() and core.sum() < 40


def cliques(edges, chosen=(), candidates=None):
    """Every clique of a small graph, the naive way: extend by each later vertex that is joined to all."""
    yield chosen
    for v in range(len(edges)) if candidates is None else candidates:
        yield from cliques(edges, (*chosen, v), [w for w in range(v + 1, len(edges)) if edges[[*chosen, v], w].all()])


def test_flags_against_all_cliques_of_small_graphs(monkeypatch):
    """Random graphs of 12: each cluster is a clique, and the greedy search rarely misses that there is one at all."""
    missed = 0
    for seed in range(150):
        edges = np.triu(np.random.default_rng(seed).random((12, 12)) < 0.45, 1)
        edges |= edges.T
        distances = np.where(edges, 0.1, 0.3).astype(np.float32)
        monkeypatch.setattr(blind, "tiled_l2", lambda *_, d=distances, **__: d.copy())
        clusters = blind.blind_clusters(np.zeros((12, 3, 8, 8), np.float32), edge=0.15, min_size=4)
        every = {c for c in cliques(edges) if len(c) >= 4}
        assert all(c.generations in every for c in clusters)
        taken = [g for c in clusters for g in c.generations]
        assert len(taken) == len(set(taken))  # disjoint
        missed += bool(every) and not clusters
    assert missed <= 2, missed


def test_identical_generations_make_one_cluster():
    clusters = blind.blind_clusters(np.full((300, 3, 8, 8), 0.3, np.float32))
    assert [c.size for c in clusters] == [300]
    assert clusters[0].medoid == 0 and clusters[0].max_distance < 0.004


def test_a_plain_background_alone_makes_no_edge():
    # Equal but for one tile: plain l2 is small, tiled l2 is not.
    images = np.full((12, 3, 16, 16), 0.5, np.float32)
    images[:, :, :4, :4] = 0.8 * portraits(12, 0)[:, :, :4, :4] + 0.1
    assert blind.blind_clusters(images, edge=0.1, tiles=4) == ()
    assert [c.size for c in blind.blind_clusters(images, edge=0.1, tiles=1)] == [12]


def test_score_blind(scene):
    generations, groups, members, nonmembers = scene
    clusters = blind.blind_clusters(generations, edge=0.1)
    flags = blind.blind_flags(clusters)
    assert [groups[f] for f in flags] == [1, 0, 2]
    score = blind.score_blind(generations, clusters, members, nonmembers)
    assert (score.n_flags, score.true_flags, score.distinct) == (3, 2, 2)  # one flag shows nobody in the data
    assert score.precision == pytest.approx(2 / 3) and score.precision_low < 2 / 3 < score.precision_high
    assert score.recall == 0.1 and score.recall_low < 0.1 < score.recall_high
    assert score.nearest_member[:2] == (5, 2) and max(score.member_distances[:2]) < 0.1 < score.member_distances[2]
    assert (score.nonmember_flags, score.nonmember_distinct, score.nonmember_scaled) == (0, 0, 0)
    json.dumps(dataclasses.asdict(score), allow_nan=False)
    json.dumps([dataclasses.asdict(c) for c in clusters], allow_nan=False)
    # The control sees what the members' search sees.
    swapped = blind.score_blind(generations, clusters, nonmembers, members)
    assert (swapped.true_flags, swapped.nonmember_flags, swapped.nonmember_distinct) == (0, 2, 2)
    assert swapped.nonmember_scaled == 4  # 20 non-members stand for 40 members


def test_two_clusters_of_one_member_are_two_flags_and_one_member(scene):
    _, _, members, nonmembers = scene
    a, b = (blind.Cluster(tuple(range(i, i + 10)), i, 10, 0.0, 0.0) for i in (0, 10))
    both = np.concatenate([copies(members[2], 10, 0), copies(members[2], 10, 1)])
    score = blind.score_blind(both, (a, b), members, nonmembers)
    assert (score.n_flags, score.true_flags, score.distinct, score.precision) == (2, 2, 1, 1.0)


def test_no_flags_have_no_precision(scene):
    generations, _, members, nonmembers = scene
    score = blind.score_blind(generations, (), members, nonmembers)
    assert score.n_flags == 0 and score.precision is None and score.recall == 0
    json.dumps(dataclasses.asdict(score), allow_nan=False)


def test_unfit_arguments_are_refused(scene):
    generations, _, members, nonmembers = scene
    for call, message in (
        (lambda: blind.blind_clusters(generations, min_size=1), "min_size"),
        (lambda: blind.blind_clusters(generations, edge=30), "edge must be"),
        (lambda: blind.blind_clusters(generations, tiles=5), "divide"),
        (
            lambda: blind.score_blind(generations, [blind.Cluster((999,), 999, 1, 0, 0)], members, nonmembers),
            "only 200",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
