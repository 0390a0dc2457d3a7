"""The keys of all results, one formula per stage. Loads no torch.

A result is in the cache under its key: the sha256 of exactly what it depends on. That is its settings, the keys of its
inputs, and a version of the computation. A model's key is made in model/diffusion.py, a domain's in data/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from s2l.config import (
    AuditConfig,
    AuditRunConfig,
    ExtractionConfig,
    FineTuneConfig,
    RunConfig,
    SamplerConfig,
    Settings,
    SPSetConfig,
    UnshakeConfig,
)
from s2l.finetune import catalogue
from s2l.keys import key_of

# Versions. Increase one when the same settings would give other results.
PICTURES = 1  # of a model, a prompt, a sampler and a seed
TRAINING = 2  # fine-tuned weights
SCORES = 2  # of the attacks
GUIDANCE = 1  # chosen seeds, and pictures that follow the change of the model
COMPARISON = 2  # of given scores and pictures
RESULT = 2
CELL = 1
FINE = 2  # the blind control of folders of one's own: both scales, judged by exchanging labels
SPLIT = 1  # what is measured of a split, and the photos of its second source
BROUGHT = 1  # how the files of other tools are applied to the base model
UNSHAKE = 1  # how the un-shaken model is made of the two others


Config = TypeVar("Config", RunConfig, AuditRunConfig, "RunConfig | AuditRunConfig")


def spelled_out(config: Config) -> Config:
    """The same run with every setting of the methods and attacks that it uses, defaults included.

    Keys are made from this: if a default changes, so do the keys of what used it, and no others.
    """
    from s2l.attacks import spelled_out as of_attacks  # loads torch

    sections: dict[str, Settings] = {"audit": of_attacks(config.audit)}
    if isinstance(config, RunConfig):
        sections["finetune"] = catalogue.spelled_out(config.finetune)
    return config.model_copy(update=sections)


def sp_set(model: str, name: str, config: SPSetConfig) -> str:
    """Key of the pictures that `model` generates of the person called `name`, whoever is shaken together with them."""
    return key_of("sp_set", PICTURES, model, name, config.model_copy(update={"together": None}))


def sp_sets(keys: Sequence[str]) -> str:
    """Key of the SP sets of several people as one training set, the same whichever of them is under test."""
    return keys[0] if len(keys) == 1 else key_of("sp_sets", sorted(keys))


def class_images(model: str, class_noun: str, number: int, sampler: SamplerConfig) -> str:
    """Key of DreamBooth's class images. They depend on the base model only: all people and combinations share them."""
    return key_of("class_images", PICTURES, model, class_noun, number, sampler)


def finetune(sp_set: str, config: FineTuneConfig, rates: dict[str, float], name: str) -> str:
    """Key of weights trained on an SP set. `rates` because a method's own learning rate is not in the settings."""
    return key_of("finetune", TRAINING, sp_set, catalogue.spelled_out(config), rates, name)


def tuned_folder(model: str, config: FineTuneConfig, weights: str) -> str:
    """Key of a fine-tuned model in a user's folder: its settings, and a hash of its weights."""
    return key_of("tuned", model, catalogue.spelled_out(config), weights)


def brought(base: str, kind: str, files: str, more: Sequence[str]) -> str:
    """Key of a fine-tuned model that another tool wrote: a hash of its files, and what else decides how it is used."""
    return key_of("brought", BROUGHT, base, kind, files, list(more))


def unshaken(tuned: str, base: str, config: UnshakeConfig, name: str) -> str:
    """Key of the un-shaken model. It has `name`, because in scores the model itself replaces the name in captions."""
    return key_of("unshaken", UNSHAKE, tuned, base, config, name)


def loss_parts(
    tuned: str, base: str, domain: str, settings: Settings, config: AuditConfig, captions: Sequence[Sequence[str]]
) -> str:
    """Key of the numbers behind the Loss attack's curve over w. `captions` are those of each of the two models."""
    texts = [list(c) for c in captions]
    ways = _ways(config)
    return key_of("loss_parts", UNSHAKE, SCORES, tuned, base, domain, settings, config.seed, texts, *ways)


def _ways(config: AuditConfig) -> list[dict[str, str]]:
    """How the attacks draw noise and read the autoencoder, as a part of a key; nothing for the ways of before."""
    ways = {name: getattr(config, name) for name, before in config.OF_BEFORE.items() if getattr(config, name) != before}
    return [ways] if ways else []


def scores(
    subject: str, domain: str, attack: str, settings: Settings, config: AuditConfig, captions: Sequence[str]
) -> str:
    """Key of one attack's scores on a domain's images, each with the caption that the attacker uses for it."""
    return key_of("scores", SCORES, subject, domain, attack, settings, config.seed, list(captions), *_ways(config))


def chosen_seeds(model: str, prompts: Sequence[str], config: ExtractionConfig, first_timestep: int) -> str:
    """Key of the measurement that chooses seeds from a pool."""
    return key_of("seeds", GUIDANCE, model, list(prompts), config.seed, first_timestep)


def generations(
    subject: str,
    prompts: Sequence[str],
    config: ExtractionConfig,
    seeds: Sequence[int] | None = None,
    plain_prompts: Sequence[str] | None = None,
) -> str:
    """Key of the pictures that extraction searches.

    `seeds` are those chosen from a pool, `plain_prompts` the base model's prompts if the pictures follow the change
    between two models. An option that is off is None and does not enter the key.
    """
    choice = [] if seeds is None else [list(seeds)]
    change = [] if plain_prompts is None else [GUIDANCE, config.guidance_w, list(plain_prompts)]
    return key_of("generations", PICTURES, subject, list(prompts), config.sampler, config.seed, *choice, *change)


def images(domain: str, part: str) -> str:
    """Key of a domain's "members" or "nonmembers" as pictures."""
    return key_of("images", domain, part)


def audit(
    domain: str,
    repeats: Sequence[int],
    config: AuditConfig,
    extraction: ExtractionConfig,
    stages: list[str],
    own_folders: bool = False,
) -> str:
    """Key of a comparison. What its scores and pictures depend on is in the keys of their `stages`."""
    own = config.model_copy(update={"settings": {}})
    fine = [FINE] if own_folders else []  # only such a split is looked at on the finest scale
    return key_of("audit", COMPARISON, domain, list(repeats), own, extraction.delta, extraction.k, stages, *fine)


def result(kind: str, config: RunConfig | AuditRunConfig, stages: list[str]) -> str:
    """Key of a result.json, whose `kind` is "run" or "audit"."""
    return key_of("result", RESULT, kind, spelled_out(config), stages)


def run(config: RunConfig, model: str) -> str:
    """Key of a job: one configuration on one model with this version of the program."""
    versions = [PICTURES, TRAINING, SCORES, GUIDANCE, RESULT] + ([UNSHAKE] if config.unshake is not None else [])
    return key_of("run", spelled_out(config), model, versions)


def cell(model: str, config: RunConfig) -> str:
    """Key of a cell of a table."""
    return key_of("cell", CELL, model, spelled_out(config))


def split_cell(model: str, config: RunConfig) -> str:
    """Key of a cell of the table `split`, which generates no pictures to search."""
    whole = spelled_out(config)
    return key_of("split cell", SPLIT, model, whole.domain, whole.sp_set, whole.finetune, whole.audit)
