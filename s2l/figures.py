"""Figures of a finished run, for the report, the app and a projector.

Every function takes an `experiment.Result` (or plain rows) and returns a matplotlib `Figure` that
belongs to nobody: no pyplot, no global state, safe in threads. `dark=True` draws for a dark page.
Colour is never the only signal: before is dashed and after solid, members are filled and held-out
photos outlined, an extracted photo has a thick frame and the word.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter
from PIL import Image

if TYPE_CHECKING:
    from s2l.result import Result

# What loads torch or scipy is imported where it is used: the app's first picture must not wait for it.

TITLE, LARGE, SMALL = 19, 15, 13  # points, at the figures' own sizes: readable from the last row


@dataclass(frozen=True)
class Palette:
    """Colours that people with any colour vision tell apart (after Okabe & Ito)."""

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
LINES = {"before": (0, (5, 2.5)), "after": "-"}


def _palette(dark: bool) -> Palette:
    return DARK if dark else LIGHT


def _figure(width: float, height: float, c: Palette) -> Figure:
    figure = Figure(figsize=(width, height), facecolor=c.paper, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.14, wspace=0.03)
    return figure


def _tidy(ax: Axes, c: Palette, xlabel: str, ylabel: str, title: str = "") -> None:
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


def _powers() -> ScalarFormatter:
    """Ticks as 1, 2, 3 with the power of ten beside the axis, not as 0.0001, 0.0002, 0.0003."""
    formatter = ScalarFormatter(useMathText=True)
    formatter.set_powerlimits((-2, 4))
    return formatter


def _note(ax: Axes, c: Palette, text: str) -> Axes:
    """An empty plot that says why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=LARGE, color=c.muted, transform=ax.transAxes)
    return ax


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


# --- ROC -------------------------------------------------------------------------------------


def _auc_label(result: Result, attack: str, when: str) -> str:
    summary = result.record["attacks"][attack][when]
    interval = summary["delong"]
    return f"{when}  AUC {summary['auc']:.3f}  [{interval['low']:.2f}, {interval['high']:.2f}]"


