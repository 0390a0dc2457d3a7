"""Reading the state of an unfinished training."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import torch


def load_state(path: Path, instead: str, device: torch.device | str = "cpu") -> Any:
    """What `torch.save` wrote to `path`; None if nothing is there, or if it is cut, empty or garbled.

    A file that cannot be read is deleted, and stderr says so, and what happens `instead`.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        print(f"{path} cannot be read ({reason}): {instead}", file=sys.stderr, flush=True)
        path.unlink(missing_ok=True)
        return None
