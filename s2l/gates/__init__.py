"""What a provider can check before fine-tuning on an upload, one file per gate. To add one, see CONTRIBUTING.md."""

from importlib import import_module
from pkgutil import iter_modules

from s2l.gates.registry import GATES, Gate, Upload, gate_settings, get_gate, register_gate
from s2l.gates.verdict import Threshold, Verdict, decide, honest_groups, judge

for _module in iter_modules(__path__):  # importing a gate's file registers the gate
    import_module(f"{__name__}.{_module.name}")

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
