"""Pictures and figures as HTML: inline, so that nothing private gets a public address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


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
