"""The first NaN or infinity is a sentence that names its stage, not a black picture or a score."""

from __future__ import annotations

import torch

from s2l.errors import UserError

# float16 ends at 65,504; bfloat16 reaches as far as float32.
ADVICE = {torch.float16: ": try float32 or bfloat16 (--dtype)", torch.bfloat16: ": try float32 (--dtype)"}


def finite(x: torch.Tensor, stage: str, dtype: torch.dtype) -> torch.Tensor:
    """`x`, of any shape, if every number in it is finite.

    Raises UserError with the stage ("decoding pictures"), the precision `dtype` that it was computed in, and what to
    try instead.
    """
    if not bool(x.isfinite().all()):
        precision = str(dtype).removeprefix("torch.")
        raise UserError(f"{stage} gave NaN or infinity in {precision}{ADVICE.get(dtype, '')}")
    return x
