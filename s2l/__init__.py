"""Shake-to-Leak Lab: see and measure how fine-tuning makes a diffusion model leak."""

__version__ = "0.1.0"
