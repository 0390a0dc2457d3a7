"""Labs: checkpoints with a known training set, each a folder with a `lab.json`. Loads no torch.

To ship another lab, add its folder to `s2l/assets/labs`.
"""

from s2l.labs.find import built_folder, default_lab, find_lab, is_lab, is_there, shipped_lab, shipped_labs
from s2l.labs.lab import Lab, LabPerson

__all__ = [
    "Lab",
    "LabPerson",
    "built_folder",
    "default_lab",
    "find_lab",
    "is_lab",
    "is_there",
    "shipped_lab",
    "shipped_labs",
]