def roc_band(
    members: np.ndarray, nonmembers: np.ndarray, n_resamples: int = 300, seed: int = 0, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointwise bootstrap band of a ROC curve: (G,) false positive rates, lowest and highest true positive rates.

    Both groups are drawn again with replacement, as for the interval of the AUC; a point of the grid asks for the TPR
    at the threshold that accuses no more than this share of the drawn held-out photos.
    """
    rng = np.random.default_rng(seed)
    n = len(nonmembers)
    grid = np.unique(np.concatenate([np.linspace(0, 1, 101), np.geomspace(0.5 / n, 1, 80)]))
    allowed = np.minimum(np.floor(grid * n + 1e-9).astype(int), n)
    rates = np.empty((n_resamples, len(grid)))
    for i in range(n_resamples):
        found = np.sort(rng.choice(members, len(members)))
        falling = np.append(np.sort(rng.choice(nonmembers, n))[::-1], -np.inf)
        rates[i] = 1 - np.searchsorted(found, falling[allowed], side="right") / len(found)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return grid, low, high


def axes_frame(figure: Figure) -> tuple[float, float, float, float]:
    """Where (0, 0) and (1, 1) of a figure's first axes lie: left, top, right, bottom, as shares of the picture."""
    figure.draw_without_rendering()
    (left, bottom), (right, top) = figure.axes[0].transData.transform([(0, 0), (1, 1)]) / figure.bbox.size
    return left, 1 - top, right, 1 - bottom


def _draw_roc(ax: Axes, result: Result, attack: str, c: Palette, log: bool, title: str, labels: bool = True) -> None:
    from s2l.metrics import roc

    smallest = []
    for when in ("before", "after"):
        members, nonmembers = result.scores(attack, when)
        grid, low, high = roc_band(members, nonmembers)
        curve = roc(members, nonmembers)
        smallest = [0.5 / len(nonmembers), 0.5 / len(members)]  # below one image nothing can be drawn
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
    _tidy(ax, c, "false positive rate", "true positive rate", title)
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
    c = _palette(dark)
    figure = _figure(7.4, 7.2, c)
    _draw_roc(figure.add_subplot(), result, attack, c, log, result.record["attacks"][attack]["title"])
    return figure


def roc_both(result: Result, attack: str, dark: bool = False) -> Figure:
    """The ROC of one attack twice: linear, and log-log, where the confident attacker's corner is large."""
    return _roc_rows(result, [attack], dark)


def roc_all(result: Result, dark: bool = False) -> Figure:
    """Every attack of the run, one row each: linear and log-log."""
    return _roc_rows(result, list(result.record["attacks"]), dark)


def _roc_rows(result: Result, attacks: Sequence[str], dark: bool) -> Figure:
    c = _palette(dark)
    figure = _figure(14, 6.6 * len(attacks), c)
    for row, attack in enumerate(attacks):
        title = result.record["attacks"][attack]["title"]
        linear = figure.add_subplot(len(attacks), 2, 2 * row + 1)
        _draw_roc(linear, result, attack, c, False, title)
        loglog = figure.add_subplot(len(attacks), 2, 2 * row + 2)
        _draw_roc(loglog, result, attack, c, True, f"{title}, both axes logarithmic", labels=False)
        loglog.set_box_aspect(1)
    return figure


# --- scores, loss, distances -----------------------------------------------------------------


def _two_histograms(
    figure: Figure | SubFigure, panels: dict[str, tuple[np.ndarray, np.ndarray]], c: Palette, xlabel: str
) -> list[Axes]:
    """One panel a key, on shared axes: members filled, held-out photos outlined, both as shares."""
    from s2l.metrics import histogram

    members, nonmembers = (np.concatenate([pair[i] for pair in panels.values()]) for i in (0, 1))
    bins = int(np.clip(len(members) // 4, 8, 24))  # both panels' members: few photos need wide bars
    edges = np.array(histogram(members, nonmembers, bins).edges)
    axes: list[Axes] = []
    for i, (title, (m, n)) in enumerate(panels.items()):
        ax = figure.add_subplot(
            1, len(panels), i + 1, sharex=axes[0] if axes else None, sharey=axes[0] if axes else None
        )
        shares = [np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / len(x) for x in (m, n)]
        ax.stairs(shares[0], edges, fill=True, color=c.members, alpha=0.55, label=f"members ({len(m)})")
        ax.stairs(shares[1], edges, color=c.nonmembers, linewidth=2.4, label=f"held-out photos ({len(n)})")
        _tidy(ax, c, xlabel, "share of photos" if i == 0 else "", title)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.xaxis.set_major_formatter(_powers())
        ax.xaxis.get_offset_text().set(fontsize=SMALL, color=c.muted)
        ax.margins(x=0.01)
        axes.append(ax)
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=SMALL, frameon=False, labelcolor=c.ink,
        loc="outside upper right", ncols=2,
    )  # fmt: skip
    return axes


def score_histogram_figure(result: Result, attack: str, dark: bool = False) -> Figure:
    """How one attack scores members and held-out photos, before and after: the overlap is the doubt."""
    c = _palette(dark)
    figure = _figure(14, 5, c)
    _score_histograms(figure, result, attack, c)
    return figure


def _score_histograms(figure: Figure | SubFigure, result: Result, attack: str, c: Palette) -> None:
    title = result.record["attacks"][attack]["title"]
    panels = {f"{title}, {when}": result.scores(attack, when) for when in ("before", "after")}
    _two_histograms(figure, panels, c, "score (higher = more likely a member)")


def loss_figure(log_rows: Sequence[dict], dark: bool = False) -> Figure:
    """Training loss a step and its running mean; `log_rows` have "step" and "loss"."""
    c = _palette(dark)
    figure = _figure(9, 4.6, c)
    ax = figure.add_subplot()
    if not log_rows:
        _note(ax, c, "no training steps")
        return figure
    steps = np.array([row["step"] for row in log_rows])
    loss = np.array([row["loss"] for row in log_rows])
    window = max(1, len(loss) // 12)
    sums = np.cumsum(np.concatenate([[0.0], loss]))
    first = np.maximum(np.arange(len(loss)) + 1 - window, 0)
    mean = (sums[1:] - sums[first]) / (np.arange(len(loss)) + 1 - first)
    ax.plot(steps, loss, color=c.after, linewidth=1, alpha=0.4, label="each step")
    ax.plot(steps, mean, color=c.after, linewidth=3, label=f"mean of the last {window}" if window > 1 else "loss")
    _tidy(ax, c, "training step", "denoising loss")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.legend(fontsize=SMALL, frameon=False, labelcolor=c.ink, loc="upper right")
    return figure


def distance_histogram_figure(result: Result, dark: bool = False) -> Figure:
    """How close the nearest generation comes to each member and, as the control, to each held-out photo.

    "perfect copy" stands where the autoencoder alone puts a photo: no generation can come closer on average.
    """
    c = _palette(dark)
    figure = _figure(14, 5, c)
    record = result.record["extraction"]
    if record is None:
        _note(figure.add_subplot(), c, "no training photos to compare with")
        return figure
    panels = {}
    for when in ("before", "after"):
        found = record[when]
        title = f"{when}: {found['members']['distinct']} of {found['members']['n_references']} extracted"
        panels[title] = tuple(np.array(found[part]["distances"]) for part in ("members", "nonmembers"))
    delta, floor = record["after"]["delta"], record["floor"]["mean"]
    axes = _two_histograms(figure, panels, c, "l2 to the nearest generation")
    axes[0].set_ylim(top=1.15 * axes[0].get_ylim()[1])  # room for the lines' names; the panels share the axis
    for ax in axes:
        ax.axvline(delta, color=c.after, linewidth=2.2)
        ax.axvline(floor, color=c.muted, linewidth=1.8, linestyle=":")
        top = ax.get_xaxis_transform()
        ax.text(delta, 0.985, f" extracted up to {delta:g}", color=c.after, fontsize=SMALL, va="top", transform=top)
        ax.text(floor, 0.985, " perfect\n copy", color=c.muted, fontsize=SMALL, va="top", transform=top)
        ax.set_xlim(left=0)
    return figure


def extraction_curve_figure(result: Result, dark: bool = False) -> Figure:
    """Distinct training photos extracted against the number of generations, with the interval for fresh ones."""
    c, curve = _palette(dark), result.record["extraction"]["curve"]
    figure = _figure(9, 4.6, c)
    ax = figure.add_subplot()
    for when, line in LINES.items():
        found, colour = curve[when], getattr(c, when)
        ax.fill_between(found["counts"], found["low"], found["high"], color=colour, alpha=0.13, linewidth=0)
        ax.plot(found["counts"], found["mean"], color=colour, linestyle=line, linewidth=3, label=when)
    _tidy(ax, c, "generations", "training photos extracted")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.legend(fontsize=SMALL, frameon=False, labelcolor=c.ink, loc="upper left")
    return figure


# --- pictures --------------------------------------------------------------------------------


def pictures(folder: str | Path, indices: Sequence[int]) -> np.ndarray:
    """Some images of an image set's folder, (N, H, W, 3) uint8, without reading the others."""
    folder = Path(folder)
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    some = []
    for i in indices:
        with Image.open(folder / json.loads(lines[i])["file_name"]) as image:
            some.append(np.asarray(image.convert("RGB")))
    return np.stack(some)


def _folder(result: Result, what: str) -> Path:
    return result.store.root / result.record["folders"][what]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid, what stands below it, and whether it is marked."""

    picture: np.ndarray
    text: str = ""
    marked: bool = False


def _grid(rows: dict[str, Sequence[Cell]], c: Palette, footnote: str = "") -> Figure:
    """Rows of pictures with a label at the left of each row."""
    columns = max(len(cells) for cells in rows.values())
    label, side, gap, text, foot = 1.75, 1.5, 0.16, 0.58, 0.4 if footnote else 0.1  # inches
    width = label + columns * (side + gap) + 0.1
    height = len(rows) * (side + text) + foot + 0.15
    figure = Figure(figsize=(width, height), facecolor=c.paper)
    for r, (name, cells) in enumerate(rows.items()):
        top = height - 0.15 - r * (side + text)
        figure.text(0.1 / width, (top - side / 2) / height, name, fontsize=LARGE, color=c.ink, va="center")
        for i, cell in enumerate(cells):
            left = label + i * (side + gap)
            ax = figure.add_axes((left / width, (top - side) / height, side / width, side / height))
            # Small pictures keep their pixels; large ones are averaged down.
            ax.imshow(cell.picture, interpolation="nearest" if cell.picture.shape[0] <= 128 else "antialiased")
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_color(c.after if cell.marked else c.grid)
                spine.set_linewidth(5 if cell.marked else 1)
            ax.set_xlabel(
                cell.text,
                fontsize=SMALL - 1,
                color=c.after if cell.marked else c.muted,
                fontweight="bold" if cell.marked else "normal",
                labelpad=6,
                linespacing=1.15,
            )
    if footnote:
        figure.text(label / width, 0.16 / height, footnote, fontsize=SMALL, color=c.muted, va="bottom")
    return figure


def _closest(before: dict, after: dict, top: int) -> list[tuple[int, int]]:
    """(reference, generation) of the `top` references that any generation, before or after, came closest to.

    Both sides have the same chance to name the seed of a column: choosing by "after" alone would
    show a rise even where there is none.
    """
    best = []
    for reference, distances in enumerate(zip(before["distances"], after["distances"], strict=True)):
        side = after if distances[1] <= distances[0] else before
        best.append((min(distances), reference, side["nearest_generation"][reference]))
    return [(reference, generation) for _, reference, generation in sorted(best)[:top]]


def _l2_cells(images: np.ndarray, references: np.ndarray, delta: float, word: str = "extracted") -> list[Cell]:
    """Pictures (N, H, W, 3) with their l2 to `references` (N, H, W, 3) below."""
    from s2l.distances import paired_l2, within

    distances = paired_l2(images.transpose(0, 3, 1, 2), references.transpose(0, 3, 1, 2))
    close = within(distances, delta)
    return [
        Cell(image, f"l2 {d:.3f}" + (f"\n✓ {word}" if hit else ""), bool(hit))
        for image, d, hit in zip(images, distances, close, strict=True)
    ]


def extraction_figure(result: Result, top: int = 8, of: str = "members", dark: bool = False) -> Figure:
    """A column is one seed: generated before, generated after, and the training photo it came closest to.

    The columns are the `top` members that any generation, before or after, came closest to.
    `of="nonmembers"` draws the same for held-out photos: the control, which no training can explain.
    Without known members the figure shows the generations only.
    """
    c, record = _palette(dark), result.record["extraction"]
    if record is None:
        number = min(top, result.record["config"]["extraction"]["n_generations"])
        rows = {f"{w}\nfine-tuning": [Cell(p) for p in pictures(_folder(result, w), range(number))] for w in LINES}
        return _grid(rows, c, "same seed in each column; the training photos are not known, so nothing can be compared")
    columns = _closest(record["before"][of], record["after"][of], top)
    references, generations = zip(*columns, strict=True)
    photos = pictures(_folder(result, of), references)
    delta = record["after"]["delta"]
    word = "extracted" if of == "members" else "false alarm"
    rows = {
        f"{when}\nfine-tuning": _l2_cells(pictures(_folder(result, when), generations), photos, delta, word)
        for when in ("before", "after")
    }
    if of == "members":
        repeats = record["after"]["repeats"]
        known = bool(result.record["domain"]["repeats"])
        texts = [(f"{repeats[m]}× in training" if known else "") for m in references]
        rows["training\nphoto"] = [Cell(photo, text) for photo, text in zip(photos, texts, strict=True)]
    else:
        rows["held-out\nphoto"] = [Cell(photo, "never trained on") for photo in photos]
    mark = f"thick frame: l2 to the {'training' if of == 'members' else 'held-out'} photo is at most {delta:g}"
    return _grid(rows, c, f"same seed in each column; {mark}")


def match_figure(images: np.ndarray, photos: np.ndarray, delta: float, dark: bool = False) -> Figure:
    """Generations (N, H, W, 3) uint8 above the training photos (N, H, W, 3) that each came closest to."""
    rows = {"generation": _l2_cells(images, photos, delta), "training\nphoto": [Cell(photo) for photo in photos]}
    return _grid(rows, _palette(dark), f"thick frame: l2 to the photo below is at most {delta:g}")


def sp_set_figure(result: Result, top: int = 8, dark: bool = False) -> Figure:
    """The first pictures of the synthetic private set, above photos of the same person from the training set."""
    c = _palette(dark)
    size = result.record["config"]["sp_set"]["set_size"]
    rows = {"generated:\nthe SP set": [Cell(p) for p in pictures(_folder(result, "sp_set"), range(min(top, size)))]}
    if "members" in result.record["folders"]:
        number = min(top, result.record["domain"]["n_members"])
        rows["training\nphotos"] = [Cell(p) for p in pictures(_folder(result, "members"), range(number))]
    return _grid(rows, c)


def histograms_all(result: Result, dark: bool = False) -> Figure:
    """The score histograms of every attack, one row each."""
    c, names = _palette(dark), list(result.record["attacks"])
    figure = _figure(14, 5 * len(names), c)
    for part, attack in zip(np.atleast_1d(figure.subfigures(len(names), 1)), names, strict=True):
        part.set_facecolor(c.paper)
        _score_histograms(part, result, attack, c)
    return figure


def most_exposed_figure(result: Result, attack: str, top: int = 8, dark: bool = False) -> Figure:
    """The members that an attack is surest of after fine-tuning, with their rank among the held-out photos."""
    found = result.record["attacks"][attack]
    exposed, n = found["most_exposed"][:top], found["after"]["n_nonmembers"]
    photos = pictures(_folder(result, "members"), [image["index"] for image in exposed])

    def share(rank: float) -> str:
        return f"{100 * rank:.3g} %" if rank else f"< {100 / n:.2g} %"

    cells = [
        Cell(photo, f"{share(image['fpr_rank_after'])}\nbefore {share(image['fpr_rank_before'])}")
        for photo, image in zip(photos, exposed, strict=True)
    ]
    return _grid({f"{found['title']}:\nmost\nexposed": cells}, _palette(dark))


def blind_figure(result: Result, top: int = 8, dark: bool = False) -> Figure:
    """The picture that stands for each group of near-duplicates, largest groups first, before and after."""
    blind, rows = result.record["blind"], {}
    for when in LINES:
        groups, score = blind[when]["clusters"][:top], blind[when]["score"]
        if not groups:
            continue
        places = score["flags"] if score else ()  # the flags are the groups' medoids, in the same order
        cells = []
        for i, picture in enumerate(pictures(_folder(result, when), [group["medoid"] for group in groups])):
            text, hit = f"{groups[i]['size']} alike", False
            if places:
                distance = score["member_distances"][i]
                hit = distance <= score["delta"]
                text += f"\nl2 {distance:.3f}" + (" ✓" if hit else "")
            cells.append(Cell(picture, text, hit))
        rows[f"{when}\nfine-tuning"] = cells
    note = "thick frame: really a training photo" if blind["before"]["score"] is not None else ""
    return _grid(rows, _palette(dark), note)


# --- tables over people ------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """One row of a table over people: (mean, low, high) of each change, and the paper's own change where it has one."""

    label: str
    secmi: tuple[float, float, float]
    both: tuple[float, float, float]  # Loss of the base model with the shaken one as its reference
    extracted: tuple[float, float, float]
    paper_auc: float | None
    paper_extracted: float | None


def effects_figure(effects: Sequence[Effect], dark: bool = False) -> Figure:
    """Change of the AUC and of the number of extractions, a line a row: points with intervals, the paper's beside."""
    c = _palette(dark)
    figure = _figure(14, 2.4 + 0.62 * len(effects), c)
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
                *np.array(known).T, "D", color=c.muted, markerfacecolor="none", markersize=9, label="the paper (SecMI)"
            )

    points(left, [e.secmi for e in effects], 0.14, c.after, "o", "SecMI on the shaken model")
    points(left, [e.both for e in effects], -0.14, c.members, "s", "Loss, both models together")
    theirs(left, [e.paper_auc for e in effects])
    points(right, [e.extracted for e in effects], 0, c.after, "o", "")
    theirs(right, [e.paper_extracted for e in effects])
    _tidy(left, c, "change of the AUC", "")
    _tidy(right, c, "change of photos extracted", "")
    for ax in (left, right):
        ax.axvline(0, color=c.ink, linewidth=1.2)
        ax.set_ylim(places[-1] - 0.6, 0.6)
    left.set_yticks(places, [e.label for e in effects], fontsize=LARGE, color=c.ink)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=LARGE,
        labelcolor=c.ink,
    )  # fmt: skip
    return figure
