"""All pairs of two sets of pictures in one pass: the nearest of each side, and every pair within delta.

A block of mean squares is one float32 matrix product, on a GPU or on the CPU. What may decide anything comes off the
device, about one pair in ten thousand, and is computed again in float64. So results are those of `distances.py`,
whatever computed the product, and memory is bounded: two blocks of pictures, one of pairs, and one number a picture.

Notation
    ms(a, b)    mean square difference of two pictures, up to TOLERANCE
    l2(a, b)    its exact root, float32 rounded from float64
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from s2l.measure.distances import (
    MEMORY_MB,
    TOLERANCE,
    Images,
    check_distance,
    check_images,
    exact_l2,
    hit_pairs,
    large,
    nearest,
    within,
)

DEVICE_MB = 2048  # for blocks on a GPU, whose transfers cost more the smaller the blocks are


class Pairs(NamedTuple):
    """What one pass finds between a (N) and b (M); of equal distances the lower index counts.

    nearest_b, l2_a  of each a: the nearest b (N,) int64 and its l2 (N,) float32
    nearest_a, l2_b  of each b: the nearest a (M,) and its l2 (M,)
    hits             every pair within delta: indices (P,) into a and (P,) into b, sorted
    """

    nearest_b: np.ndarray
    l2_a: np.ndarray
    nearest_a: np.ndarray
    l2_b: np.ndarray
    hits: tuple[np.ndarray, np.ndarray]


def all_pairs(
    a: Images, b: Images, delta: float, memory_mb: float = MEMORY_MB, device: torch.device | str = "cpu"
) -> Pairs:
    """One pass over a x b; the arguments are those of `nearest` and `hit_pairs`, and so are the errors.

    Large pictures are compared by `distances.py`, whose bound spares most of their pairs.
    """
    check_distance(delta, "delta")
    a = check_images(a, "generations")
    b = check_images(b, "references", like=a)
    if large(a):
        (nearest_b, l2_a), (nearest_a, l2_b) = nearest(a, b, 1, memory_mb), nearest(b, a, 1, memory_mb)
        return Pairs(nearest_b[:, 0], l2_a[:, 0], nearest_a[:, 0], l2_b[:, 0], hit_pairs(a, b, delta, memory_mb))
    rows, cols = _candidates(a, b, delta, memory_mb, torch.device(device))
    l2 = exact_l2(a, b, rows, cols)
    near = within(l2, delta)
    order = np.lexsort((cols[near], rows[near]))
    hits = rows[near][order], cols[near][order]
    return Pairs(*_first(rows, cols, l2, len(a)), *_first(cols, rows, l2, len(b)), hits)


def _first(of: np.ndarray, other: np.ndarray, l2: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of n: the `other` with the smallest l2, and that l2."""
    order = np.lexsort((other, l2, of))
    first = order[np.searchsorted(of[order], np.arange(n))]
    return other[first], l2[first]


def _candidates(
    a: np.ndarray, b: np.ndarray, delta: float, memory_mb: float, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (P,), (P,) that may be nearest to one of the two, or within delta: a few for each picture."""
    best_a, best_b = torch.full((len(a),), torch.inf), torch.full((len(b),), torch.inf, device=device)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for rows, cols, ms in _products(a, b, memory_mb, device):
        row_best = torch.minimum(best_a[rows].to(device), ms.min(dim=1).values)
        col_best = best_b[cols] = torch.minimum(best_b[cols], ms.min(dim=0).values)
        best_a[rows] = row_best.cpu()
        # Each mean square is off by up to TOLERANCE, so the nearest may seem farther than another by twice as much.
        limit = torch.maximum(row_best[:, None], col_best).add_(2 * TOLERANCE).clamp_(min=delta**2 + TOLERANCE)
        i, j = (ms <= limit).nonzero(as_tuple=True)
        found.append(((i + rows.start).cpu(), (j + cols.start).cpu(), ms[i, j].cpu()))
    i, j, near = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Later blocks had nearer ones.
    keep = near <= torch.maximum(best_a[i], best_b.cpu()[j]).add(2 * TOLERANCE).clamp(min=delta**2 + TOLERANCE)
    return i[keep].numpy(), j[keep].numpy()


def _products(
    a: np.ndarray, b: np.ndarray, memory_mb: float, device: torch.device
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield (rows of a, columns of b, mean squares (r, c) float32 on the device) until all of a x b is done.

    |a|^2 + |b|^2 - 2ab loses digits when |a|^2 is large beside the difference, so both are shifted by the mean of a few
    pictures of b first: it changes no difference.
    """
    values = a[0].size
    memory = (DEVICE_MB if device.type == "cuda" else memory_mb) * 2**20
    # Half the memory for two blocks of pictures (in float32, and once more while they are shifted), half for pairs.
    step = max(1, int(min(memory / 2 / (16 * values), (memory / 2 / 16) ** 0.5)))
    # The same two blocks of memory all the time: new ones between small results that stay would pile up.
    x_block, y_block = (torch.empty(min(step, len(images)), values, device=device) for images in (a, b))
    spread = b[:: -(-len(b) // 32)]
    centre = _fill(torch.empty(len(spread), values, device=device), spread).mean(dim=0)
    for row in range(0, len(a), step):
        rows = slice(row, min(row + step, len(a)))
        x = _fill(x_block, a[rows]).sub_(centre)
        xx = _squares(x)[:, None]
        for col in range(0, len(b), step):
            cols = slice(col, min(col + step, len(b)))
            y = _fill(y_block, b[cols]).sub_(centre)
            yield (
                rows,
                cols,
                torch.addmm(xx, x, y.T, alpha=-2).add_(_squares(y)).div_(values),
            )


def _squares(flat: torch.Tensor) -> torch.Tensor:
    """(N,) sums of squares, of a few rows at a time: all squares at once would be a third block."""
    return torch.cat([rows.square().sum(dim=1) for rows in flat.split(64)])


def _fill(block: torch.Tensor, images: np.ndarray) -> torch.Tensor:
    """(N, 3, H, W) into the first N rows of a block (at least N, values) float32, in [0, 1]; uint8 travels as it is."""
    flat = torch.from_numpy(np.ascontiguousarray(images).reshape(len(images), -1))
    if block.device.type == "cuda":
        flat = flat.pin_memory()
    filled = block[: len(images)].copy_(flat, non_blocking=True)
    return filled.div_(255) if images.dtype == np.uint8 else filled
