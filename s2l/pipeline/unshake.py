"""Un-shake: base + w (base - fine-tuned) instead of the fine-tuned model, and the Loss attack for every w at once.

Captions. In weights, a model with w < 0 is on the fine-tuned model's side and gets its captions. With w >= 0, captions
have the person's name again, because the model does not know what DreamBooth taught its identifier; only the tokens of
Textual Inversion, which are the change itself, still replace the name. In scores each model gets its own captions.

The whole curve costs one more number per photo, G. With D = L_tuned - L_base and G = mean ||eps_base - eps_tuned||^2,
all on the same noised latents, ||n - eps_base - w (eps_base - eps_tuned)||^2 averages to

    L_w = L_base - w D + (w^2 + w) G
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from s2l import attacks
from s2l.attacks.loss import LossSettings
from s2l.config import AuditConfig, UnshakeConfig
from s2l.data.domain import Domain
from s2l.measure import intervals
from s2l.model.diffusion import DiffusionModel
from s2l.model.extrapolated import Extrapolated
from s2l.model.finite import finite
from s2l.pipeline import identity
from s2l.pipeline.stages import LOSS_PARTS, Stages
from s2l.pipeline.subject import Subject
from s2l.progress import Event

CURVE = tuple(i / 4 for i in range(-8, 17))  # the values of w: -2, -1.75, ..., 4


def _unknown_change(scale: float) -> DiffusionModel:
    raise ValueError("the change of this model cannot be scaled: give a FineTuned with `scaled`")


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model, and what un-shake needs to know about it.

    subject  the model as it was trained, with its captions
    scaled   scale -> the base model plus `scale` times the change
    away     the captions of the model after a step away from the change
    name     the person's name, which `subject` replaces in captions; "" if it is not known
    notes    what it is, where another tool wrote it, and what had to be done to use it, a sentence each
    tokens   learned words, as its tokenizer knows them
    """

    subject: Subject
    scaled: Callable[[float], DiffusionModel] = _unknown_change
    away: Callable[[str], str] = str
    name: str = ""
    notes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


def unshaken(base: Subject, tuned: FineTuned, config: UnshakeConfig | None) -> Subject:
    """The model to compare with `base`: the fine-tuned one or, with `config`, the un-shaken one."""
    if config is None:
        return tuned.subject
    key = identity.unshaken(tuned.subject.key, base.key, config, tuned.name)
    if config.space == "scores":
        mixed = cache(
            lambda: Extrapolated(base.load(), tuned.subject.load(), config.w, tuned_caption=tuned.subject.caption)
        )
        return Subject(key, mixed)
    caption = tuned.subject.caption if config.w < 0 else tuned.away
    return Subject(key, cache(lambda: tuned.scaled(-config.w)), caption)


# --- the Loss attack for every w ---------------------------------------------------------------------------------


def loss_parts(base: Subject, tuned: Subject, domain: Domain, config: AuditConfig, stages: Stages) -> np.ndarray:
    """(N, 3) float64 of the domain's images, members first: L_base, L_tuned and G, averaged over the timesteps."""
    images = domain.membership.all()
    captions = [[subject.caption(text) for text in images.captions] for subject in (base, tuned)]
    settings = attacks.attack_settings("loss", config)
    assert isinstance(settings, LossSettings)

    def work(folder: Path) -> None:
        models = base.load(), tuned.load()
        query = attacks.query_of(models[0], images, config, captions[0])
        other = query.altered(embeddings=models[1].encode_prompts(captions[1]), captions=tuple(captions[1]))

        def parts(some: slice) -> torch.Tensor:
            queries = query.part(some), other.part(some)
            total = torch.zeros(len(queries[0]), 3, device=models[0].device)
            for draw, t in enumerate(settings.timesteps):
                n = queries[0].noise(models[0], draw)
                e = [one.noised_eps(model, t, draw) for model, one in zip(models, queries, strict=True)]
                for i, difference in enumerate((n - e[0], n - e[1], e[0] - e[1])):
                    total[:, i] += difference.square().mean(dim=(1, 2, 3))
            return finite(total, "the Loss attack on both models", models[0].dtype).cpu() / len(settings.timesteps)

        rows: list[torch.Tensor] = []
        for group in models[0].batches(len(query)):
            rows += models[0].together(parts, group)
            stages.progress(Event(LOSS_PARTS.id, sum(map(len, rows)), len(query)))
        save_file({"parts": torch.cat(rows)}, folder / "loss.safetensors")

    key = identity.loss_parts(tuned.key, base.key, domain.key, settings, config, captions)
    folder = stages(LOSS_PARTS, key, work)
    return load_file(folder / "loss.safetensors")["parts"].double().numpy()


def loss_at(parts: np.ndarray, w: float) -> np.ndarray:
    """(N,) scores of the Loss attack on the model un-shaken by w in scores, higher = member."""
    l_base, l_tuned, g = parts.T
    return -(l_base - w * (l_tuned - l_base) + (w * w + w) * g)


def loss_curve(parts: np.ndarray, n_members: int, confidence: float) -> list[dict[str, float]]:
    """The AUC of the Loss attack with its DeLong interval for every w of CURVE."""
    rows = []
    for w in CURVE:
        scores = loss_at(parts, w)
        interval = intervals.delong_interval(scores[:n_members], scores[n_members:], confidence)
        auc = float(intervals.auc(scores[:n_members], scores[n_members:]))
        rows.append({"w": w, "auc": auc, "low": interval.low, "high": interval.high})
    return rows


def unshake_record(
    config: UnshakeConfig | None, base: Subject, tuned: FineTuned, domain: Domain, audit: AuditConfig, stages: Stages
) -> dict | None:
    """The part "unshake" of a record; None if the fine-tuned model itself was attacked."""
    if config is None:
        return None
    curve = None
    if domain.split is not None and "loss" in audit.attacks:
        parts = loss_parts(base, tuned.subject, domain, audit, stages)
        curve = loss_curve(parts, len(domain.membership.members), audit.confidence)
    return {"w": config.w, "space": config.space, "loss_curve": curve}
