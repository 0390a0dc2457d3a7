"""Histograms: scores, and distances to the nearest generation, of members beside held-out photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from s2l.figures.style import SMALL, Palette, new_figure, note, palette, powers, tidy

if TYPE_CHECKING:
    from s2l.record import Result


WIDE, NARROW = (14, 5), (5, 8.4)  # inches: two panels beside each other; below each other, for a telephone


def _two_histograms(
    figure: Figure | SubFigure,
    panels: dict[str, tuple[np.ndarray, np.ndarray]],
    c: Palette,
    xlabel: str,
    narrow: bool = False,
) -> list[Axes]:
    """One panel per key, on shared axes: members filled, held-out photos outlined, both as shares.

    The panels stand beside each other; `narrow`: below each other.
    """
    from s2l.measure.metrics import histogram

    members, nonmembers = (np.concatenate([pair[i] for pair in panels.values()]) for i in (0, 1))
    bins = int(np.clip(len(members) // 4, 8, 24))  # both panels' members: few photos need wide bars
    edges = np.array(histogram(members, nonmembers, bins).edges)
    axes: list[Axes] = []
    for i, (title, (m, n)) in enumerate(panels.items()):
        rows, columns = (len(panels), 1) if narrow else (1, len(panels))
        ax = figure.add_subplot(
            rows, columns, i + 1, sharex=axes[0] if axes else None, sharey=axes[0] if axes else None
        )
        shares = [np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / len(x) for x in (m, n)]
        ax.stairs(shares[0], edges, fill=True, color=c.members, alpha=0.55, label=f"members ({len(m)})")
        ax.stairs(shares[1], edges, color=c.nonmembers, linewidth=2.4, label=f"held-out photos ({len(n)})")
        last = i == len(panels) - 1
        tidy(ax, c, xlabel if last or not narrow else "", "share of photos" if i == 0 or narrow else "", title)
        if narrow:
            ax.xaxis.set_label_coords(0, -0.2)  # beside the axis' power of ten, not below it
            ax.xaxis.label.set_horizontalalignment("left")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        ax.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6))
        ax.xaxis.set_major_formatter(powers())
        ax.xaxis.get_offset_text().set(fontsize=SMALL, color=c.muted)
        ax.margins(x=0.01)
        axes.append(ax)
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=SMALL, frameon=False, labelcolor=c.ink,
        loc="outside upper left" if narrow else "outside upper right", ncols=1 if narrow else 2,
    )  # fmt: skip
    return axes


def score_histogram_figure(result: Result, attack: str, dark: bool = False, narrow: bool = False) -> Figure:
    """How one attack scores members and held-out photos, before and after; where they overlap, it cannot tell."""
    c = palette(dark)
    width, height = NARROW if narrow else WIDE
    figure = new_figure(width, height, c)
    _score_histograms(figure, result, attack, c, narrow)
    return figure


def histograms_all(result: Result, dark: bool = False) -> Figure:
    """The score histograms of every attack, one row each."""
    c, names = palette(dark), list(result.record["attacks"])
    figure = new_figure(14, 5 * len(names), c)
    for part, attack in zip(figure.subfigures(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        part.set_facecolor(c.paper)
        _score_histograms(part, result, attack, c)
    return figure


def _score_histograms(
    figure: Figure | SubFigure, result: Result, attack: str, c: Palette, narrow: bool = False
) -> None:
    title = result.record["attacks"][attack]["title"]
    panels = {f"{title}, {when}": result.scores(attack, when) for when in ("before", "after")}
    words = "score (higher: a member)" if narrow else "score (higher = more likely a member)"
    _two_histograms(figure, panels, c, words, narrow)


def distance_histogram_figure(result: Result, dark: bool = False, narrow: bool = False) -> Figure:
    """How close the nearest generation is to each member and, as the control, to each held-out photo.

    "perfect copy" marks the distance that the autoencoder alone causes: no generation can be closer on average.
    """
    c = palette(dark)
    width, height = NARROW if narrow else WIDE
    figure = new_figure(width, height, c)
    record = result.record["extraction"]
    if record is None:
        note(figure.add_subplot(), c, "no training photos to compare with")
        return figure
    panels = {}
    for when in ("before", "after"):
        members, control = record[when]["members"], record[when]["nonmembers"]
        title = f"{when}: {members['distinct']} of {members['n_references']} extracted"
        panels[title] = np.array(members["distances"]), np.array(control["distances"])
    delta, floor = record["after"]["delta"], record["floor"]["mean"]
    axes = _two_histograms(figure, panels, c, "l2 to the nearest generation", narrow)
    axes[0].set_ylim(top=1.15 * axes[0].get_ylim()[1])  # room for the lines' names; the panels share the axis
    for ax in axes:
        ax.axvline(delta, color=c.after, linewidth=2.2)
        ax.axvline(floor, color=c.muted, linewidth=1.8, linestyle=":")
        top = ax.get_xaxis_transform()
        ax.text(delta, 0.985, f" extracted up to {delta:g}", color=c.after, fontsize=SMALL, va="top", transform=top)
        ax.text(floor, 0.985, " perfect\n copy", color=c.muted, fontsize=SMALL, va="top", transform=top)
        ax.set_xlim(left=0)
    return figure
