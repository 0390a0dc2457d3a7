"""Membership inference attacks, one score function a file. To add one, see CONTRIBUTING.md."""

from s2l.attacks import loss, secmi  # noqa: F401  (importing registers them)
from s2l.attacks.query import Query, make_query
from s2l.attacks.registry import ATTACKS, attack_settings, get_attack, register_attack, run_attack

__all__ = ["ATTACKS", "Query", "attack_settings", "get_attack", "make_query", "register_attack", "run_attack"]
