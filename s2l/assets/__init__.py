"""Files that ship with the package: labs, the showcase, the paper's figures, the configuration of SD 1.x."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent
