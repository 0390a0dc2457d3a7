"""Changes over several people, one line per method: for the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s2l.figures.style import LARGE, new_figure, palette, tidy


@dataclass(frozen=True)
class Effect:
    """One row of a table over people: (mean, low, high) of each change, and the paper's change if it reports one."""

    label: str
    secmi: tuple[float, float, float]
    both: tuple[float, float, float]  # Loss on the base model with the fine-tuned model as its reference
    extracted: tuple[float, float, float]
    paper_auc: float | None
    paper_extracted: float | None


def effects_figure(effects: Sequence[Effect], n_people: int, dark: bool = False) -> Figure:
    """Changes of the AUC and of the extracted photos, one line per row: points with intervals, beside the paper's."""
    c = palette(dark)
    figure = new_figure(14, 2.4 + 0.62 * len(effects), c)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = -np.arange(len(effects), dtype=float)

    def points(ax: Axes, values: Sequence[tuple], shift: float, colour: str, marker: str, name: str) -> None:
        mean, low, high = np.array(values).T
        ax.errorbar(
            mean, places + shift, xerr=np.maximum([mean - low, high - mean], 0), fmt=marker, color=colour, markersize=9,
            capsize=4, linewidth=2, label=name,
        )  # fmt: skip

    def theirs(ax: Axes, values: Sequence[float | None]) -> None:
        known = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
        if known:
            ax.plot(
                *np.array(known).T,
                "D",
                color=c.muted,
                markerfacecolor="none",
                markersize=9,
                label="the paper (SecMI)",
            )

    points(left, [e.secmi for e in effects], 0.14, c.after, "o", "SecMI on the fine-tuned model")
    points(left, [e.both for e in effects], -0.14, c.members, "s", "Loss, both models together")
    theirs(left, [e.paper_auc for e in effects])
    points(right, [e.extracted for e in effects], 0, c.before, "^", "")
    theirs(right, [e.paper_extracted for e in effects])
    people = f"{n_people} people" if n_people > 1 else "one person"
    tidy(left, c, f"change of the AUC\n({people}, 95 % intervals)", "")
    tidy(right, c, "change of extracted\nphotos per person", "")
    for ax in (left, right):
        ax.axvline(0, color=c.ink, linewidth=1.2)
        ax.set_ylim(places[-1] - 0.6, 0.6)
    left.set_yticks(places, [e.label for e in effects], fontsize=LARGE, color=c.ink)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=LARGE,
        labelcolor=c.ink,
    )  # fmt: skip
    return figure
