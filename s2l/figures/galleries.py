"""Galleries: generations beside the photos they are closest to, and other rows of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from s2l.figures.style import LARGE, LINES, SMALL, Palette, palette
from s2l.record import Part, Search

if TYPE_CHECKING:
    from s2l.record import Result


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
    """One picture of a grid, the text below it, and whether it is marked."""

    picture: np.ndarray
    text: str = ""
    marked: bool = False


def _grid(rows: Mapping[str, Sequence[Cell]], c: Palette, footnote: str = "") -> Figure:
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


def _closest(before: Search, after: Search, top: int) -> list[tuple[int, int]]:
    """(reference, generation) of the `top` references that any generation, before or after, is closest to.

    Both models have the same chance to choose the seed of a column: choosing by "after" alone would show an increase
    even where there is none.
    """
    best = []
    for reference, distances in enumerate(zip(before["distances"], after["distances"], strict=True)):
        side = after if distances[1] <= distances[0] else before
        best.append((min(distances), reference, side["nearest_generation"][reference]))
    return [(reference, generation) for _, reference, generation in sorted(best)[:top]]


def _l2_cells(images: np.ndarray, references: np.ndarray, delta: float, word: str = "extracted") -> list[Cell]:
    """Pictures (N, H, W, 3) with their l2 to `references` (N, H, W, 3) below."""
    from s2l.measure.distances import paired_l2, within

    distances = paired_l2(images.transpose(0, 3, 1, 2), references.transpose(0, 3, 1, 2))
    close = within(distances, delta)
    return [
        Cell(image, f"l2 {d:.3f}" + (f"\n✓ {word}" if hit else ""), bool(hit))
        for image, d, hit in zip(images, distances, close, strict=True)
    ]


def extraction_figure(result: Result, top: int = 8, of: Part = "members", dark: bool = False) -> Figure:
    """A column is one seed: generated before, generated after, and the training photo closest to them.

    The columns are the `top` members that any generation, before or after, is closest to.
    `of="nonmembers"` draws the same for held-out photos: the control, which no training can explain.
    Without known members the figure shows the generations only.
    """
    c, record = palette(dark), result.record["extraction"]
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
    """Generations (N, H, W, 3) uint8, each above the training photo (N, H, W, 3) closest to it."""
    rows = {"generation": _l2_cells(images, photos, delta), "training\nphoto": [Cell(photo) for photo in photos]}
    return _grid(rows, palette(dark), f"thick frame: l2 to the photo below is at most {delta:g}")


def sp_set_figure(result: Result, top: int = 8, dark: bool = False) -> Figure:
    """The first pictures of the synthetic private set, above photos of the same person from the training set."""
    c = palette(dark)
    size = result.record["config"]["sp_set"]["set_size"]
    rows = {"generated:\nthe SP set": [Cell(p) for p in pictures(_folder(result, "sp_set"), range(min(top, size)))]}
    if "members" in result.record["folders"]:
        number = min(top, result.record["domain"]["n_members"])
        rows["training\nphotos"] = [Cell(p) for p in pictures(_folder(result, "members"), range(number))]
    return _grid(rows, c)


def most_exposed_figure(result: Result, attack: str, top: int = 8, dark: bool = False) -> Figure:
    """The members that an attack scores highest after fine-tuning, with their rank among the held-out photos."""
    entry = result.record["attacks"][attack]
    exposed, n = entry["most_exposed"][:top], entry["after"]["n_nonmembers"]
    photos = pictures(_folder(result, "members"), [image["index"] for image in exposed])

    def share(rank: float) -> str:
        return f"{100 * rank:.3g} %" if rank else f"< {100 / n:.2g} %"

    cells = [
        Cell(photo, f"{share(image['fpr_rank_after'])}\nbefore {share(image['fpr_rank_before'])}")
        for photo, image in zip(photos, exposed, strict=True)
    ]
    return _grid({f"{entry['title']}:\nmost\nexposed": cells}, palette(dark))


def blind_figure(result: Result, top: int = 8, dark: bool = False) -> Figure:
    """The picture that represents each group of near-duplicates, largest groups first, before and after."""
    blind, rows = result.record["blind"], {}
    assert blind is not None  # callers ask for this figure only if there are flags
    for when in LINES:
        groups, score = blind[when]["clusters"][:top], blind[when]["score"]
        if not groups:
            continue
        cells = []
        for i, picture in enumerate(pictures(_folder(result, when), [group["medoid"] for group in groups])):
            text, hit = f"{groups[i]['size']} alike", False
            if score is not None:  # the flags are the groups' medoids, in the same order
                distance = score["member_distances"][i]
                hit = distance <= score["delta"]
                text += f"\nl2 {distance:.3f}" + (" ✓" if hit else "")
            cells.append(Cell(picture, text, hit))
        rows[f"{when}\nfine-tuning"] = cells
    note = "thick frame: actually a training photo" if blind["before"]["score"] is not None else ""
    return _grid(rows, palette(dark), note)
