"""Pictures and figures as HTML: inline, so that nothing private gets a public address.

HTML is `Markup`. Every function here, and `Markup.format` and `Markup.join`, escape plain text and leave `Markup` as it
is. So a name, a title or an error can be passed directly, and where `Markup` is forgotten, a tag is shown as text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOM = Path(__file__).with_name("dom.js")


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def pixels_uri(pixels: np.ndarray, quality: int = 92) -> str:
    """(H, W, 3) uint8 as a data URI."""
    return _uri(Image.fromarray(np.ascontiguousarray(pixels)), quality)


@lru_cache(maxsize=4096)
def _file_uri(path: Path, modified: int) -> str:
    with Image.open(path) as image:
        return _uri(image.convert("RGB"), 80)


def file_uri(path: Path) -> str:
    """A picture file as a data URI in lower quality, for the live view."""
    return _file_uri(path, path.stat().st_mtime_ns)


def picture(uri: str, alt: str, caption: str = "", hit: bool = False) -> Markup:
    """One picture with its caption below; `hit` gives it the thick frame."""
    first, *more = caption.splitlines() or [""]
    lines = Markup("<br>").join([first, *(Markup("<b>{}</b>").format(line) if hit else line for line in more)])
    below = Markup("<figcaption>{}</figcaption>").format(lines) if caption else ""
    frame = Markup("<figure class=hit>") if hit else Markup("<figure>")
    return Markup('{}<img src="{}" alt="{}">{}</figure>').format(frame, uri, alt, below)


def choice(uri: str, alt: str, caption: str = "", **data: str | int) -> Markup:
    """A picture that can be chosen with mouse or keyboard; a click sends `data` to the server (see PICK)."""
    attributes = Markup("").join(Markup(' data-{}="{}"').format(name, value) for name, value in data.items())
    below = Markup("<span>{}</span>").format(caption) if caption else ""
    button = Markup('<button type="button" class="pic"{}><img src="{}" alt="{}">{}</button>')
    return button.format(attributes, uri, alt, below)


def script(path: Path) -> str:
    """The script of a figure that the browser draws, for gr.HTML(js_on_load=...): after the helpers of dom.js."""
    return "\n".join(part.read_text(encoding="utf-8") for part in (DOM, path))


# For gr.HTML(js_on_load=...): a click on a button sends the button's data to the server. In a pane, one button is a tab
# stop and the arrow keys reach the others. When new content replaces what was clicked, the focus stays here.
PICK = """let picked = false;
const buttons = () => [...element.querySelectorAll("button[data-pick]")];
const rove = () => {
  if (element.querySelector(".pane")) buttons().forEach((button, i) => (button.tabIndex = i ? -1 : 0));
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-pick]");
  if (!button) return;
  picked = true;
  trigger("click", {...button.dataset});
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const all = buttons(), at = all.indexOf(event.target);
  if (!step || at < 0 || !element.querySelector(".pane")) return;
  event.preventDefault();
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  all[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
watch("value", () => {
  rove();
  if (!picked || (document.activeElement && document.activeElement !== document.body)) return;
  picked = false;
  const target = element.querySelector("button[data-pick], [role=status]");
  if (!target) return;
  if (target.tagName !== "BUTTON") target.tabIndex = -1;
  target.focus({ preventScroll: true });
});
rove();"""


# For gr.HTML(js_on_load=...): what a visitor folded out stays so when another run or attack replaces the content.
FOLDS = """const open = new Set();
element.addEventListener("toggle", ({ target }) => {
  if (target.isConnected) open[target.open ? "add" : "delete"](target.dataset.fold);
}, true);
watch("value", () => {
  for (const fold of element.querySelectorAll("[data-fold]")) fold.open = open.has(fold.dataset.fold);
});"""


def fold(name: str, title: str, *parts: str) -> Markup:
    """Parts that stay closed until somebody asks for them; "" without content. `name`: see FOLDS."""
    content = Markup("").join(parts)
    if not content:
        return Markup()
    return Markup(
        '<details class="fold" data-fold="{}"><summary>{}</summary><div class="inside">{}</div></details>'
    ).format(name, title, content)


def waiting(what: str, n: int = 4) -> Markup:
    """What a tab shows until it is drawn: a sentence and empty places for pictures."""
    places = Markup('<span class="waiting"></span>') * n
    return block(
        Markup(
            '<div class="quiz"><p class=quiet>{}</p><div class="choose four" aria-hidden="true">{}</div></div>'
        ).format(what, places)
    )


def pictures(figures: Iterable[str]) -> Markup:
    return Markup('<div class="pics">{}</div>').format(Markup("").join(figures))


def block(*parts: str) -> Markup:
    """The parts in the element that the style sheet applies to."""
    return Markup('<div class="s2l">{}</div>').format(Markup("").join(parts))


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawing(draw: Callable[[bool, bool], Figure], alt: str) -> Markup:
    """A figure for both themes and for a telephone: `draw(dark, narrow)` makes each of the four.

    The style sheet shows one theme, and the browser takes the narrow figure where the screen is.
    """
    frame = Markup(
        '<div class="drawing only-{}"><picture><source media="(max-width: 480px)" srcset="{}">'
        '<img src="{}" alt="{}"></picture></div>'
    )
    return Markup("").join(
        frame.format(name, _svg(draw(dark, True)), _svg(draw(dark, False)), alt)
        for name, dark in (("light", False), ("dark", True))
    )


def progress_bar(share: float, label: str) -> Markup:
    return Markup(
        '<div class="bar" role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100" '
        'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>'
    ).format(label=label, percent=round(100 * min(max(share, 0.0), 1.0)))


def loss_curve(loss: list[list[float]], total: int) -> Markup:
    """A live curve [[step, loss], ...] in the page's colours: a thin line for each step, a thick one for the mean."""
    if len(loss) < 2:
        return Markup()
    width, height, left, bottom, top = 640, 190, 62, 28, 10
    steps, values = [s for s, _ in loss], [v for _, v in loss]
    window = max(1, len(values) // 12)
    means = [sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    highest, last = max(values) or 1.0, max(total, steps[-1])

    def points(series: list[float]) -> str:
        return " ".join(
            f"{left + (width - left - 8) * s / last:.1f},{top + (height - top - bottom) * (1 - v / highest):.1f}"
            for s, v in zip(steps, series, strict=True)
        )

    words = f"Training loss: {values[-1]:.3f} at step {steps[-1]}, mean of the last {window}: {means[-1]:.3f}"
    return Markup(
        '<svg class="curve" viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px" role="img" '
        'aria-label="{words}">'
        '<path d="M{left},{top} V{base} H{right}" {line} opacity=".4"/>'
        '<text x="{before}" y="{below_top}" text-anchor="end">{highest:.2f}</text>'
        '<text x="{before}" y="{base}" text-anchor="end">0</text>'
        '<text x="{left}" y="{foot}">step 0</text>'
        '<text x="{right}" y="{foot}" text-anchor="end">{last}</text>'
        '<polyline points="{every}" {line} opacity=".35"/>'
        '<polyline points="{smooth}" {line} stroke-width="2.5"/></svg>'
    ).format(
        width=width, height=height, words=words, left=left, top=top, base=height - bottom, right=width - 8,
        before=left - 6, below_top=top + 10, foot=height - 6, highest=highest, last=last,
        every=points(values), smooth=points(means),
        line=Markup('fill="none" stroke="currentColor" stroke-linejoin="round"'),
    )  # fmt: skip


def loss_sentence(loss: Sequence[float]) -> str:
    """What a training curve says, and what it does not; "" for a curve that is too short."""
    tenth = len(loss) // 10
    if tenth < 1:
        return ""
    first, last = float(np.mean(loss[:tenth])), float(np.mean(loss[-tenth:]))
    moved = "fell" if last < 0.9 * first else "rose" if last > 1.1 * first else "hardly moved"
    return (
        f"The training loss {moved}: {first:.3f} over the first tenth of the steps, {last:.3f} over the last. It is "
        "measured on the model's own pictures, so it says nothing about what leaks: that is step 4."
    )


def before_after(rows: Sequence[tuple[str, str, str]], hint: str) -> Markup:
    """Pictures that change from before to after under one slider.

    `rows` has (URI before, URI after, what it shows). The slider is a plain range input: it works with the keyboard
    and without the server.
    """
    cells = Markup("").join(
        Markup(
            '<figure class="edge"><img src="{}" alt="{what}, before fine-tuning">'
            '<img class="over" src="{}" alt="{what}, after fine-tuning"></figure>'
        ).format(before, after, what=what)
        for before, after, what in rows
    )
    move = "this.closest('.ba').style.setProperty('--x', (100 - this.value) + '%')"
    return Markup(
        '<div class="ba" id="before-after"><div class="row">{}</div><label><span>before</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="{}" oninput="{}">'
        "<span>after</span></label></div>"
    ).format(cells, hint, move)


@dataclass(frozen=True)
class Strip:
    """One line of dots: members above, held-out photos below, and the photo that the visitor chose."""

    label: str
    members: Sequence[float]
    nonmembers: Sequence[float]
    chosen: float
    chosen_is: str  # "members" or "nonmembers"


def strips(lines: Sequence[Strip], xlabel: str, mark: tuple[float, str] | None = None) -> Markup:
    """Where one photo lies among all: one line of dots per strip, on a shared axis. `mark` is a vertical line."""
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
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(y + 5, s.label))
        member = Markup('<circle cx="{:.1f}" cy="{}" r="4" fill="#2a7f76" opacity=".65"/>')
        parts += [member.format(x(v), y - 8) for v in s.members]
        held_out = Markup('<circle cx="{:.1f}" cy="{}" r="4" fill="none" stroke="currentColor" opacity=".6"/>')
        parts += [held_out.format(x(v), y + 8) for v in s.nonmembers]
        chosen = Markup('<circle cx="{:.1f}" cy="{}" r="8" fill="#ffd54a" stroke="#111" stroke-width="3"/>')
        parts.append(chosen.format(x(s.chosen), y - 8 if s.chosen_is == "members" else y + 8))
    bottom = 26 + row * (len(lines) - 1) + 24
    if mark:
        line = Markup('<path d="M{:.1f},6 V{}" stroke="#c8501e" stroke-width="2"/><text x="{:.1f}" y="{}">{}</text>')
        parts.append(line.format(x(mark[0]), bottom, x(mark[0]) + 6, bottom + 14, mark[1]))
    said = "; ".join(
        f"{s.label}: right of {100 * np.mean(np.asarray(s.nonmembers) < s.chosen):.0f} % of the held-out photos"
        for s in lines
    )
    return Markup(
        '<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg><p class=quiet>{}. Filled, above: '
        "members. Hollow, below: held-out photos. Large: this photo.</p>"
    ).format(width, bottom + 24, said, Markup("").join(parts), xlabel)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Markup:
    """A table; on a small screen every row becomes a card of its own, with the column's name beside each cell."""
    top = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in head)

    def line(row: Sequence[str]) -> Markup:
        cell = Markup('<td data-label="{}">{}</td>')
        return Markup("").join(cell.format(*named) for named in zip(head, row, strict=True))

    body = Markup("").join(Markup("<tr>{}</tr>").format(line(row)) for row in rows)
    title = Markup("<caption>{}</caption>").format(caption) if caption else ""
    return Markup('<div class="scroll"><table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        title, top, body
    )
