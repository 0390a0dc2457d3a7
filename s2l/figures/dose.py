"""What an audit says against the share of its held-out photos that come from a second source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s2l.figures.style import LARGE, new_figure, palette, tidy

Curve = tuple[Sequence[float], Sequence[float], Sequence[float]]  # values, lower and upper ends, one per share


@dataclass(frozen=True)
class Dose:
    """One direction of the second source: the share of its photos in percent, and a curve over it for each measure."""

    label: str
    shares: Sequence[float]
    blind: Curve
    before: Curve
    difference: Curve
    never: Curve  # the change with never-seen photos in the members' place


def dose_figure(doses: Sequence[Dose], attack: str, n_people: int, dark: bool = False) -> Figure:
    """Three plots over the share: blind control, AUC before, change. The second direction is dashed."""
    c = palette(dark)
    figure = new_figure(17, 6, c)
    axes = figure.subplots(1, 3)
    people = f"{n_people} people, 95 % intervals" if n_people > 1 else "one person"
    looks = ((c.before, "-", "o"), (c.after, (0, (5, 2.5)), "s"))

    def line(ax: Axes, dose: Dose, curve: Curve, i: int, name: str, hollow: bool = False) -> None:
        colour, style, marker = looks[i % len(looks)]
        values, low, high = curve
        shares = [share + 1.2 * (i + 2 * hollow - 1) for share in dose.shares]  # beside each other: all ends are seen
        ends = [[v - end for v, end in zip(values, low, strict=True)],
                [end - v for v, end in zip(values, high, strict=True)]]  # fmt: skip
        ax.errorbar(
            shares, values, yerr=[[max(0.0, x) for x in row] for row in ends], color=colour, linestyle=style,
            marker=marker, markersize=9, markerfacecolor="none" if hollow else colour, linewidth=1.2 if hollow else 2.4,
            capsize=4, label=name,
        )  # fmt: skip

    for i, dose in enumerate(doses):
        line(axes[0], dose, dose.blind, i, dose.label)
        line(axes[1], dose, dose.before, i, dose.label)
        line(axes[2], dose, dose.difference, i, dose.label)
        line(axes[2], dose, dose.never, i, f"{dose.label}, never-seen photos as members", hollow=True)
    share = "share of second-source photos, %"
    tidy(axes[0], c, share, f"AUC of the blind control\n({people})")
    tidy(axes[1], c, share, f"{attack} AUC before")
    tidy(axes[2], c, share, f"change of the {attack} AUC")
    for ax, level in zip(axes, (0.5, 0.5, 0.0), strict=True):
        ax.axhline(level, color=c.ink, linewidth=1.2)
    figure.legend(
        *axes[2].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=LARGE,
        labelcolor=c.ink,
    )  # fmt: skip
    return figure
