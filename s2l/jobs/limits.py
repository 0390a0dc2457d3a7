"""What the owner of a server can set by environment variables; README lists them."""

from __future__ import annotations

import re
import unicodedata

from pydantic import Field

from s2l.config import RunConfig
from s2l.environment import Switch, Variables
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.presets import PRESETS

MAX_UPLOADS = 300  # photos of one kind that a visitor can upload
MAX_UPLOAD_BYTES = 5_000_000  # per photo; gradio refuses larger files before reading them
MAX_UPLOAD_PIXELS = 40_000_000  # a small file may unpack to a huge picture


class Limits(Variables):
    """Bounds of one server."""

    cache_max_gb: float = Field(
        5, ge=0.05, le=1e6, description="stage results beyond this size are deleted, the least recently used first"
    )
    keep_hours: float = Field(
        168,
        ge=1,
        le=1e6,
        description="after this time, reports that nobody opens, runs that have ended, and classes are deleted",
    )
    upload_hours: float = Field(24, ge=0.1, le=1e6, description="after this time, a visitor's own photos are deleted")
    upload_max_gb: float = Field(
        2, ge=0.01, le=1e6, description="photos beyond this size that no run uses are deleted, the oldest first"
    )
    max_queue: int = Field(20, ge=1, le=10_000, description="how many runs may wait")
    max_queue_per_visitor: int = Field(5, ge=1, le=10_000, description="how many runs of one visitor may wait")


class OwnModel(Variables):
    """Which real checkpoints visitors may use, if any."""

    model: str = Field("", description="a real checkpoint (folder or hub id) that is offered beside the shipped labs")
    allow_hub_models: Switch = Field(False, description="`1`: visitors may name any checkpoint on the hub")
    allow_prompts: Switch = Field(
        False,
        description="`1`: visitors may use their own prompts with a real checkpoint; otherwise only fixed prompts with "
        "a name of at most five words",
    )

    @property
    def enabled(self) -> bool:
        return bool(self.model) or self.allow_hub_models


# --- what text may reach a real checkpoint ---------------------------------------------------------------------------

NAME_WORDS = 5
WORD_LETTERS = 20  # more is a sentence without spaces
# Texts of a configuration that cannot get into a prompt, by path or by its last part. Every other text is checked.
NO_PROMPT_PATHS = {"model", "preset", "domain.members", "domain.nonmembers", "unshake.space"}
NO_PROMPT_NAMES = {"scheduler", "lr_scheduler", "methods", "attacks", "target_modules", "noise_target"}


def short_name(name: object) -> str:
    """A name on one line, with single spaces. Raises UserError for an empty name and for a long one."""
    text = " ".join(str(name or "").split())
    if not 1 <= len(text) <= 80:
        raise UserError("a name should have 1 to 80 characters")
    return text


def plain_name(name: object) -> str:
    """A name that may be put into the fixed prompts, with single spaces. Raises UserError.

    It may have letters of any script, digits, spaces and the marks that occur inside names. All other characters are
    refused, invisible ones included, so that no sentence passes as a name.
    """
    text = short_name(unicodedata.normalize("NFKC", str(name or "")))
    if strange := {c for c in text if unicodedata.category(c)[0] not in "LMN" and c not in " .'’-·"}:
        raise UserError(
            f"a name may have only letters, digits, spaces and the marks . ' - (given: {min(strange)!r}): this server "
            "allows no prompts of your own"
        )
    words = re.findall(r"[^ .'’·-]+", text)
    if not words:
        raise UserError("a name should have at least one letter")
    if len(words) > NAME_WORDS or max(map(len, words)) > WORD_LETTERS:
        raise UserError(
            f"a name may have at most {NAME_WORDS} words of {WORD_LETTERS} letters here: this server allows no prompts "
            "of your own"
        )
    return text


def _texts(values: object, path: str = "") -> list[tuple[str, str]]:
    """(path, text) of every text in a configuration; the items of a list share its path."""
    if isinstance(values, str):
        return [(path, values)]
    if isinstance(values, dict):
        return [found for key, value in values.items() for found in _texts(value, f"{path}.{key}".lstrip("."))]
    if isinstance(values, list | tuple):
        return [found for value in values for found in _texts(value, path)]
    return []


def check_texts(config: RunConfig) -> None:
    """The one rule on what visitors may let a real checkpoint generate. Raises UserError.

    With a lab any text is allowed, because it knows only invented people. With a real checkpoint, unless the owner
    allows prompts, every text that can get into a prompt must be one of the presets', and the name a plain one.
    """
    if find_lab(config.model) is not None or OwnModel.read().allow_prompts:
        return
    plain_name(config.domain.name)
    bases = [RunConfig(domain={"name": "x"}).model_dump(), *PRESETS.values()]
    known = {text for base in bases for path, text in _texts(base) if path != "domain.name"} | {""}
    for path, text in _texts(config.model_dump()):
        if path in NO_PROMPT_PATHS | {"domain.name"} or path.rpartition(".")[2] in NO_PROMPT_NAMES:
            continue
        if text not in known:
            raise UserError(
                f"this server allows no prompts of your own with a real checkpoint: leave this field unchanged (given: "
                f"{text[:80]!r})",
                path,
            )
