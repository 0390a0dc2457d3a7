"""Statistics: intervals, metrics, distances, extraction and the controls."""

import math


def nonmembers_needed(target_fpr: float) -> int:
    """Held-out photos needed for a bound on the false positive rate that allows at least one false positive."""
    return math.ceil(1 / target_fpr - 1e-9)
