"""Curves: ROC, the training loss, photos extracted against generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from s2l.figures.style import LINES, SMALL, Palette, new_figure, note, palette, tidy
from s2l.record import LogLine

if TYPE_CHECKING:
    from s2l.record import Result, When


def _auc_label(result: Result, attack: str, when: When) -> str:
    summary = result.record["attacks"][attack][when]
    interval = summary["delong"]
    return f"{when}  AUC {summary['auc']:.3f}  [{interval['low']:.2f}, {interval['high']:.2f}]"


def roc_band(
    members: np.ndarray, nonmembers: np.ndarray, n_resamples: int = 300, seed: int = 0, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointwise bootstrap band of a ROC curve: (G,) false positive rates, lowest and highest true positive rates.

    Both groups are resampled with replacement, as for the interval of the AUC; at each point of the grid, the TPR is
    that of the threshold that accuses no more than this share of the resampled held-out photos.
    """
    rng = np.random.default_rng(seed)
    n = len(nonmembers)
    grid = np.unique(np.concatenate([np.linspace(0, 1, 101), np.geomspace(0.5 / n, 1, 80)]))
    allowed = np.minimum(np.floor(grid * n + 1e-9).astype(int), n)
    rates = np.empty((n_resamples, len(grid)))
    for i in range(n_resamples):
        sample = np.sort(rng.choice(members, len(members)))
        falling = np.append(np.sort(rng.choice(nonmembers, n))[::-1], -np.inf)
        rates[i] = 1 - np.searchsorted(sample, falling[allowed], side="right") / len(sample)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return grid, low, high


def axes_frame(figure: Figure) -> tuple[float, float, float, float]:
    """Where (0, 0) and (1, 1) of a figure's first axes lie: left, top, right, bottom, as shares of the picture."""
    figure.draw_without_rendering()
    (left, bottom), (right, top) = figure.axes[0].transData.transform([(0, 0), (1, 1)]) / figure.bbox.size
    return left, 1 - top, right, 1 - bottom


def _draw_roc(ax: Axes, result: Result, attack: str, c: Palette, log: bool, title: str, labels: bool = True) -> None:
    from s2l.measure.metrics import roc

    smallest = []
    for when in ("before", "after"):
        members, nonmembers = result.scores(attack, when)
        grid, low, high = roc_band(members, nonmembers)
        curve = roc(members, nonmembers)
        smallest = [0.5 / len(nonmembers), 0.5 / len(members)]  # below one photo there is nothing to draw
        fpr, tpr = np.array(curve.fpr), np.array(curve.tpr)
        if log:
            fpr, tpr = np.maximum(fpr, smallest[0]), np.maximum(tpr, smallest[1])
            low, high = np.maximum(low, smallest[1]), np.maximum(high, smallest[1])
            grid = np.maximum(grid, smallest[0])
        ax.fill_between(grid, low, high, step="post", color=getattr(c, when), alpha=0.13, linewidth=0)
        ax.plot(
            fpr,
            tpr,
            color=getattr(c, when),
            linestyle=LINES[when],
            linewidth=3,
            drawstyle="steps-post" if log else "default",
            label=_auc_label(result, attack, when),
            solid_capstyle="round",
        )
    chance = np.geomspace(max(smallest), 1) if log else np.array([0, 1])
    ax.plot(chance, chance, color=c.muted, linewidth=1.5, linestyle=":", label="chance  AUC 0.500")
    tidy(ax, c, "false positive rate", "true positive rate", title)
    if log:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(smallest[0], 1.05)
        ax.set_ylim(smallest[1], 1.1)
        percent = FuncFormatter(lambda x, _: f"{100 * x:g} %")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(percent)
            axis.set_minor_formatter(FuncFormatter(lambda x, _: ""))
        ax.grid(True, which="minor", color=c.grid, linewidth=0.4)
    else:
        ax.set_xlim(-0.01, 1.01)
        ax.set_ylim(-0.01, 1.01)
        ax.set_aspect("equal")
        ticks = np.linspace(0, 1, 6)
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    if labels:
        legend = ax.legend(
            loc="lower right", fontsize=SMALL, frameon=True, framealpha=0.85, facecolor=c.paper, edgecolor="none",
            handlelength=2.6, borderaxespad=0.4,
        )  # fmt: skip
        for text, colour in zip(legend.get_texts(), (c.before, c.after, c.muted), strict=True):
            text.set_color(colour)


