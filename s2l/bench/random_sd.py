"""Stable Diffusion 1.x with random weights, for measurements: no licence, no download, nobody's photos."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from s2l.assets import ASSETS

PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def random_sd(folder: Path, configs: Path = ASSETS / "sd-1", device: str = "cpu") -> Path:
    """A checkpoint in `folder` with the sizes of `configs` and random float16 weights, made unless it is there.

    2 GB for the shipped configurations. The weights are drawn on `device`, with a fixed seed.
    """
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    if folder.exists():
        return folder
    working = folder.with_name(folder.name + ".partial")
    shutil.rmtree(working, ignore_errors=True)
    shutil.copytree(configs, working)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        for name, kind in PARTS.items():
            part = getattr(diffusers, kind).from_config(getattr(diffusers, kind).load_config(configs / name))
            part.half().save_pretrained(working / name)
            del part
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(configs / "text_encoder"))
        text.half().save_pretrained(working / "text_encoder")
    os.replace(working, folder)
    return folder
