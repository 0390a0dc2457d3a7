"""What a study on Stable Diffusion 1.x costs, in card-hours: counted work divided by a card's rate.

    hours = evaluations x flops of one / (matmul rate x share that the stage reaches) / 3600

The work is counted, not estimated. The rates are measured (`card`), or assumed, and the record says which.
"""

from __future__ import annotations

from pathlib import Path

import torch

from s2l.assets import ASSETS
from s2l.bench.measure import count_flops

# The paper's sizes (preset `paper`), for 40 people and 9 methods, 3 of which train on class pictures too.
SIZES = {
    "people": 40,
    "methods": 9,
    "with_class_pictures": 3,
    "sp_pictures": 5000,
    "generations": 5000,
    "sampler_steps": 50,
    "training_steps": 125_000,
    "train_batch_size": 4,
    "photos": 2000,
    "evaluations_per_photo": 20,
}
GUIDED = 2  # evaluations per picture and sampler step
TRAINED = 3  # at most, per picture and training step: forward, and backward through activations and weights
ASSUMED = {"matmul_flops_per_s": 80e12, "sampling_share": 0.4, "training_share": 0.25}
# Dense float16 matrix products with float32 sums, FLOP/s, from NVIDIA's data sheets; the words are of device names.
PUBLISHED = {
    ("T4",): 65e12, ("V100",): 125e12, ("A10",): 125e12, ("A100",): 312e12, ("L4",): 121e12, ("L40S",): 362e12,
    ("H100", "PCIe"): 756e12, ("H100",): 989e12, ("H200",): 989e12, ("RTX", "3090"): 71e12, ("RTX", "4090"): 165e12,
    ("RTX", "A6000"): 155e12,
}  # fmt: skip


def published_rate(processor: str) -> float | None:
    """FLOP/s on the data sheet of the card with this name, such as "NVIDIA H100 80GB HBM3"; None if it is unknown."""
    words = processor.replace("-", " ").split()
    if "Laptop" in words:  # the same name, another card
        return None
    return next((rate for name, rate in PUBLISHED.items() if all(part in words for part in name)), None)


def sd_forward_flops(configs: Path = ASSETS / "sd-1") -> int:
    """Operations of one UNet evaluation of one picture at SD 1.x's size, counted without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet"))
        side, channels = unet.config.sample_size, unet.config.in_channels
        z, t = torch.empty(1, channels, side, side), torch.zeros(1, dtype=torch.long)
        context = torch.empty(1, 77, unet.config.cross_attention_dim)
        with torch.no_grad():
            return count_flops(lambda: unet(z, t, context))


def study(rates: dict, measured: bool, flops: float, sizes: dict = SIZES) -> dict:
    """{"stages": {name: card-hours}, "card_hours": total, ...} of a study.

    `rates` has "matmul_flops_per_s", "sampling_share" and "training_share". What does not depend on the method (SP set,
    generations and scores of the base model) is counted once a person.
    """
    people, methods = sizes["people"], sizes["methods"]
    pictures = {
        "SP sets": people * sizes["sp_pictures"],
        "generations": people * (1 + methods) * sizes["generations"],
    }
    evaluations = {name: n * GUIDED * sizes["sampler_steps"] for name, n in pictures.items()}
    evaluations["scores"] = people * (1 + methods) * sizes["photos"] * sizes["evaluations_per_photo"]
    batches = methods + sizes["with_class_pictures"]  # class pictures double a batch
    trained = people * batches * sizes["training_steps"] * sizes["train_batch_size"] * TRAINED

    def hours(count: int, share: float) -> float:
        return count * flops / (rates["matmul_flops_per_s"] * share) / 3600

    stages = {name: hours(n, rates["sampling_share"]) for name, n in evaluations.items()}
    stages["fine-tuning"] = hours(trained, rates["training_share"])
    return {
        "rates": rates,
        "measured": measured,
        "sizes": sizes,
        "unet_flops": flops,
        "stages": stages,
        "card_hours": sum(stages.values()),
    }


def calculated(configs: Path = ASSETS / "sd-1") -> dict:
    """The content of results/study.json: the study on an assumed card, and on the published rates of some."""
    flops = sd_forward_flops(configs)
    cards = {" ".join(name): study(ASSUMED | {"matmul_flops_per_s": rate}, False, flops)["card_hours"]
             for name, rate in PUBLISHED.items()}  # fmt: skip
    return {
        "schema_version": 1,
        "command": "python -m s2l card --study --out results/study.json",
        "study": study(ASSUMED, False, flops),
        "card_hours_by_published_rate": cards,
    }
