"""What a provider can check before fine-tuning on an upload, one gate a file. To add one, see CONTRIBUTING.md."""

from s2l.gates import near_members, own_output  # noqa: F401  (importing registers them)
from s2l.gates.registry import GATES, Gate, Upload, gate_settings, get_gate, register_gate
from s2l.gates.verdict import Threshold, Verdict, decide, honest_groups, judge

__all__ = [
    "GATES",
    "Gate",
    "Threshold",
    "Upload",
    "Verdict",
    "decide",
    "gate_settings",
    "get_gate",
    "honest_groups",
    "judge",
    "register_gate",
]
