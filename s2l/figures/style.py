"""What all figures share: colours, sizes, tidy axes, PNG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import ScalarFormatter

from s2l.record import When

TITLE, LARGE, SMALL = 19, 15, 13  # points, at the figures' own sizes: readable from the last row


@dataclass(frozen=True)
class Palette:
    """Colours that people with any colour vision can distinguish (after Okabe & Ito)."""

    paper: str
    ink: str
    muted: str
    grid: str
    before: str
    after: str
    members: str
    nonmembers: str


LIGHT = Palette("#ffffff", "#1b222c", "#5c6675", "#e4e8ee", "#3b6ea5", "#c8501e", "#2a7f76", "#4a5361")
DARK = Palette("#14181f", "#eef1f5", "#a5afbd", "#2b323d", "#7fb2e5", "#f39663", "#5cc4b7", "#c3cad4")
LINES: dict[When, Any] = {"before": (0, (5, 2.5)), "after": "-"}


def palette(dark: bool) -> Palette:
    return DARK if dark else LIGHT


def new_figure(width: float, height: float, c: Palette) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14, wspace=0.03)
    return Figure(figsize=(width, height), facecolor=c.paper, layout=layout)


def tidy(ax: Axes, c: Palette, xlabel: str, ylabel: str, title: str = "") -> None:
    ax.set_facecolor(c.paper)
    ax.grid(True, color=c.grid, linewidth=0.9)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(c.muted)
    ax.tick_params(which="both", colors=c.muted, labelsize=SMALL, length=0, pad=7)
    ax.set_xlabel(xlabel, fontsize=LARGE, color=c.ink, labelpad=8)
    ax.set_ylabel(ylabel, fontsize=LARGE, color=c.ink, labelpad=8)
    if title:
        ax.set_title(title, fontsize=TITLE, color=c.ink, loc="left", pad=14)


def powers() -> ScalarFormatter:
    """Ticks as 1, 2, 3 with the power of ten beside the axis, not as 0.0001, 0.0002, 0.0003."""
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-2, 4))
    return formatter


def note(ax: Axes, c: Palette, text: str) -> Axes:
    """An empty plot that says why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=LARGE, color=c.muted, transform=ax.transAxes)
    return ax


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()
