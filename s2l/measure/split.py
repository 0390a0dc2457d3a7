"""The share of held-out photos that come from a second source, and what it does to an audit.

An audit compares members with photos that the model never saw. If those come from another source, a difference between
the sources is counted as memory. Here the share s of such photos is the dose: the AUC before, the AUC after and its
change are measured at each s, with the blind control, which knows the pictures but no model, beside them.

Notation
    Both       scores of the same photos (before (N,), after (N,)), higher = more likely a member
    fair       held-out photos of the members' own source
    second     photos of the second source; position i of a mixture is fair[i] or second[i]
    never      held-out photos in the members' place: what changes for them cannot be memory
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l.data.domain import ImageSet, MembershipSplit
from s2l.measure.control import BlindControl, blind_control
from s2l.measure.intervals import Interval, Pair, PairedDifference, Scores, auc, delong_interval, paired_auc_difference
from s2l.measure.over_people import (
    HierarchicalMean,
    hierarchical_contrast,
    hierarchical_difference,
    hierarchical_mean,
)

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ADDED_CONFIDENCE = 0.975  # of what a source adds: two directions, either of which can support the claim

Both = tuple[Scores, Scores]


@dataclass(frozen=True)
class AtShare:
    """One attack at one share of second-source photos. `difference` is the AUC after minus the AUC before, paired."""

    share: float
    n_second: int
    auc_before: float
    before: Interval
    auc_after: float
    after: Interval
    difference: PairedDifference


def from_second(n: int, share: float, seed: int = 0) -> np.ndarray:
    """(n,) bool: which of n held-out photos come from the second source. A larger share only adds to them.

    Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is a number between 0 and 1, not {share:g}")
    chosen = np.zeros(n, bool)
    chosen[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return chosen


def mixture(fair: Scores, second: Scores, share: float, seed: int = 0) -> np.ndarray:
    """(n,) scores of n = min(N, M) held-out photos, of which `share` come from the second source.

    fair (N,) and second (M,) may have different lengths: every share then uses the first n of both.
    """
    n = min(len(fair), len(second))
    return np.where(from_second(n, share, seed), np.asarray(second)[:n], np.asarray(fair)[:n])


def at_shares(
    members: Both,
    fair: Both,
    second: Both,
    shares: Sequence[float] = SHARES,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[AtShare]:
    """AUC before, AUC after and their paired difference at each share, of one person or folder (DeLong).

    To get the control, give the scores of never-seen photos as `members`. Raises ValueError for bad scores, or scores
    before and after of different lengths.
    """
    rows = []
    for share in shares:
        before, after = _pairs(members, fair, second, share, seed)
        rows.append(
            AtShare(
                share=float(share),
                n_second=int(from_second(len(before[1]), share, seed).sum()),
                auc_before=auc(*before),
                before=delong_interval(*before, confidence),
                auc_after=auc(*after),
                after=delong_interval(*after, confidence),
                difference=paired_auc_difference(*before, *after, confidence),
            )
        )
    return rows


def _pairs(members: Both, fair: Both, second: Both, share: float, seed: int) -> tuple[Pair, Pair]:
    """((m, n) before, (m, n) after) at one share."""
    before, after = ((m, mixture(f, s, share, seed)) for m, f, s in zip(members, fair, second, strict=True))
    return before, after


@dataclass(frozen=True)
class Parts:
    """One person's scores, each before and after."""

    members: Both
    fair: Both
    second: Both


@dataclass(frozen=True)
class ShareOverPeople:
    """As AtShare, over people."""

    share: float
    before: HierarchicalMean
    after: HierarchicalMean
    difference: PairedDifference


@dataclass(frozen=True)
class OverPeople:
    """All shares, and the inflation: the change of the AUC at the last share minus that at the first one.

    The inflation is on the same members, so it is what the choice of held-out photos adds to the change. Its interval
    is wider than the others (ADDED_CONFIDENCE), because there are two second sources to choose from.
    """

    shares: list[ShareOverPeople]
    inflation: PairedDifference


def shares_over_people(people: Sequence[Parts], shares: Sequence[float] = SHARES, seed: int = 0) -> OverPeople:
    """Means over people at each share, with hierarchical-bootstrap intervals. Raises ValueError for bad scores."""
    pairs = [[_pairs(p.members, p.fair, p.second, share, seed) for p in people] for share in shares]
    rows = []
    for share, at_share in zip(shares, pairs, strict=True):
        before, after = ([pair[when] for pair in at_share] for when in (0, 1))
        change = hierarchical_difference(before, after)
        rows.append(ShareOverPeople(float(share), hierarchical_mean(before), hierarchical_mean(after), change))
    conditions = [[*first, *last] for first, last in zip(pairs[0], pairs[-1], strict=True)]
    return OverPeople(rows, hierarchical_contrast(conditions, (1, -1, -1, 1), confidence=ADDED_CONFIDENCE))


def blind_at_shares(
    members: ImageSet, fair: ImageSet, second: ImageSet, shares: Sequence[float] = SHARES, seed: int = 0
) -> list[BlindControl]:
    """The blind control at each share, with the photos that `at_shares` uses.

    Raises ValueError for fewer than two photos of a kind, or pictures of different sizes.
    """
    n = min(len(fair), len(second))
    both = fair + second
    controls = []
    for share in shares:
        chosen = np.where(from_second(n, share, seed), len(fair) + np.arange(n), np.arange(n))
        controls.append(blind_control(MembershipSplit(members, both.subset(chosen)), seed))
    return controls
