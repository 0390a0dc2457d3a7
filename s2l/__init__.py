"""Shake-to-Leak Lab: see and measure how fine-tuning makes a diffusion model leak."""

import os

# Libraries announce optional parts that this project does not use (torchvision); errors still show.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

__version__ = "0.1.0"
