"""How to measure: alternating rounds, the machine's matmul peak, operation counts, peak memory."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil  # comes with accelerate
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its kernels; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, until its last kernel is done."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


@dataclass(frozen=True)
class Alternation:
    """Seconds per unit of work in alternating rounds of A (ours) and B (the baseline), and how many times faster A is.

    `ratio` is the median of B over the median of A. `low` and `high` are the extremes of B / A within one round, where
    a slowdown that hits both cancels.
    """

    ours: tuple[float, ...]
    baseline: tuple[float, ...]
    ratio: float
    low: float
    high: float


def alternate(
    ours: Callable[[], object],
    units: float,
    baseline: Callable[[], object],
    baseline_units: float,
    device: torch.device,
    rounds: int,
) -> Alternation:
    """Time A B A B ...; each call does `units` (A) or `baseline_units` (B) of the same work. Only A is warmed up."""
    ours()
    a, b = [], []
    for _ in range(rounds):
        a.append(seconds(ours, device) / units)
        b.append(seconds(baseline, device) / baseline_units)
    ratios = [y / x for x, y in zip(a, b, strict=True)]
    return Alternation(tuple(a), tuple(b), float(np.median(b) / np.median(a)), min(ratios), max(ratios))


def matmul_peak(device: torch.device, dtype: torch.dtype, budget_s: float = 1.0) -> float:
    """FLOP/s of the fastest square matrix product found in `budget_s` seconds: the machine's practical peak."""
    best = 0.0
    for n in (1024, 2048, 8192) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        torch.matmul(a, b)
        started, spent = time.perf_counter(), 0.0
        while spent < budget_s / 3:
            best = max(best, 2 * n**3 / seconds(partial(torch.matmul, a, b), device))
            spent = time.perf_counter() - started
    return best


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in `work`, backward passes too."""
    # The counter does not know the fused attention kernels of a CPU; plain attention computes the same products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict]:
    """Yields a dict whose "bytes" is the peak memory at the end: allocated on the GPU, or resident in this process."""
    peak: dict = {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak["bytes"] = torch.cuda.max_memory_allocated(device)
        return
    process, done = psutil.Process(), threading.Event()
    peak["bytes"] = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.01):
            peak["bytes"] = max(peak["bytes"], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
