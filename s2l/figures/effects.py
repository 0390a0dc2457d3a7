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


Ends = tuple[float, float, float]  # mean, low, high


def changes_figure(
    rows: Sequence[tuple[str, dict[str, Ends]]], n_people: int, dark: bool = False, narrow: bool = False
) -> Figure:
    """The change of several attacks' AUC, one line per row and one mark per attack: [(label, {attack: change})]."""
    c = palette(dark)
    figure = new_figure(7 if narrow else 12, 2.2 + 0.8 * len(rows), c)
    if narrow:
        rows = [(label.replace(": ", ":\n").replace(", ", ",\n", 1), changes) for label, changes in rows]
    ax = figure.subplots()
    names = list(rows[0][1])
    looks = list(zip((c.after, c.members, c.before, c.muted), "os^D", strict=True))
    for i, name in enumerate(names):
        places = -np.arange(len(rows), dtype=float) + 0.27 - 0.54 * i / max(1, len(names) - 1)
        mean, low, high = np.array([changes[name] for _, changes in rows]).T
        colour, marker = looks[i % len(looks)]
        ax.errorbar(
            mean, places, xerr=np.maximum([mean - low, high - mean], 0), fmt=marker, color=colour, markersize=8,
            capsize=3, linewidth=2, label=name,
        )  # fmt: skip
    ax.axvline(0, color=c.ink, linewidth=1.2)
    ax.set_yticks(-np.arange(len(rows)), [label for label, _ in rows], fontsize=LARGE, color=c.ink)
    people = f"{n_people} people" if n_people > 1 else "one person"
    tidy(ax, c, f"change of the AUC from the base model ({people}, 95 % intervals)", "")
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False, fontsize=LARGE,
        labelcolor=c.ink,
    )  # fmt: skip
    return figure


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
