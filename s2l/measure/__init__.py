"""Statistics: intervals, metrics, distances, extraction and the controls."""

import math


def nonmembers_needed(target_fpr: float) -> int:
    """How many held-out photos a bound on the false positive rate needs, so that at least one may be accused."""
    return math.ceil(1 / target_fpr - 1e-9)