def roc_figure(result: Result, attack: str, log: bool = False, dark: bool = False) -> Figure:
    """One attack's ROC curve before and after fine-tuning, with AUC, interval and a 95 % band on each line."""
    c = palette(dark)
    figure = new_figure(6.2, 6.1, c)  # small enough that its text can be read on a telephone
    _draw_roc(figure.add_subplot(), result, attack, c, log, result.record["attacks"][attack]["title"])
    return figure


def roc_both(result: Result, attack: str, dark: bool = False) -> Figure:
    """One attack's ROC curve twice: linear, and log-log, which enlarges the corner of few false accusations."""
    return _roc_rows(result, [attack], dark)


def roc_all(result: Result, dark: bool = False) -> Figure:
    """Every attack of the run, one row each: linear and log-log."""
    return _roc_rows(result, list(result.record["attacks"]), dark)


def _roc_rows(result: Result, attacks: Sequence[str], dark: bool) -> Figure:
    c = palette(dark)
    figure = new_figure(14, 6.6 * len(attacks), c)
    for row, attack in enumerate(attacks):
        title = result.record["attacks"][attack]["title"]
        linear = figure.add_subplot(len(attacks), 2, 2 * row + 1)
        _draw_roc(linear, result, attack, c, False, title)
        loglog = figure.add_subplot(len(attacks), 2, 2 * row + 2)
        _draw_roc(loglog, result, attack, c, True, f"{title}, both axes logarithmic", labels=False)
        loglog.set_box_aspect(1)
    return figure


def loss_figure(log_rows: Sequence[LogLine], dark: bool = False, narrow: bool = False) -> Figure:
    """Training loss per step and its running mean; `log_rows` have "step" and "loss". `narrow`: for a telephone."""
    c = palette(dark)
    figure = new_figure(5 if narrow else 9, 4.6, c)
    ax = figure.add_subplot()
    if not log_rows:
        note(ax, c, "no training steps")
        return figure
    steps = np.array([row["step"] for row in log_rows])
    loss = np.array([row["loss"] for row in log_rows])
    window = max(1, len(loss) // 12)
    sums = np.cumsum(np.concatenate([[0.0], loss]))
    first = np.maximum(np.arange(len(loss)) + 1 - window, 0)
    mean = (sums[1:] - sums[first]) / (np.arange(len(loss)) + 1 - first)
    ax.plot(steps, loss, color=c.after, linewidth=1, alpha=0.4, label="each step")
    ax.plot(steps, mean, color=c.after, linewidth=3, label=f"mean of the last {window}" if window > 1 else "loss")
    tidy(ax, c, "training step", "denoising loss")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6, integer=True))
    ax.legend(fontsize=SMALL, frameon=False, labelcolor=c.ink, loc="upper right")
    return figure


def extraction_curve_figure(result: Result, dark: bool = False, narrow: bool = False) -> Figure:
    """Distinct training photos extracted against the number of generations, with the interval for new ones."""
    c, curve = palette(dark), result.extraction["curve"]
    figure = new_figure(5 if narrow else 9, 4.6, c)
    ax = figure.add_subplot()
    for when, line in LINES.items():
        side, colour = curve[when], getattr(c, when)
        ax.fill_between(side["counts"], side["low"], side["high"], color=colour, alpha=0.13, linewidth=0)
        ax.plot(side["counts"], side["mean"], color=colour, linestyle=line, linewidth=3, label=when)
    tidy(ax, c, "generations", "training photos extracted")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.legend(fontsize=SMALL, frameon=False, labelcolor=c.ink, loc="upper left")
    return figure
