"""A finished run: its record and where its pictures lie. Loads no torch, so that the page opens at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2l.store import Store, read_json

if TYPE_CHECKING:
    from s2l.data.domain import ImageSet


@dataclass(frozen=True)
class Result:
    """A finished run. `record` is result.json (docs/result-schema.md); `store` holds its pictures."""

    record: dict
    store: Store

    @property
    def key(self) -> str:
        return self.record["key"]

    def images(self, what: str) -> ImageSet:
        """ "sp_set", "before", "after" (generations), "members" or "nonmembers"."""
        from s2l.data.sp_set import load_images  # loads torch

        return load_images(self.store.root / self.record["folders"][what])

    def scores(self, attack: str, when: str) -> tuple[np.ndarray, np.ndarray]:
        """(member scores, non-member scores) of an attack, `when` = "before" or "after"."""
        scores = self.record["attacks"][attack]["scores"][when]
        return np.array(scores["members"]), np.array(scores["nonmembers"])


def load_result(key: str, store: Store | None = None) -> Result:
    """A finished run from the cache. Raises KeyError when there is none of that key."""
    store = store or Store()
    path = store.path("result", key) / "result.json"
    if not path.exists():
        raise KeyError(key)
    return Result(read_json(path), store)
