"""The catalogue of attacks, and the functions that run them.

Convention: every score is returned with *higher = more likely a member*. A formula that is a distance is
negated in its last line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import Field

from s2l.attacks.query import MEMO_LIMIT, Prediction, Query
from s2l.config import AuditConfig, Settings, checked
from s2l.model.diffusion import DiffusionModel
from s2l.model.finite import finite
from s2l.plugins import Catalogue
from s2l.progress import Event, Progress, silent

Timestep = Annotated[int, Field(ge=0, le=999)]
Timesteps = Annotated[tuple[Timestep, ...], Field(min_length=1, max_length=1000)]

# Feature maps, in units of a network's largest one, that exist at once in a forward pass without gradients.
UNET_MAPS = 30  # a transformer block's feed-forward (8c, then 4c three times), its inputs, the skip connections
VAE_MAPS = 6  # a residual block of the encoder: input, normalised, activated, convolved, padded
SCRATCH = 128 * 2**20  # bytes that the libraries' kernels and allocators take, whatever the batch size


@dataclass(frozen=True)
class Attack:
    """One membership inference attack.

    score        (model, query, settings) -> (N,) float32, higher = member; or (N, K) for K components
    settings     the class of its settings, with defaults
    evaluations  UNet evaluations per image when the attack runs alone, given the settings
    formula      the score in one line, for tables; the docstring of `score` says what the symbols are
    asks         predictions that it shares with other attacks that need the same ones, given the settings
    components   names of the K columns, each higher = member; the first one is the score if there is no calibration
                 (see calibration.py); () for an attack that returns its score
    """

    name: str
    title: str
    source: str
    score: Callable[[DiffusionModel, Query, Settings], torch.Tensor]
    settings: type[Settings]
    evaluations: Callable[[Settings], int]
    formula: str
    asks: Callable[[Settings], frozenset[Prediction]] = lambda settings: frozenset()
    components: tuple[str, ...] = ()


ATTACKS: Catalogue[Attack] = Catalogue("attack", "s2l.attacks", Attack)


def register_attack(name: str, **facts):
    """Decorator: register a score function under `name`; `facts` are the other fields of Attack."""

    def decorate(score):
        ATTACKS.add(Attack(name, score=score, **facts))
        return score

    return decorate


def get_attack(name: str) -> Attack:
    """The attack of that name. Raises UserError with the nearest match."""
    return ATTACKS.known(name)


def attack_settings(name: str, config: AuditConfig) -> Settings:
    """An attack's defaults with the run's overrides. Raises UserError for a misspelt attack among the overrides."""
    for other in config.settings:
        get_attack(other)
    return checked(get_attack(name).settings, config.settings.get(name, {}))


def spelled_out(config: AuditConfig) -> AuditConfig:
    """The same audit with every setting of the attacks that it uses, defaults included."""
    every = {name: attack_settings(name, config).model_dump(mode="json") for name in config.attacks}
    return config.model_copy(update={"settings": every})


def _asks(name: str, config: AuditConfig) -> frozenset[Prediction]:
    return get_attack(name).asks(attack_settings(name, config))


def sharing_groups(names: Sequence[str], config: AuditConfig) -> list[list[str]]:
    """The attacks in groups that share predictions: running the attacks of a group together is cheaper."""
    groups: list[tuple[list[str], frozenset[Prediction]]] = []
    for name in dict.fromkeys(names):
        group, asks = [name], _asks(name, config)
        apart = []
        for others, theirs in groups:
            if theirs & asks:
                group, asks = others + group, theirs | asks
            else:
                apart.append((others, theirs))
        groups = [*apart, (group, asks)]
    order = list(names)
    return sorted((sorted(group, key=order.index) for group, _ in groups), key=lambda group: order.index(group[0]))


def evaluations_together(names: Sequence[str], config: AuditConfig) -> int:
    """UNet evaluations per image of all these attacks in one suite, each shared prediction made once."""
    names = list(dict.fromkeys(names))
    alone = sum(get_attack(name).evaluations(attack_settings(name, config)) for name in names)
    needed = [_asks(name, config) for name in names]
    return alone - sum(map(len, needed)) + len(frozenset().union(*needed))


def _score(attack: Attack, model: DiffusionModel, settings: Settings, query: Query) -> torch.Tensor:
    return attack.score(model, query, settings)


def run_components(
    names: Sequence[str], model: DiffusionModel, query: Query, config: AuditConfig, progress: Progress = silent
) -> dict[str, torch.Tensor]:
    """Run attacks together, batch by batch: {name: (N, K) float32 on the CPU}, each column higher = member.

    K is 1 except for attacks with components. Within a batch the attacks share the predictions that their formulas
    have in common: eps(z0, 0, c) of PIA, PIAN, SecMI and (at t = 0) SimA, eps(z_t, t, c) of Loss, PFAMI and SimA-MC.
    The numbers are those of each attack alone. Raises UserError at the first score that is NaN or infinite.
    """
    if not len(query):
        raise ValueError("the query holds no image: nothing to score")
    attacks = [(get_attack(name), attack_settings(name, config)) for name in dict.fromkeys(names)]
    parts: dict[str, list[torch.Tensor]] = {attack.name: [] for attack, _ in attacks}
    done, total = 0, len(query) * len(attacks)
    for group in model.batches(len(query)):
        queries = [query.part(some).remembering(model) for some in group]
        for attack, settings in attacks:
            score = partial(_score, attack, model, settings)
            for part, scores in zip(queries, model.together(score, queries), strict=True):
                finite(scores, f"the {attack.title} attack", model.dtype)
                parts[attack.name].append(scores.float().cpu().reshape(len(part), -1))
                done += len(part)
            stage = f"attack {attack.name}" if len(attacks) == 1 else "attacks"
            progress(Event(stage, done, total, {"attack": attack.name}))
    return {name: torch.cat(rows) for name, rows in parts.items()}


def run_suite(
    names: Sequence[str], model: DiffusionModel, query: Query, config: AuditConfig, progress: Progress = silent
) -> dict[str, torch.Tensor]:
    """`run_components` with one uncalibrated score per image: {name: (N,) float32 on the CPU}, higher = member."""
    components = run_components(names, model, query, config, progress)
    return {name: columns[:, 0].contiguous() for name, columns in components.items()}


def run_attack(
    name: str, model: DiffusionModel, query: Query, config: AuditConfig, progress: Progress = silent
) -> torch.Tensor:
    """Score all images of a query with one attack: (N,) float32 on the CPU, higher = member."""
    return run_suite((name,), model, query, config, progress)[name]


def memory_estimate(model: DiffusionModel, batch_size: int) -> int:
    """Bytes that scoring `batch_size` images at once takes beside the weights and the query: an upper estimate.

    One forward pass of the UNet or of the VAE's encoder (PFAMI encodes crops), whichever is larger, plus what the
    suite keeps of a batch: the memo, a few tensors of latents, pixels and captions. Independent of the number of
    images and attacks; linear in the batch size, above SCRATCH. Batches that are computed at the same time take that
    much each. Holds for attention that never stores a token-by-token matrix (torch's fused kernels, the default).
    Stable Diffusion v1 in float32: 0.9 GB per image.
    """
    latent = 4 * math.prod(model.latent_shape)  # bytes of one float32 latent
    wide = model.dtype.itemsize

    def largest_map(channels: Sequence[int], side: int) -> int:
        return max(c * (side >> level) ** 2 for level, c in enumerate(channels))

    unet = UNET_MAPS * wide * largest_map(model.unet.config.block_out_channels, model.latent_shape[1])
    vae = VAE_MAPS * wide * largest_map(model.vae.config.block_out_channels, model.resolution)
    captions = 2 * wide * model.tokenizer.model_max_length * model.unet.config.cross_attention_dim
    memo = (MEMO_LIMIT + 8) * latent + 4 * 4 * 3 * model.resolution**2 + captions
    return SCRATCH + batch_size * (max(unet, vae) + memo)
