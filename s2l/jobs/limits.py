"""What the owner of a server may decide, by environment variables; README lists them."""

from __future__ import annotations

from pydantic import Field

from s2l.environment import Switch, Variables

MAX_UPLOADS = 300  # photos of one kind a visitor may bring
MAX_UPLOAD_BYTES = 5_000_000  # a photo; gradio refuses more before it is read
MAX_UPLOAD_PIXELS = 40_000_000  # a small file may unpack to a huge picture


class Limits(Variables):
    """Bounds of one server."""

    cache_max_gb: float = Field(
        5, ge=0.05, le=1e6, description="stage results beyond this are deleted, the least recently used first"
    )
    keep_hours: float = Field(
        168,
        ge=1,
        le=1e6,
        description="published reports that nobody opens, and jobs that ended, are forgotten after this",
    )
    upload_hours: float = Field(24, ge=0.1, le=1e6, description="a visitor's own photos are deleted after this")
    max_queue: int = Field(20, ge=1, le=10_000, description="runs that may wait")
    max_queue_per_visitor: int = Field(5, ge=1, le=10_000, description="of them, from one visitor")


class OwnModel(Variables):
    """Which real checkpoints visitors may use, if any."""

    model: str = Field("", description="a real checkpoint (folder or hub id) to offer beside the shipped labs")
    allow_hub_models: Switch = Field(False, description="`1`: visitors may name any checkpoint of the hub")
    allow_prompts: Switch = Field(
        False,
        description="`1`: visitors' own prompts may be used with a real checkpoint; otherwise only fixed ones, about a "
        "name of at most five words",
    )

    @property
    def enabled(self) -> bool:
        return bool(self.model) or self.allow_hub_models
