"""One of the two models that an audit compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from s2l.model.diffusion import DiffusionModel


@dataclass(frozen=True)
class Subject:
    """One of the two models. Different weights need different keys.

    key      names the weights in the cache
    load     gives the model when something is missing there: an audit from the cache loads none
    caption  what the attacker writes for a caption: after some methods a token stands for the name
    """

    key: str
    load: Callable[[], DiffusionModel]
    caption: Callable[[str], str] = str

    @classmethod
    def of(cls, model: DiffusionModel, key: str | None = None, caption: Callable[[str], str] = str) -> Subject:
        """A model that is loaded already. A fine-tuned copy has its base's key: give one of its own."""
        return cls(key or model.key, lambda: model, caption)
