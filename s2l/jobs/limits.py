"""What the owner of a server can set by environment variables; README lists them."""

from __future__ import annotations

from pydantic import Field

from s2l.environment import Switch, Variables

MAX_UPLOADS = 300  # photos of one kind that a visitor can upload
MAX_UPLOAD_BYTES = 5_000_000  # per photo; gradio refuses more before it is read
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
        description="after this time, reports that nobody opens and runs that have ended are deleted",
    )
    upload_hours: float = Field(24, ge=0.1, le=1e6, description="after this time, a visitor's own photos are deleted")
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
