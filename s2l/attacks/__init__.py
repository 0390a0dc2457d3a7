"""Membership inference attacks, one file each with one score function. To add one, see CONTRIBUTING.md."""

from s2l.attacks import clid, loss, pfami, pia, secmi, sima  # noqa: F401  (importing registers them)
from s2l.attacks.calibration import Combination, RobustScale, shake_calibrated
from s2l.attacks.query import Query, make_query, query_of
from s2l.attacks.registry import (
    ATTACKS,
    attack_settings,
    evaluations_together,
    get_attack,
    memory_estimate,
    register_attack,
    run_attack,
    run_components,
    run_suite,
    sharing_groups,
    spelled_out,
)

__all__ = [
    "ATTACKS",
    "Combination",
    "Query",
    "RobustScale",
    "attack_settings",
    "evaluations_together",
    "get_attack",
    "make_query",
    "memory_estimate",
    "query_of",
    "register_attack",
    "run_attack",
    "run_components",
    "run_suite",
    "shake_calibrated",
    "sharing_groups",
    "spelled_out",
]
