"""DreamBooth: bind a rare identifier to the subject, and keep the class by prior preservation.

An objective, not a set of parameters (Ruiz et al. 2023). Alone it trains what end-to-end trains;
in a combination only the other method's parameters train.

    L = E ||e - eps(z_t, t, "a photo of sks person")||^2              on the SP set
        + w E ||e - eps(z'_t, t, "a photo of a person")||^2           on class images z'

with w = `prior_loss_weight`; the class images come from the *base* model, one seed per image. The
identifier replaces the name: the base model does not know "sks", so whatever it means afterwards
comes from fine-tuning. With Textual Inversion the learned tokens are the identifier ("a photo of
<s2l> person"). The authors' script keeps the name and uses no class images: that is
identifier="{name}", prior_loss_weight=0.
"""

from __future__ import annotations

from pathlib import Path

import torch

from s2l.config import FineTuneConfig
from s2l.data.domain import ImageSet
from s2l.data.sp_set import generate_images
from s2l.finetune.catalogue import DreamBoothSettings, TextualInversionSettings, settings_of
from s2l.finetune.method import Examples
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Progress
from s2l.prompts import replace_name

CLASS_SEED = 70_000_000  # far from the seeds of SP sets and of extraction
MAX_CLASS_IMAGES = 1000  # what Ruiz et al. use


def own_settings(config: FineTuneConfig) -> DreamBoothSettings:
    return settings_of("dreambooth", DreamBoothSettings, config)


def class_prompt(class_noun: str) -> str:
    """The caption of class images, for generating and for training: "a photo of a person"."""
    return f"a photo of {'an' if class_noun[0].lower() in 'aeiou' else 'a'} {class_noun}"


def number_of_class_images(config: FineTuneConfig, n_instances: int) -> int:
    """How many class images an SP set of n_instances gets; 0 without prior preservation."""
    settings = own_settings(config)
    if settings.prior_loss_weight == 0:
        return 0
    return settings.num_class_images or min(n_instances, MAX_CLASS_IMAGES)


def class_images(model: DiffusionModel, config: FineTuneConfig, n: int, folder: Path, progress: Progress) -> ImageSet:
    """Generate n pictures of the class with the base model in `folder`; resumes from what is there."""
    settings, seeds = own_settings(config), range(CLASS_SEED, CLASS_SEED + n)
    prompts = [class_prompt(settings.class_noun)] * n
    return generate_images(model, prompts, seeds, settings.class_sampler, folder, "class_images", progress)


def objective(
    model: DiffusionModel, examples: Examples, config: FineTuneConfig, folder: Path, progress: Progress
) -> Examples:
    """The SP set's examples with the class images, kept in `folder`, as their second group."""
    n = number_of_class_images(config, len(examples.latents))
    if n == 0:
        return examples
    prior = class_images(model, config, n, folder, progress)
    return Examples(
        latents=torch.cat([examples.latents, model.encode_images(prior.images)]),
        captions=examples.captions + prior.captions,
        weights=torch.cat([examples.weights, torch.full((n,), own_settings(config).prior_loss_weight)]),
        groups=torch.cat([examples.groups, torch.ones(n, dtype=torch.long)]),
    )


def map_caption(caption: str, name: str, config: FineTuneConfig) -> str:
    """`a photo of Mira Solwyn` becomes `a photo of sks person`."""
    settings = own_settings(config)
    if "textual_inversion" in config.methods:  # its token has already replaced the name
        learned = settings_of("textual_inversion", TextualInversionSettings, config).placeholder_token
        return replace_name(caption, learned, f"{learned} {settings.class_noun}")
    if "{name}" in settings.identifier:
        return replace_name(caption, name, settings.identifier.replace("{name}", name))
    return replace_name(caption, name, f"{settings.identifier} {settings.class_noun}")
