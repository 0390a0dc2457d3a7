"""DreamBooth: bind a rare identifier to the subject, and keep the class by prior preservation.

An objective, not a set of parameters (Ruiz et al. 2023). Alone it trains what end-to-end trains;
in a combination only the other method's parameters train.

    L = E ||e - eps(z_t, t, "a photo of sks person")||^2              on the SP set
        + w E ||e - eps(z'_t, t, "a photo of a person")||^2           on class images z'

with w = `prior_loss_weight`; the class images come from the *base* model, one seed an image. The
identifier stands in the name's place: the base model knows nothing of "sks", so whatever it shows
afterwards was put there by fine-tuning. With Textual Inversion the learned tokens are the
identifier ("a photo of <s2l> person"). The authors' script keeps the name and uses no class images:
that is identifier="{name}", prior_loss_weight=0.
"""

from __future__ import annotations

from pathlib import Path

import torch

from s2l.config import FineTuneConfig, replace_name
from s2l.data.domain import ImageSet
from s2l.data.sp_set import generate_images
from s2l.finetune.registry import Examples, Finetuner, register_finetuner
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Progress

CLASS_SEED = 70_000_000  # far from the seeds of SP sets and of extraction
MAX_CLASS_IMAGES = 1000  # what Ruiz et al. use


def class_prompt(config: FineTuneConfig) -> str:
    """What class images are drawn and trained with: "a photo of a person"."""
    return f"a photo of {'an' if config.class_noun[0].lower() in 'aeiou' else 'a'} {config.class_noun}"


def number_of_class_images(config: FineTuneConfig, n_instances: int) -> int:
    """How many class images an SP set of n_instances gets; 0 without prior preservation."""
    if config.prior_loss_weight == 0:
        return 0
    return config.num_class_images or min(n_instances, MAX_CLASS_IMAGES)


def class_images(model: DiffusionModel, config: FineTuneConfig, n: int, folder: Path, progress: Progress) -> ImageSet:
    """Draw n pictures of the class with the base model into `folder`, resuming what is there."""
    prompts, seeds = [class_prompt(config)] * n, range(CLASS_SEED, CLASS_SEED + n)
    return generate_images(model, prompts, seeds, config.class_sampler, folder, "class_images", progress)


def objective(
    model: DiffusionModel, examples: Examples, config: FineTuneConfig, folder: Path, progress: Progress
) -> Examples:
    """The SP set's examples with the class images, kept in `folder`, as their second group."""
    n = number_of_class_images(config, len(examples.latents))
    if n == 0:
        return examples
    drawn = class_images(model, config, n, folder, progress)
    return Examples(
        latents=torch.cat([examples.latents, model.encode_images(drawn.images)]),
        captions=examples.captions + drawn.captions,
        weights=torch.cat([examples.weights, torch.full((n,), config.prior_loss_weight)]),
        groups=torch.cat([examples.groups, torch.ones(n, dtype=torch.long)]),
    )


def map_caption(caption: str, name: str, config: FineTuneConfig) -> str:
    """`a photo of Mira Solwyn` becomes `a photo of sks person`."""
    if "textual_inversion" in config.methods:
        learned = config.placeholder_token  # has taken the name's place already
        return replace_name(caption, learned, f"{learned} {config.class_noun}")
    if "{name}" in config.identifier:
        return replace_name(caption, name, config.identifier.replace("{name}", name))
    return replace_name(caption, name, f"{config.identifier} {config.class_noun}")


register_finetuner(
    Finetuner(
        name="dreambooth",
        title="DreamBooth",
        source="Ruiz et al. 2023, DreamBooth: Fine Tuning Text-to-Image Diffusion Models",
        trains="the whole UNet, or what it is combined with, on a rare word for the subject; pictures of the class "
        "drawn by the base model keep the rest as it was",
        kind="objective",
        learning_rate=1e-4,  # alone; at end-to-end's 3e-5 the rare word is not learnt in 300 steps
        objective=objective,
        map_caption=map_caption,
    )
)
