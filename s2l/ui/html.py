"""Pictures and figures as HTML: inline, so that nothing private gets a public address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def pixels_uri(pixels: np.ndarray, quality: int = 92) -> str:
    """(H, W, 3) uint8 as an address that holds the picture itself."""
    return _uri(Image.fromarray(np.ascontiguousarray(pixels)), quality)


@lru_cache(maxsize=4096)
def _file_uri(path: Path, modified: int) -> str:
    with Image.open(path) as image:
        return _uri(image.convert("RGB"), 80)


def file_uri(path: Path) -> str:
    """A picture file, small, for the live view."""
    return _file_uri(path, path.stat().st_mtime_ns)


def picture(uri: str, alt: str, caption: str = "", hit: bool = False) -> str:
    """One picture with what stands below it; `hit` gives it the thick frame."""
    first, *more = map(escape, caption.splitlines() or [""])
    lines = "<br>".join([first, *(f"<b>{line}</b>" if hit else line for line in more)])
    below = f"<figcaption>{lines}</figcaption>" if caption else ""
    return f'<figure{" class=hit" if hit else ""}><img src="{uri}" alt="{escape(alt)}">{below}</figure>'


def choice(uri: str, alt: str, caption: str = "", **data: str | int) -> str:
    """A picture that can be chosen with mouse or keyboard; `data` is what its click tells (see PICK)."""
    attributes = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    below = f"<span>{escape(caption)}</span>" if caption else ""
    return f'<button type="button" class="pic"{attributes}><img src="{uri}" alt="{escape(alt)}">{below}</button>'


# For gr.HTML(js_on_load=...): a click on a button tells the server the button's data.
PICK = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-pick]");
  if (button) trigger("click", {...button.dataset});
});"""


def pictures(figures: Iterable[str]) -> str:
    return f'<div class="pics">{"".join(figures)}</div>'


def block(*parts: str) -> str:
    """The frame that the style sheet knows."""
    return f'<div class="s2l">{"".join(parts)}</div>'


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawing(light: Figure, dark: Figure, alt: str) -> str:
    """A figure for both themes: the style sheet shows the one that fits."""
    return "".join(
        f'<div class="drawing only-{name}"><img src="{_svg(figure)}" alt="{escape(alt)}"></div>'
        for name, figure in (("light", light), ("dark", dark))
    )


def progress_bar(share: float, label: str) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>'
    )


def loss_curve(loss: list[list[float]], total: int) -> str:
    """A live curve [[step, loss], ...] in the colours of the page: thin each step, thick its running mean."""
    if len(loss) < 2:
        return ""
    width, height, left, bottom, top = 640, 190, 46, 24, 10
    steps, values = [s for s, _ in loss], [v for _, v in loss]
    window = max(1, len(values) // 12)
    means = [sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    highest, last = max(values) or 1.0, max(total, steps[-1])

    def points(series: list[float]) -> str:
        return " ".join(
            f"{left + (width - left - 8) * s / last:.1f},{top + (height - top - bottom) * (1 - v / highest):.1f}"
            for s, v in zip(steps, series, strict=True)
        )

    line = 'fill="none" stroke="currentColor" stroke-linejoin="round"'
    base = height - bottom
    return (
        f'<svg viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px" role="img" aria-label="Training '
        f'loss: {values[-1]:.3f} at step {steps[-1]}, mean of the last {window}: {means[-1]:.3f}">'
        f'<path d="M{left},{top} V{base} H{width - 8}" {line} opacity=".4"/>'
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{highest:.2f}</text>'
        f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{height - 6}">step 0</text>'
        f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{last}</text>'
        f'<polyline points="{points(values)}" {line} opacity=".35"/>'
        f'<polyline points="{points(means)}" {line} stroke-width="2.5"/></svg>'
    )


def before_after(rows: Sequence[tuple[str, str, str]], hint: str) -> str:
    """Pictures that change from before to after under one slider.

    `rows` has (address before, address after, what it is). The slider is a plain range input: it works with keys,
    and without the server.
    """
    cells = "".join(
        f'<figure class="edge"><img src="{before}" alt="{escape(what)}, before fine-tuning">'
        f'<img class="over" src="{after}" alt="{escape(what)}, after fine-tuning"></figure>'
        for before, after, what in rows
    )
    move = "this.closest('.ba').style.setProperty('--x', (100 - this.value) + '%')"
    return (
        f'<div class="ba" id="before-after"><div class="row">{cells}</div><label><span>before</span>'
        f'<input type="range" min="0" max="100" value="50" aria-label="{escape(hint)}" oninput="{move}">'
        f"<span>after</span></label></div>"
    )


@dataclass(frozen=True)
class Strip:
    """One line of dots: members above, held-out photos below, and the one that the visitor looks at."""

    label: str
    members: Sequence[float]
    nonmembers: Sequence[float]
    chosen: float
    chosen_is: str  # "members" or "nonmembers"


def strips(lines: Sequence[Strip], xlabel: str, mark: tuple[float, str] | None = None) -> str:
    """Where one photo lies among all: a line of dots a strip, on a shared axis. `mark` is a vertical line."""
    every = np.concatenate([[*s.members, *s.nonmembers, s.chosen] for s in lines] + ([[mark[0]]] if mark else []))
    low, high = np.quantile(every, [0.005, 0.995])
    low, high = min(low, *(s.chosen for s in lines)), max(high, *(s.chosen for s in lines))
    if mark:
        low, high = min(low, mark[0]), max(high, mark[0])
    width, left, row, span = 760, 100, 62, (high - low) or 1.0

    def x(value: float) -> float:
        return left + (width - left - 14) * float(np.clip((value - low) / span, 0, 1))

    parts = []
    for i, s in enumerate(lines):
        y = 26 + row * i
        parts.append(f'<text x="0" y="{y + 5}">{escape(s.label)}</text>')
        parts += [f'<circle cx="{x(v):.1f}" cy="{y - 8}" r="4" fill="#2a7f76" opacity=".65"/>' for v in s.members]
        parts += [
            f'<circle cx="{x(v):.1f}" cy="{y + 8}" r="4" fill="none" stroke="currentColor" opacity=".6"/>'
            for v in s.nonmembers
        ]
        dy = -8 if s.chosen_is == "members" else 8
        parts.append(
            f'<circle cx="{x(s.chosen):.1f}" cy="{y + dy}" r="8" fill="#ffd54a" stroke="#111" stroke-width="3"/>'
        )
    bottom = 26 + row * (len(lines) - 1) + 24
    if mark:
        parts.append(
            f'<path d="M{x(mark[0]):.1f},6 V{bottom}" stroke="#c8501e" stroke-width="2"/>'
            f'<text x="{x(mark[0]) + 6:.1f}" y="{bottom + 14}">{escape(mark[1])}</text>'
        )
    said = "; ".join(
        f"{s.label}: right of {100 * np.mean(np.asarray(s.nonmembers) < s.chosen):.0f} % of the held-out photos"
        for s in lines
    )
    return (
        f'<svg class="strip" viewBox="0 0 {width} {bottom + 24}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg><p class=quiet>{escape(xlabel)}. Filled, above: members. Hollow, below: held-out "
        "photos. Large: this photo.</p>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; on a small screen every row becomes a card of its own, with the column's name beside each cell."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)

    def line(row: Sequence[str]) -> str:
        cells = zip(head, row, strict=True)
        return "".join(f'<td data-label="{escape(name)}">{escape(cell)}</td>' for name, cell in cells)

    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
