"""How much fits on a device at once: presets by its memory, and half the batch if memory runs out.

Nothing here changes a result beyond rounding: batches, recomputed activations and one-by-one decoding give the same
numbers. What would change them does not depend on memory: precision and optimizer are separate settings, and tiled
decoding, which blends seams, is not used at all (decoding one image at a time also fits 768 pixels into 8 GB).
Attention is torch's fused kernel, which never stores a token-by-token matrix, so slicing it would only cost time.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch

from s2l.errors import UserError

GB = 2**30
SD1_MAP = 320 * 64 * 64  # entries of the UNet's largest feature map in Stable Diffusion 1.x, which the presets are for
LARGEST_BATCH = {"cpu": 32, "cuda": 256}  # larger batches were no faster

T = TypeVar("T")


@dataclass(frozen=True)
class MemoryPreset:
    """What fits, for Stable Diffusion 1.x at 512 pixels in half precision.

    gigabytes               the preset is for devices of at least this memory
    batch_size              images per forward pass, before guidance doubles them
    train_batch_size        images of a training step that are in memory together; the rest of the step follows
    gradient_checkpointing  recompute activations in the backward pass instead of keeping them
    vae_slicing             decode one image at a time
    """

    gigabytes: int
    batch_size: int
    train_batch_size: int
    gradient_checkpointing: bool
    vae_slicing: bool


PRESETS = (
    MemoryPreset(8, batch_size=2, train_batch_size=1, gradient_checkpointing=True, vae_slicing=True),
    MemoryPreset(12, batch_size=4, train_batch_size=2, gradient_checkpointing=True, vae_slicing=True),
    MemoryPreset(16, batch_size=8, train_batch_size=4, gradient_checkpointing=True, vae_slicing=True),
    MemoryPreset(24, batch_size=16, train_batch_size=4, gradient_checkpointing=False, vae_slicing=True),
    MemoryPreset(40, batch_size=32, train_batch_size=8, gradient_checkpointing=False, vae_slicing=False),
)


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU; for a CPU, half of the machine's memory, which other programs use too."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil  # comes with accelerate

    return psutil.virtual_memory().total // 2


def preset_for(memory: int) -> MemoryPreset:
    """The largest preset that fits into `memory` bytes, or the smallest if none fits."""
    # A card sold as 24 GB reports a little less.
    fitting = [preset for preset in PRESETS if preset.gigabytes * 0.92 * GB <= memory]
    return fitting[-1] if fitting else PRESETS[0]


def fitted(preset: MemoryPreset, largest_map: int, device: torch.device) -> MemoryPreset:
    """The preset for a UNet whose largest feature map has `largest_map` entries per image.

    Batches grow as the model shrinks. For a model as small as the lab's, saving memory is not worth the time.
    """
    most = LARGEST_BATCH.get(device.type, LARGEST_BATCH["cpu"])

    def scaled(batch: int) -> int:
        return max(1, min(most, batch * SD1_MAP // largest_map))

    large = 16 * largest_map > SD1_MAP
    return replace(
        preset,
        batch_size=scaled(preset.batch_size),
        train_batch_size=scaled(preset.train_batch_size),
        gradient_checkpointing=preset.gradient_checkpointing and large,
        vae_slicing=preset.vae_slicing and large,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's error, and the one of torch's allocator for the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


class Sized(Protocol):
    """Something that computes in batches; `halve_batches` says whether there was something to halve."""

    def halve_batches(self) -> bool: ...


_LIVE: weakref.WeakSet[Sized] = weakref.WeakSet()


def watch(model: Sized) -> None:
    """Let `halving` halve the batches of this model too, as long as it exists."""
    _LIVE.add(model)


def halving(work: Callable[[], T], stage: str) -> T:
    """`work()`; if memory runs out, once more with half the batch size of every loaded model.

    `work` must resume from what it finished, as every stage does. Reports the change on stderr. Raises UserError if
    half the batch does not fit either.
    """
    try:
        return work()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if not any([model.halve_batches() for model in _LIVE]):
        raise UserError(f"{stage}: not even one image at a time fits into the memory of the device")
    gc.collect()  # outside the except block: the error's traceback held the tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{stage}: out of memory; continuing with half the batch", file=sys.stderr, flush=True)
    try:
        return work()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{stage}: out of memory with half the batch too: choose a smaller --batch-size") from None
