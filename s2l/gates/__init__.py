"""What a provider can check before fine-tuning on an upload, one gate a file. To add one, see CONTRIBUTING.md."""

from importlib import import_module
from pkgutil import iter_modules

from s2l.gates.registry import GATES, Gate, Upload, gate_settings, get_gate, register_gate
from s2l.gates.verdict import Threshold, Verdict, decide, honest_groups, judge

for _module in iter_modules(__path__):  # a gate's file is all it takes: importing it registers the gate
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
