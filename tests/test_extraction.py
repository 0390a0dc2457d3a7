import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from s2l.measure import distances as ds
from s2l.measure import extraction as ex
from s2l.measure import extraction_summary as summary


def photos(n, seed=0, size=16):
    """(n,3,size,size) uint8: smooth portraits around one mean, so that distances lie around .1 to .3 as real ones."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, 3, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
    return (0.5 * coarse + 64 + rng.uniform(-9, 9, coarse.shape)).round().astype(np.uint8)


def near(images, l2, seed=1):
    """Float copies of uint8 images at about the given l2."""
    noise = np.random.default_rng(seed).normal(size=images.shape)
    noise *= l2 / np.sqrt(np.square(noise).mean(axis=(1, 2, 3), keepdims=True))
    return (images / 255 + noise).clip(0, 1).astype(np.float32)


def naive_l2(a, b, tiles=1):
    """One pair after the other, one tile after the other, float64."""
    a, b = (x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x for x in (a, b))
    out = np.zeros((len(a), len(b)))
    h, w = a.shape[2] // tiles, a.shape[3] // tiles
    for i, x in enumerate(a.astype(np.float64)):
        for j, y in enumerate(b.astype(np.float64)):
            for r in range(tiles):
                for c in range(tiles):
                    tile = np.s_[:, r * h : (r + 1) * h, c * w : (c + 1) * w]
                    out[i, j] = max(out[i, j], np.sqrt(np.mean((x[tile] - y[tile]) ** 2)))
    return out


def flat(level, n=1, size=8):
    return np.full((n, 3, size, size), level, np.float32)


TINY = 0.02  # memory_mb that makes many chunks of a few images


# --- distances ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize("memory_mb", [TINY, 256])
def test_distances_equal_a_naive_loop(tiles, memory_mb):
    b = photos(23, seed=1)
    a = np.concatenate([near(b[:6], 0.1), near(b[6:9], 0.0005), b[9:12] / np.float32(255), near(photos(5, seed=2), 0)])
    expected = naive_l2(a, b, tiles)
    for delta in (None, 0.1):
        l2 = ds.tiled_l2(a, b, tiles, delta=delta, memory_mb=memory_mb)
        assert l2.dtype == np.float32 and l2.shape == (17, 23)
        np.testing.assert_allclose(l2, expected, atol=2e-6)
    assert (ds.within(l2, 0.1) == (expected.astype("f4") <= np.float32(0.1))).all()
    # Duplicates are exactly zero and near-duplicates exactly what they are, not the noise of a cancellation.
    small = expected <= 0.01
    assert small.sum() >= 6
    np.testing.assert_array_equal(l2[small], expected[small].astype("f4"))
    assert (l2[np.arange(9, 12), np.arange(9, 12)] == 0).all()


def test_tiled_with_one_tile_is_plain_and_more_tiles_are_never_less():
    a, b = photos(5), photos(7, seed=1)
    plain = ds.pairwise_l2(a, b)
    np.testing.assert_array_equal(plain, ds.tiled_l2(a, b, tiles=1))
    assert (ds.tiled_l2(a, b, tiles=4) >= plain).all()
    # One corner differs by 1: plain l2 is 1/4 on a 4 x 4 grid, tiled l2 sees the whole of it.
    x, y = flat(0), flat(0)
    y[:, :, :2, :2] = 1
    assert ds.pairwise_l2(x, y) == 0.25 and ds.tiled_l2(x, y) == 1


@pytest.mark.parametrize("size", [8, 64, 256])
def test_the_matrix_product_errs_far_less_than_tolerance(size):
    noise = np.random.default_rng(0).uniform(0, 1, (4, 3, size, size)).astype("f4")
    a = np.concatenate([noise, noise > 0.5, photos(4, size=size) / 255, flat(0, 1, size), flat(1, 1, size)]).astype(
        "f4"
    )
    (_, _, ms), *rest = ds._mean_squares(a, a[::-1], 1, 1000)
    rows, cols = np.indices(ms.shape).reshape(2, -1)
    expected = ds.exact_l2(a, a[::-1], rows, cols).reshape(ms.shape).astype(np.float64) ** 2
    assert not rest and np.abs(ms - expected).max() < ds.TOLERANCE / 20


def test_boundary_is_inclusive():
    one, quarter = flat(0.5), flat(0.625)  # exact in binary: l2 is exactly .125
    assert len(ds.hit_pairs(one, quarter, 0.125)[0]) == 1
    assert len(ds.hit_pairs(one, quarter, np.nextafter(np.float32(0.125), 0))[0]) == 0
    # 51/255 is .2 only up to rounding, and so is 0.1f: both sit on the boundary and count.
    assert len(ds.hit_pairs(np.zeros((1, 3, 8, 8), np.uint8), np.full((1, 3, 8, 8), 51, np.uint8), 0.2)[0]) == 1
    assert len(ds.hit_pairs(flat(0), flat(0.1), 0.1)[0]) == 1
    result = ex.extract(flat(0), flat(0.1), flat(0.9), [1], delta=0.1)
    assert result.distinct == 1 and result.members.distances == (0.1,)
    assert dict(zip(result.thresholds, result.members.curve, strict=True))[0.1] == 1


def test_near_delta_pairs_are_decided_in_float64():
    base = photos(1, size=32)[0] / 255
    levels = np.linspace(0.1 - 3e-6, 0.1 + 3e-6, 41)  # closer to each other than float32 matrix products can tell
    a = np.stack([base + level * np.where(np.indices(base.shape).sum(0) % 2, 1, -1) for level in levels]).astype("f4")
    b = base[None].astype("f4")
    expected = naive_l2(a, b).astype("f4") <= np.float32(0.1)
    assert 0 < expected.sum() < 41
    rows, _ = ds.hit_pairs(a, b, 0.1)
    assert rows.tolist() == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("k", [1, 3, 23])
@pytest.mark.parametrize("memory_mb", [TINY, 256])
def test_nearest_equals_a_naive_loop_with_ties_to_the_lower_index(k, memory_mb):
    b = photos(23, seed=1)
    b[[7, 19, 22]] = b[3]  # four times the same photo
    a = np.concatenate([near(b[:8], 0.05), near(photos(9, seed=2), 0), b[3:4] / np.float32(255)])
    expected = naive_l2(a, b).astype("f4")
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    indices, distances = ds.nearest(a, b, k, memory_mb=memory_mb)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, axis=1))
    assert distances.dtype == np.float32


def test_uint8_float_torch_and_memory_maps_agree(tmp_path):
    a, b = photos(6), photos(9, seed=1)
    np.save(tmp_path / "b.npy", b)
    mapped = np.load(tmp_path / "b.npy", mmap_mode="r")
    for x in (a / np.float32(255), torch.from_numpy(a), torch.from_numpy(a).float() / 255):
        for y in (b, mapped, torch.from_numpy(b)):
            np.testing.assert_array_equal(ds.pairwise_l2(x, y), ds.pairwise_l2(a, b))
            np.testing.assert_array_equal(ds.nearest(x, y, 2), ds.nearest(a, b, 2))
    assert ds.pairwise_l2(torch.rand(2, 3, 8, 8).bfloat16(), torch.rand(2, 3, 8, 8).half()).shape == (2, 2)


def test_input_is_never_changed():
    a, b = photos(4) / np.float32(255), photos(4, seed=1) / np.float32(255)
    a.flags.writeable = b.flags.writeable = False
    ds.pairwise_l2(a, b)
    ds.nearest(a, b)


def test_paired_l2_and_ssim():
    a = photos(5)
    b = near(a, 0.05)
    np.testing.assert_array_equal(ds.paired_l2(a, b), np.diag(naive_l2(a, b)).astype("f4"))
    same, other = ds.ssim_pairs(a, a), ds.ssim_pairs(a, photos(5, seed=1))
    np.testing.assert_allclose(same, 1, atol=1e-6)
    assert same.shape == (5,) and (other < 0.9).all()


def test_reconstruction_floor():
    a = flat(0.5, 20)
    b = a + np.linspace(0, 0.19, 20, dtype=np.float32)[:, None, None, None]
    floor = summary.reconstruction_floor(a, b)
    assert floor.n == 20
    assert floor.mean == pytest.approx(0.095, abs=1e-6)
    assert floor.p95 == pytest.approx(0.1805, abs=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "transpose"),
        (np.zeros((3, 8, 8), np.uint8), r"\(N, 3, H, W\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), "empty"),
        (np.zeros((2, 3, 8, 8), np.int64), "uint8 in"),
        (np.full((2, 3, 8, 8), 200.0), r"\[0, 1\]"),
        (np.full((2, 3, 8, 8), -0.5), r"\[0, 1\]"),
        (np.full((2, 3, 8, 8), np.nan), "NaN"),
        (np.full((2, 3, 8, 8), np.inf), "infinity"),
        (np.zeros((2, 3, 16, 16), np.uint8), "resize"),
    ],
)
def test_unfit_images_are_refused_by_name(bad, message):
    good = np.zeros((2, 3, 8, 8), np.uint8)
    for call in (lambda: ds.pairwise_l2(good, bad), lambda: ds.nearest(good, bad), lambda: ds.hit_pairs(good, bad)):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=f"nonmembers.*{message}"):
        ex.extract(good, good, bad, [1, 1])


def test_unfit_arguments_are_refused():
    a = photos(3)
    for call, message in (
        (lambda: ds.nearest(a, a, 4), "k must be from 1 to"),
        (lambda: ds.tiled_l2(a, a, 3), "divide"),
        (lambda: ds.hit_pairs(a, a, 25.5), "delta must be"),
        (lambda: ex.extract(a, a, a, [1, 1]), "3 integers"),
        (lambda: ex.extract(a, a, a, [1, 0, 1]), "belongs in nonmembers"),
        (lambda: ex.extract(a, a, a, [1.0, 1.0, 1.0]), "integers"),
        (lambda: ex.extract(a, a, a, [1] * 3, k=0), "its own neighbour"),
        (lambda: ex.extract(a, a, a, [1] * 3, thresholds=(0.2, 0.1)), "increase"),
        (lambda: ds.paired_l2(a, a[:2]), "image by image"),
        (lambda: summary.extraction_curve([(0, 0)], 5, 3, [6]), "counts must"),
        (lambda: summary.extraction_curve([(5, 0)], 5, 3), "generation 5, but there are only 5"),
        (lambda: summary.extraction_curve([(0, 3)], 5, 3), "member 3, but there are only 3"),
        (lambda: ds.paired_tiled_l2(a, a, 3), "divide"),
        (lambda: summary.efficiency(None, 0), "at least one UNet evaluation"),
        (lambda: ex.gallery_pairs(None, of="all"), "nonmembers"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- extraction --------------------------------------------------------------------------------------------------


def scene():
    """30 members, 90 non-members, 40 generations: 5 copy member 3, 2 copy member 8, one member 20, one non-member 7."""
    members, nonmembers = photos(30, seed=10), photos(90, seed=11)
    copies = members[[3, 3, 3, 3, 3, 8, 8, 20]]
    generations = np.concatenate([near(copies, 0.06), near(nonmembers[[7]], 0.06), near(photos(31, seed=12), 0)])
    repeats = [1] * 30
    repeats[3], repeats[8] = 20, 10
    return generations, members, nonmembers, repeats


@pytest.fixture(scope="module")
def scenario():
    return scene(), ex.extract(*scene())


def test_distinct_members_are_not_generations(scenario):
    (generations, members, nonmembers, _), e = scenario
    assert e.distinct == e.members.distinct == 3
    assert e.members.matching_generations == 8
    assert sorted(m.reference for m in e.matches) == [3, 8, 20]
    l2 = naive_l2(generations, members).astype("f4")
    for m in e.matches:
        assert m.generation == l2[:, m.reference].argmin()
        assert np.float32(m.distance) == l2[:, m.reference].min()
    assert [m.distance for m in e.matches] == sorted(m.distance for m in e.matches)
    np.testing.assert_array_equal(np.float32(e.members.distances), l2.min(axis=0))
    np.testing.assert_array_equal(np.float32(e.members.generation_distances), l2.min(axis=1))
    np.testing.assert_array_equal(e.members.nearest_reference, l2.argmin(axis=1))
    out = naive_l2(generations, nonmembers).astype("f4")
    np.testing.assert_array_equal(np.float32(e.nonmembers.generation_distances), out.min(axis=1))
    assert list(e.members.curve) == [int((l2.min(axis=0) <= np.float32(t)).sum()) for t in ex.THRESHOLDS]
    assert list(e.members.hits) == [tuple(p) for p in np.argwhere(l2 <= np.float32(0.1)).tolist()]


def test_eidetic_counts_repeats(scenario):
    (*_, repeats), e = scenario
    by_member = {m.reference: m for m in e.matches}
    assert (by_member[3].neighbours, by_member[3].eidetic) == (20, False)  # extracted, but repeated 20 times
    assert (by_member[8].neighbours, by_member[8].eidetic) == (10, True)  # exactly k still is eidetic
    assert (by_member[20].neighbours, by_member[20].eidetic) == (1, True)
    assert e.eidetic == 2 and e.repeats == tuple(repeats)


def test_a_reference_set_is_judged_as_if_each_photo_had_been_trained_on_once(scenario):
    (generations, members, nonmembers, _), _ = scenario
    never, once = (ex.extract(generations, members, nonmembers, [n] * 30) for n in (0, 1))
    assert never.members == once.members and never.eidetic == once.eidetic == len(never.matches) > 0
    assert {m.repeats for m in never.matches} == {0} and {m.neighbours for m in never.matches} == {1}
    with pytest.raises(ValueError, match="or all 0"):
        ex.extract(generations, members, nonmembers, [0] + [1] * 29)


def test_eidetic_counts_near_duplicates_and_the_background():
    members = photos(4)
    members[1] = (near(members[:1], 0.05)[0] * 255).round()  # members 0 and 1 are near-duplicates of each other
    generations, nonmembers = near(members[:1], 0.01), photos(4, seed=1)
    e = ex.extract(generations, members, nonmembers, [6, 5, 1, 1])
    assert [(m.reference, m.neighbours, m.eidetic) for m in e.matches] == [(0, 11, False), (1, 11, False)]
    e = ex.extract(generations, members, nonmembers, [6, 4, 1, 1])
    assert e.eidetic == 2
    crowd = np.concatenate([near(members[:1], 0.03), photos(5, seed=2) / np.float32(255)])
    e = ex.extract(generations, members, nonmembers, [6, 4, 1, 1], background=crowd)
    assert e.distinct == 2 and e.eidetic == 0 and e.matches[0].neighbours == 11


def test_control_is_the_same_search_scaled_to_as_many_references(scenario):
    (generations, members, nonmembers, _), e = scenario
    assert e.nonmembers.distinct == 1 and e.nonmembers.matching_generations == 1
    assert e.nonmembers_scaled == pytest.approx(1 / 3)  # 90 non-members, 30 members
    assert e.nonmember_generations_scaled == pytest.approx(1 / 3)
    assert e.nonmember_curve_scaled == pytest.approx([n / 3 for n in e.nonmembers.curve])
    # Search is symmetric: members and non-members exchanged give each other's counts.
    swapped = ex.extract(generations, nonmembers, members, [1] * 90)
    assert swapped.members == e.nonmembers and swapped.nonmembers == e.members
    assert swapped.nonmember_generations_scaled is None  # 30 cannot stand for 90


def test_scaled_generation_count_is_the_mean_over_random_subsets():
    generations, nonmembers = photos(12), photos(12)[[0, 0, 0, 1, 1, 2, 3, 4]]
    e = ex.extract(generations, photos(5, seed=3), nonmembers, [1] * 5)
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(4000):
        drawn = rng.choice(8, 5, replace=False)
        counts.append(len({g for g, n in e.nonmembers.hits if n in drawn}))
    assert e.nonmember_generations_scaled == pytest.approx(np.mean(counts), abs=0.05)


def test_interval_is_clopper_pearson(scenario):
    _, e = scenario
    expected = binomtest(3, 30).proportion_ci(0.95, method="exact")
    assert (e.members.share, e.members.share_low, e.members.share_high) == (0.1, expected.low, expected.high)


def test_chunks_do_not_change_the_result(scenario):
    arguments, e = scenario
    assert ex.extract(*arguments, memory_mb=TINY) == e
    assert ex.extract(*arguments, memory_mb=0.1) == e


def test_nothing_extracted_is_a_result():
    e = ex.extract(photos(5), photos(6, seed=1), photos(7, seed=2), [1] * 6, delta=0.01)
    assert e.distinct == e.eidetic == 0 and e.matches == () and e.members.hits == ()
    assert e.members.share_low == 0 and 0 < e.members.share_high < 0.5
    assert summary.extraction_curve(e.members.hits, 5, 6).mean == (0.0,) * 5


def test_json_round_trip(scenario):
    _, e = scenario
    text = json.dumps(dataclasses.asdict(e), allow_nan=False)
    assert ex.extraction_from_dict(json.loads(text)) == e
    curve = summary.extraction_curve(e.members.hits, e.n_generations, e.members.n_references)
    for result in (
        curve,
        summary.efficiency(e, 10),
        summary.paired_extraction(e, e),
        summary.reconstruction_floor(photos(2), photos(2)),
    ):
        json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_gallery_pairs(scenario):
    _, e = scenario
    pairs = ex.gallery_pairs(e, top=5)
    assert pairs[:3] == e.matches
    assert [p.extracted for p in pairs] == [True] * 3 + [False] * 2
    assert [p.distance for p in pairs] == sorted(e.members.distances)[:5]
    control = ex.gallery_pairs(e, top=2, of="nonmembers")
    assert control[0].reference == 7 and control[0].extracted and not control[0].eidetic
    assert control[0].generation == 8 and control[0].repeats == 0
    assert len(ex.gallery_pairs(e, top=1000)) == 30


# --- curve, pairs -------------------------------------------------------------------------------------------------


def test_curve_grows_to_the_count_and_matches_brute_force(scenario):
    _, e = scenario
    curve = summary.extraction_curve(e.members.hits, e.n_generations, 30, range(1, 41))
    for values in (curve.mean, curve.low, curve.high):
        assert (np.diff(values) >= -1e-9).all()
    assert curve.mean[-1] == e.distinct
    assert (np.array(curve.low) < np.array(curve.mean)).all() and (np.array(curve.mean) < np.array(curve.high)).all()
    rng = np.random.default_rng(0)
    for n in (1, 10, 30):
        drawn = [set(rng.choice(40, n, replace=False).tolist()) for _ in range(3000)]
        brute = np.mean([len({m for g, m in e.members.hits if g in s}) for s in drawn])
        assert curve.mean[n - 1] == pytest.approx(brute, abs=0.06)
    shuffled = list(reversed(e.members.hits)) * 2
    assert summary.extraction_curve(shuffled, 40, 30, range(1, 41)) == curve


def test_curve_ends_with_the_exact_interval_of_the_share(scenario):
    _, e = scenario
    curve = summary.extraction_curve(e.members.hits, e.n_generations, 30)
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((30 * e.members.share_low, 30 * e.members.share_high))
    none, everyone = (summary.extraction_curve(h, 9, 7, [9]) for h in ([], [(i % 9, i) for i in range(7)]))
    assert none.low == none.mean == (0,) and none.high[0] == pytest.approx(7 * (1 - 0.025 ** (1 / 7)))
    assert everyone.high == everyone.mean == (7,) and everyone.low[0] == pytest.approx(7 * 0.025 ** (1 / 7))


@pytest.mark.parametrize("twins", [False, True])
def test_the_curve_covers_what_fresh_generations_extract_on_average(twins):
    """Simulated: members hit with unequal chances, alone or (against the assumption) in pairs that go together."""
    rng = np.random.default_rng(4)
    chances = rng.uniform(0, 0.02, 20) ** 1.5 * 8
    if twins:
        chances = np.repeat(chances[:10], 2)
    n, counts = 128, (32, 128)
    truth = [(1 - (1 - chances) ** c).sum() for c in counts]
    covered = np.zeros(2)
    for _ in range(300):
        hit = rng.random((n, 20)) < chances
        if twins:
            hit[:, 1::2] = hit[:, ::2]
        curve = summary.extraction_curve(np.argwhere(hit), n, 20, counts)
        covered += (np.array(curve.low) <= truth) & (np.array(curve.high) >= truth)
    assert (covered / 300 >= (0.9 if twins else 0.95)).all(), covered / 300


def test_efficiency_is_counts_over_cost(scenario):
    _, e = scenario
    worth = summary.efficiency(e, 2_000)
    assert (worth.unet_evaluations, worth.per_1000) == (2_000, pytest.approx(3 / 2))
    assert (worth.low, worth.high) == pytest.approx((15 * e.members.share_low, 15 * e.members.share_high))
    assert worth.nonmembers_per_1000 == pytest.approx(1 / 3 / 2)  # 1 of 90 non-members, 30 members


def naive_ssim(x, y):
    """Wang et al. 2004 with a flat 7 x 7 window: pixel by pixel, channel by channel, float64."""
    x, y = (z.astype(np.float64) / 255 for z in (x, y))
    values = []
    for c in range(3):
        for i in range(x.shape[1] - 6):
            for j in range(x.shape[2] - 6):
                a, b = (z[c, i : i + 7, j : j + 7].ravel() for z in (x, y))
                cov = np.cov(a, b)  # the unbiased one, as in scikit-image
                c1, c2 = 0.01**2, 0.03**2
                top = (2 * a.mean() * b.mean() + c1) * (2 * cov[0, 1] + c2)
                values.append(top / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return np.mean(values)


def test_ssim_and_tiled_pairs_equal_a_naive_loop():
    a = photos(4)
    b = (near(a, 0.08) * 255).round().astype(np.uint8)
    np.testing.assert_allclose(ds.ssim_pairs(a, b), [naive_ssim(x, y) for x, y in zip(a, b, strict=True)], atol=1e-5)
    for tiles in (1, 2, 4):
        np.testing.assert_array_equal(ds.paired_tiled_l2(a, b, tiles), np.diag(naive_l2(a, b, tiles)).astype("f4"))


def test_second_opinions_belong_to_the_nearest_pairs(scenario):
    (generations, members, *_), e = scenario
    found = summary.second_opinions(e, generations, members, top=5)
    assert [(o.reference, o.generation, o.l2, o.extracted) for o in found] == [
        (m.reference, m.generation, m.distance, m.extracted) for m in ex.gallery_pairs(e, top=5)
    ]
    for o in found:
        pair = generations[[o.generation]], members[[o.reference]]
        assert o.tiled_l2 == pytest.approx(naive_l2(*pair, tiles=4)[0, 0], abs=1e-6)
        assert o.tiled_l2 >= o.l2 and o.ssim == pytest.approx(ds.ssim_pairs(*pair)[0], abs=1e-6)
    assert min(o.ssim for o in found if o.extracted) > max(o.ssim for o in found if not o.extracted)
    assert len(summary.second_opinions(e, generations, members, top=1)) == 3  # every extracted one
    odd = [x[..., :14, :15] for x in (generations, members)]  # four tiles a side do not fit
    assert summary.second_opinions(e, *odd, top=1)[0].tiled_l2 is None


def test_search_stays_within_its_memory():
    """3,000 x 3,000 images at 20 MB: the distance matrix alone would be 36 MB, the float images 74 MB."""
    a, b = (np.random.default_rng(i).integers(0, 256, (3000, 3, 16, 16), np.uint8) for i in (0, 1))
    tracemalloc.start()
    ds.hit_pairs(a, b, 0.1, memory_mb=20)
    ds.nearest(a, b, memory_mb=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * 2**20


def test_paired_extraction(scenario):
    (generations, members, nonmembers, repeats), before = scenario
    more = generations.copy()
    more[20:27] = near(members[10:17], 0.05)  # seven members more
    more[7] = generations[9]  # and member 20 no more
    after = ex.extract(more, members, nonmembers, repeats)
    paired = summary.paired_extraction(before, after)
    assert (paired.before, paired.after, paired.difference) == (3, 9, 6)
    assert (paired.only_before, paired.only_after, paired.n_members) == (1, 7, 30)
    assert paired.p_value == pytest.approx(binomtest(1, 8, 0.5).pvalue)
    # The multinomial shortcut is the bootstrap over members.
    a = np.array(after.members.distances) <= 0.1
    b = np.array(before.members.distances) <= 0.1
    index = np.random.default_rng(1).integers(30, size=(4000, 30))
    low, high = np.percentile((a.astype(int) - b)[index].sum(axis=1), [2.5, 97.5])
    assert abs(paired.low - low) <= 1 and abs(paired.high - high) <= 1
    back = summary.paired_extraction(after, before)
    assert (back.difference, back.p_value) == (-6, paired.p_value)
    same = summary.paired_extraction(before, before)
    assert (same.difference, same.p_value) == (0, 1)
    # No member of 30 changed: if a share of .095 did, that would still happen with probability .05.
    assert (-same.low, same.high) == pytest.approx((30 * 0.09503, 30 * 0.09503), rel=1e-3)


def test_paired_extraction_refuses_unequal_runs(scenario):
    (generations, members, nonmembers, repeats), e = scenario
    for other, message in (
        (ex.extract(generations[:-1], members, nonmembers, repeats), "number of generations"),
        (ex.extract(generations, members, nonmembers, repeats, delta=0.2), "delta"),
        (ex.extract(generations, members, nonmembers, [1] * 30), "repeats"),
    ):
        with pytest.raises(ValueError, match=message):
            summary.paired_extraction(e, other)
