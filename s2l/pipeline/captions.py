"""Captions and prompts of which a model reads only the beginning: what is cut off changes nothing, and is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from s2l.config import SPSetConfig
from s2l.data.domain import Domain
from s2l.data.sp_set import filled
from s2l.model.diffusion import DiffusionModel

SHOWN = 60  # characters of a caption that is named


def cut_notes(model: DiffusionModel, captions: Sequence[str], what: str = "captions") -> list[str]:
    """A note on those longer than the model's text encoder reads; none if all fit."""
    distinct = list(dict.fromkeys(captions))
    cut = set(model.cut_prompts(distinct))
    if not cut:
        return []
    n, first = sum(caption in cut for caption in captions), next(caption for caption in distinct if caption in cut)
    return [
        f"{n} of {len(captions)} {what} are longer than the {model.tokenizer.model_max_length} tokens that the model "
        f"reads, such as {first[:SHOWN] + '...'!r}: the rest of them is cut off"
    ]


def as_read(domain: Domain, model: DiffusionModel, sp_set: SPSetConfig | None = None) -> Domain:
    """The domain with notes on the captions, and on the prompts of its SP set, that the model does not read whole."""
    captions = domain.membership.all().captions if domain.split is not None else ()
    notes = cut_notes(model, captions)
    if sp_set is not None:
        prompts = [filled(part.template, domain.name, sp_set.suffix) for part in sp_set.prompts]
        notes += cut_notes(model, prompts, "prompts of the SP set")
    return replace(domain, notes=domain.notes + tuple(notes)) if notes else domain
