"""Tab 4, Results: what leaked before and after, and how sure we are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr
from matplotlib.figure import Figure

from s2l import figures, report
from s2l.distances import paired_l2, within
from s2l.experiment import Result
from s2l.ui import html
from s2l.ui.live import method_title

INTRO = """**Step 4 of 4: what leaked, and how sure are we?** An attack gives every photo a score. The **ROC curve**
shows how many members it finds (up) for how many false accusations (right): the diagonal is a coin toss, an AUC of
0.5, and 1 is perfect. The brackets are 95 % intervals: when an interval of the *change* contains 0, fine-tuning
made no clear difference. An attack that finds as many held-out photos as members has found nothing."""
EMPTY = '<p class="quiet">No result yet: go through steps 1 to 3 and press Run.</p>'
TOP, TOP_CONTROL = 9, 6


@dataclass
class Results:
    runs: gr.Dropdown
    headline: gr.HTML
    attack: gr.Radio
    roc: gr.HTML
    extraction: gr.HTML
    loss: gr.HTML
    command: gr.Code
    html_file: gr.DownloadButton
    json_file: gr.DownloadButton


def name_of(person: str, methods: Sequence[str], preset: str) -> str:
    """A run in one line."""
    return f"{person}, {method_title(methods)}, {preset}"


def what(result: Result) -> str:
    config = result.record["config"]
    return name_of(config["domain"]["name"], config["finetune"]["methods"], config["preset"])


_CACHE: dict[tuple, str] = {}


def drawn(result: Result, name: str, draw: Callable[[bool], Figure], alt: str) -> str:
    """A figure of a result for both themes, drawn once."""
    if len(_CACHE) > 400:
        _CACHE.clear()
    if (result.key, name) not in _CACHE:
        _CACHE[result.key, name] = html.drawing(draw(False), draw(True), alt)
    return _CACHE[result.key, name]


def headline_html(result: Result | None, example: bool = False) -> str:
    """The verdicts in words with their intervals, and the table behind them."""
    if result is None:
        return html.block(EMPTY)
    verdicts = []
    for sentence in report.headline(result):
        verdict, _, numbers = sentence.partition(": ")
        tone = "up" if "stronger" in verdict or "More" in verdict else "down" if "weaker" in verdict else ""
        verdicts.append(
            f'<p class="verdict {tone}"><b>{escape(verdict)}.</b> {escape(numbers[:1].upper() + numbers[1:])}</p>'
        )
    rows = "".join(
        f"<tr><td>{escape(r.group)}</td><td>{escape(r.what)}</td><td>{escape(r.before)}</td><td>{escape(r.after)}</td>"
        f"<td>{escape(r.difference)}</td></tr>"
        for r in report.outcome(result)
        if not r.detail
    )
    table = (
        '<div class="scroll"><table><thead><tr><th></th><th></th><th>before</th><th>after</th><th>change [95 %]</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    note = "" if result.record["config"]["preset"] != "quick" else (
        '<p class="quiet">A <em>quick</em> run: so few pictures and photos show how it works, not what leaks.</p>'
    )  # fmt: skip
    name = ("An example, run by us: " if example else "") + what(result)
    return html.block(f"<h3>{escape(name)}</h3>", note, *verdicts, table)


def roc_html(result: Result | None, attack: str | None) -> str:
    """ROC before and after, linear and log-log."""
    if result is None or attack not in result.record["attacks"]:
        return ""
    found = result.record["attacks"][attack]
    aucs = " and ".join(f"{found[when]['auc']:.3f} {when}" for when in ("before", "after"))
    linear = drawn(
        result, f"roc {attack}", lambda dark: figures.roc_figure(result, attack, False, dark),
        f"ROC curve of {found['title']}: AUC {aucs} fine-tuning",
    )  # fmt: skip
    log = drawn(
        result, f"log roc {attack}", lambda dark: figures.roc_figure(result, attack, True, dark),
        "The same ROC curve with both axes logarithmic, which enlarges the corner of few false accusations",
    )  # fmt: skip
    return html.block('<div class="two">', linear, f"<div>{log}</div></div>")


def _columns(found: dict, of: str, top: int) -> list[tuple[int, int]]:
    """(reference, generation): the photos that any generation came closest to, before and after alike.

    Choosing by "after" alone would show a rise even where there is none.
    """
    before, after = found["before"][of], found["after"][of]
    best = []
    for reference, (d0, d1) in enumerate(zip(before["distances"], after["distances"], strict=True)):
        side = after if d1 <= d0 else before
        best.append((min(d0, d1), reference, side["nearest_generation"][reference]))
    return [(reference, generation) for _, reference, generation in sorted(best)[:top]]


def _cards(result: Result, of: str, top: int) -> str:
    """A card a photo: generated before, generated after with the same seed, and the photo they came closest to."""
    found, root = result.record["extraction"], result.store.root
    columns = _columns(found, of, top)
    references, generations = zip(*columns, strict=True)
    folders = result.record["folders"]
    photos = figures.pictures(root / folders[of], references)
    delta, repeats = found["after"]["delta"], result.record["domain"]["repeats"]
    sides = {}
    for when in ("before", "after"):
        images = figures.pictures(root / folders[when], generations)
        l2 = paired_l2(images.transpose(0, 3, 1, 2), photos.transpose(0, 3, 1, 2))
        sides[when] = list(zip(images, l2, within(l2, delta), strict=True))
    word, kind = ("extracted", "training photo") if of == "members" else ("false alarm", "held-out photo")
    cards = []
    for i, reference in enumerate(references):
        trio = []
        for when in ("before", "after"):
            image, l2, hit = sides[when][i]
            caption = f"{when}: l2 {l2:.3f}" + (f"\n✓ {word}" if hit else "")
            alt = f"generated {when} fine-tuning, seed {generations[i]}, l2 {l2:.3f} to the {kind}"
            trio.append(html.picture(html.pixels_uri(image), alt, caption, bool(hit)))
        below = kind
        if of == "members" and repeats:
            below += f"\nrepeated {repeats[reference]} ×"
        trio.append(html.picture(html.pixels_uri(photos[i]), f"{kind} {reference + 1}", below))
        cards.append(f'<div class="card three">{"".join(trio)}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def extraction_html(result: Result | None) -> str:
    """Side by side: generations before and after, the nearest training photo, and the control."""
    if result is None:
        return ""
    found = result.record["extraction"]
    if found is None:
        return html.block("<p>It is not known which photos this model was trained on: nothing can be compared.</p>")
    delta, n = found["after"]["delta"], found["after"]["n_generations"]
    return _cached_block(result, "extraction", lambda: (
        "<h3>Did training photos come out?</h3>",
        f"<p>Each model drew {n:,} pictures from the same seeds. A card shows one seed, before and after, beside the "
        f"training photo that it came closest to. <b>l2</b> is the distance of the pixels, 0 for the same picture; at "
        f"most {delta:g} counts as extracted and gets a thick frame and a ✓. Even a perfect copy cannot come closer "
        f"than about {found['floor']['mean']:.3f}, what the model's own image coder costs.</p>",
        _cards(result, "members", TOP),
        "<h3>The control: held-out photos</h3>",
        "<p>The same search for photos that no model ever saw. What it finds here is likeness, not leakage.</p>",
        _cards(result, "nonmembers", TOP_CONTROL),
    ))  # fmt: skip


def _cached_block(result: Result, name: str, parts: Callable[[], tuple[str, ...]]) -> str:
    if (result.key, name) not in _CACHE:
        _CACHE[result.key, name] = html.block(*parts())
    return _CACHE[result.key, name]


def loss_html(result: Result | None) -> str:
    rows = result.record["finetune"].get("log") if result is not None else None
    if not rows:
        return ""
    alt = f"Training loss over {len(rows)} steps"
    curve = drawn(result, "loss", lambda dark: figures.loss_figure(rows, dark), alt)
    return html.block("<h3>Training loss</h3>", f'<div class="narrow">{curve}</div>')


def warm(result: Result) -> None:
    """Draw everything of a result, so that the first visitor need not wait."""
    headline_html(result)
    for attack in result.record["attacks"]:
        roc_html(result, attack)
    extraction_html(result)
    loss_html(result)


def build() -> Results:
    """Add the tab's components to the page."""
    gr.Markdown(INTRO, elem_classes="s2l-lead")
    runs = gr.Dropdown([], label="Show the run", visible=False, elem_id="runs")
    headline = gr.HTML(headline_html(None), elem_id="headline")
    attack = gr.Radio([], label="Attack", visible=False, elem_id="attack")
    roc = gr.HTML(elem_id="roc")
    extraction = gr.HTML(elem_id="extraction")
    loss = gr.HTML(elem_id="loss")
    with gr.Row():
        html_file = gr.DownloadButton("Report (HTML)", visible=False, elem_id="report-html")
        json_file = gr.DownloadButton("result.json", visible=False, elem_id="result-json")
    command = gr.Code(
        label="The command that makes this run again", language="shell", interactive=False, visible=False,
        elem_id="command",
    )  # fmt: skip
    return Results(runs, headline, attack, roc, extraction, loss, command, html_file, json_file)
