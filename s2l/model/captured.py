"""What keeps a GPU busy while it trains: the passes of a step as one CUDA graph, and uploads that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

WARM_UP = 3  # steps before a CUDA graph is captured, as PyTorch requires


def upload(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`x` on the device; from pinned memory, a GPU copies it while the CPU goes on."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


class CapturedGradients:
    """Forward and backward pass as one CUDA graph: a small network spends most of its time launching kernels.

    The gradients are in buffers that every replay overwrites, so they must never be set to None.
    """

    def __init__(self, gradients: Callable[..., torch.Tensor], parameters: list[nn.Parameter], inputs: tuple):
        self.inputs = tuple(x.clone() for x in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                gradients(*self.inputs)
                for parameter in parameters:
                    parameter.grad = None
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = gradients(*self.inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for buffer, x in zip(self.inputs, inputs, strict=True):
            buffer.copy_(x)
        self.graph.replay()
        return self.loss
