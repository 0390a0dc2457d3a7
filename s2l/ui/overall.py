"""The answer over many people, in a few sentences: what one person's figures on the first screen cannot say."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from s2l.store import read_json
from s2l.tables.sheet import TITLES
from s2l.ui import html
from s2l.ui.effects import RESULTS, direction, payload, signed

ATTACK = "loss"
SHOWN = {name: TITLES[name] for name in (ATTACK, "secmi")}
VERBS = {1: "stronger", -1: "weaker", 0: "neither clearly stronger nor weaker"}
# (row of the table over labs, how the sentence begins).
ROWS = (
    ("fresh, shaken", "On this model, shaking makes the {title} attack"),
    ("fresh, un-shaken", "un-shaking (w = 1) makes it"),
    ("buried, shaken", "On a model that saw public photos after the private ones (“buried”), shaking makes it"),
)


def committed(folder: Path = RESULTS) -> dict[str, dict]:
    """The committed tables that the sentences are made from, those that are there."""
    paths = {name: folder / f"{name}.json" for name in ("main", "labs")}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def overall_html(tables: dict[str, dict]) -> Markup:
    """The main findings of the committed `tables`, with intervals; empty where the table over labs is missing."""
    found = {table["name"]: table for table in payload(tables, lambda table: SHOWN)}
    if "labs" not in found or ATTACK not in found["labs"]["attacks"]:
        return Markup()
    cells = {row["label"]: row["cells"][ATTACK] for row in found["labs"]["rows"]}
    title = found["labs"]["attacks"][ATTACK]
    claim = Markup("{} <b>{}</b> (AUC {})")
    parts = [
        claim.format(said.format(title=title), VERBS[direction(cells[label]["change"])], signed(cells[label]["change"]))
        for label, said in ROWS
        if label in cells
    ]
    if (both := cells.get("fresh, shaken", {}).get("both")) is not None:
        found_more = {1: "more", -1: "less", 0: "about as much"}[direction(both["change"])]
        parts.insert(1, claim.format("somebody who has both models finds", found_more, signed(both["change"])))
    if not parts:
        return Markup()
    n = tables["labs"]["n_people"]
    text = Markup("; ").join(parts[:-1]) + Markup(". ") + parts[-1]
    return html.block(
        Markup(
            "<p class=overall><b>Over {} people:</b> {}. {}Brackets are 95 % intervals; one person, as above, rarely "
            "shows this clearly. More in tab 6.</p>"
        ).format(n, text, _paper(found))
    )


def _paper(found: dict[str, dict]) -> str:
    """What the paper has for the same kind of run, and ours beside it; "" without that table."""
    row = next((row for row in found.get("main", {}).get("rows", ()) if row["label"] == "LoRA"), None)
    cell = row["cells"].get("secmi") if row else None
    if cell is None or cell["paper"] is None:
        return ""
    return (
        f"With SecMI, the paper has {cell['paper']['change']:+.3f} on Stable Diffusion (no interval), and this model "
        f"{signed(cell['change'])}. "
    )
