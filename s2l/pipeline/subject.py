"""One of the two models that an audit compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from s2l.model.diffusion import DiffusionModel


@dataclass(frozen=True)
class Subject:
    """One of the two models. Different weights need different keys.

    key      identifies the weights in the cache
    load     gives the model; an audit that is entirely in the cache never calls it
    caption  the caption that the attacker uses: after some methods a token replaces the name
    """

    key: str
    load: Callable[[], DiffusionModel]
    caption: Callable[[str], str] = str

    @classmethod
    def of(cls, model: DiffusionModel, key: str | None = None, caption: Callable[[str], str] = str) -> Subject:
        """A model that is already loaded. A fine-tuned copy has its base model's key, so give another one."""
        return cls(key or model.key, lambda: model, caption)
