"""What differentially private training may spend. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from s2l.errors import UserError, unknown

UNITS = ("photo", "person")
ACCOUNTANTS = ("prv", "rdp")


@dataclass(frozen=True)
class Budget:
    """What differentially private training may spend: (epsilon, delta)-DP, with neighbours that differ in one unit.

    epsilon     None: gradients are clipped but get no noise, and nothing is promised
    clip        the largest norm of a unit's gradient
    unit        "photo": one photo with all its copies; "person": all photos of a person
    accountant  of Opacus: "prv" (tight) or "rdp"
    """

    epsilon: float | None
    delta: float = 1e-4
    clip: float = 0.1
    unit: str = "photo"
    accountant: str = "prv"

    def __post_init__(self):
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise UserError(f"should be a number above 0 (given: {self.epsilon:g})", field="epsilon")
        if not 0 < self.delta < 1:
            raise UserError(f"should be between 0 and 1 (given: {self.delta:g})", field="delta")
        if not 0 < self.clip < math.inf:
            raise UserError(f"the clipping norm should be a number above 0 (given: {self.clip:g})", field="clip")
        if self.unit not in UNITS:
            raise unknown("privacy unit", self.unit, UNITS)
        if self.accountant not in ACCOUNTANTS:
            raise unknown("accountant", self.accountant, ACCOUNTANTS)
