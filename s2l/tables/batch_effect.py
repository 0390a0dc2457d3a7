"""What the batch size changes: rounding, which grows with it in bfloat16. A part of `python -m s2l lab measure`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from s2l import finetune
from s2l.config import SamplerConfig, preset
from s2l.data import sp_set
from s2l.model.diffusion import DiffusionModel, Runtime

DTYPES = ("float32", "mixed")
SIZES = (1, 8)  # images at once, in sampling and in a training step
STEPS = 10  # of the sampler and of the training


def batch_effect(model: str, name: str) -> dict:
    """{precision: {"pictures", "weights"}}: the largest differences between images one by one and eight at once.

    pictures  of 8 pictures of the person called `name`, in steps of 255
    weights   of a LoRA after 10 steps on them, as a share of the largest weight
    """
    sizes = {"set_size": max(SIZES), "sampler": {"num_inference_steps": STEPS}}
    tuning = {"max_train_steps": STEPS, "train_batch_size": max(SIZES)}
    config = preset("quick", name, sp_set=sizes, finetune=tuning)
    effect = {}
    for dtype in DTYPES:
        pictures: list[torch.Tensor] = []
        weights: list[dict[str, torch.Tensor]] = []
        with tempfile.TemporaryDirectory() as place:
            for size in SIZES:
                folder, loaded = Path(place) / str(size), DiffusionModel.load(model, Runtime("cpu", dtype, size, size))
                prompts, sampler = [f"a photo of {name}"] * max(SIZES), SamplerConfig(num_inference_steps=STEPS)
                pictures.append((loaded.generate(prompts, range(max(SIZES)), sampler) * 255).round())
                if not weights:  # both trainings see the same set
                    images = sp_set.generate_sp_set(loaded, name, config.sp_set, Path(place) / "sp")
                finetune.finetune(loaded, images, config.finetune, folder, name)
                weights.append(load_file(folder / "pytorch_lora_weights.safetensors"))
        one, other = weights
        largest = max(float(tensor.abs().max()) for tensor in one.values())
        effect[dtype] = {
            "pictures": float((pictures[0] - pictures[1]).abs().max()),
            "weights": max(float((one[key] - other[key]).abs().max()) for key in one) / largest,
        }
    return effect
