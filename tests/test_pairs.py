"""One pass over all pairs finds what three passes find, in bounded memory, wherever the products are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2l.measure import pairs as one_pass
from s2l.measure.distances import TOLERANCE, exact_l2, hit_pairs, nearest
from s2l.measure.extraction import extract
from s2l.measure.pairs import all_pairs

RNG = np.random.default_rng(0)


def pictures(n: int, side: int = 16) -> np.ndarray:
    return RNG.integers(0, 256, (n, 3, side, side), dtype=np.uint8)


def with_copies(a: np.ndarray, n: int, scale: float = 6.0) -> np.ndarray:
    """n pictures, half of them noisy copies of pictures in `a`, one of them exact."""
    b = pictures(n, a.shape[-1])
    for i in range(n // 2):
        b[i] = np.clip(a[i % len(a)] + RNG.normal(0, scale, a.shape[1:]), 0, 255)
    b[0] = a[0]
    return b


def same(a, b, delta: float, memory_mb: float = 256) -> None:
    pairs = all_pairs(a, b, delta, memory_mb)
    for (index, l2), (near, exact) in (
        ((pairs.nearest_b, pairs.l2_a), nearest(a, b)),
        ((pairs.nearest_a, pairs.l2_b), nearest(b, a)),
    ):
        np.testing.assert_array_equal(index, near[:, 0])
        np.testing.assert_array_equal(l2, exact[:, 0])
    np.testing.assert_array_equal(pairs.hits, hit_pairs(a, b, delta))


@pytest.mark.parametrize("memory_mb", [256, 0.2, 0.01])
@pytest.mark.parametrize("delta", [0.0, 0.03, 0.1, 0.45])
def test_one_pass_equals_three(delta, memory_mb):
    a = pictures(23)
    same(a, with_copies(a, 37), delta, memory_mb)


def test_kinds_of_pictures():
    a = pictures(9)
    b = with_copies(a, 12)
    same(torch.from_numpy(a), torch.from_numpy(b), 0.1)
    same(a.astype(np.float32) / 255, b.astype(np.float64) / 255, 0.1)
    same(a[:1], b[:1], 0.1)
    same(np.repeat(a[:1], 5, axis=0), np.repeat(a[:1], 4, axis=0), 0.1)  # ties go to the lower index
    large = pictures(3, 128)
    same(large, with_copies(large, 4), 0.1)


def test_pictures_are_left_alone():
    a = RNG.random((4, 3, 8, 8), dtype=np.float32)
    before = a.copy()
    all_pairs(a, a, 0.1)
    np.testing.assert_array_equal(a, before)


def test_errors_name_the_side():
    with pytest.raises(ValueError, match="references must have shape"):
        all_pairs(pictures(2), np.zeros((2, 8, 8)), 0.1)
    with pytest.raises(ValueError, match="delta must be"):
        all_pairs(pictures(2), pictures(2), 2)


def test_blocks_and_candidates_are_bounded(monkeypatch):
    """No block is larger than the memory allows, and few pairs leave the device."""
    blocks, products = [], one_pass._products

    def watched(*arguments):
        for rows, cols, ms in products(*arguments):
            blocks.append(ms.numel())
            yield rows, cols, ms

    monkeypatch.setattr(one_pass, "_products", watched)
    a, b = pictures(300, 8), pictures(400, 8)
    rows, _ = one_pass._candidates(a, b, 0.1, 0.5, torch.device("cpu"))
    assert len(blocks) > 4 and max(blocks) * 16 <= 0.5 * 2**20
    assert len(rows) < 10 * (len(a) + len(b))


def test_a_worse_product_changes_nothing(monkeypatch):
    """As long as a device's product is off by less than the tolerance, the result is the same."""
    a = pictures(40, 8)
    b = with_copies(a, 50, scale=1.0)
    plain = all_pairs(a, b, 0.05)
    products = one_pass._products

    def off(*arguments):
        generator = torch.Generator().manual_seed(1)
        for rows, cols, ms in products(*arguments):
            yield rows, cols, ms + (torch.rand(ms.shape, generator=generator) - 0.5) * 1.9e-5

    monkeypatch.setattr(one_pass, "_products", off)
    for x, y in zip(plain, all_pairs(a, b, 0.05), strict=True):
        np.testing.assert_array_equal(x, y)


def test_extraction_takes_a_device():
    a = pictures(6)
    result = extract(with_copies(a, 8), a, pictures(5), (1,) * 6, device="cpu")
    assert result.distinct >= 1


def test_the_product_errs_far_less_than_tolerance():
    flat = np.stack([np.zeros((3, 64, 64), np.uint8), np.full((3, 64, 64), 255, np.uint8)])
    a = np.concatenate([pictures(6, 64), flat])
    ((_, _, ms),) = one_pass._products(a, a, 256, torch.device("cpu"))
    rows, cols = np.indices(ms.shape).reshape(2, -1)
    exact = exact_l2(a, a, rows, cols).reshape(ms.shape).astype(np.float64) ** 2
    assert np.abs(ms.numpy() - exact).max() < TOLERANCE / 10
