"""One photo on the Membership tab: its scores, and where they lie among all."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from s2l.record import Result, When
from s2l.ui import html, runs

WHENS: dict[When, str] = {"before": "before the shake", "after": "after the shake"}


def detail_html(result: Result, of: str, index: int, attack: str) -> Markup:
    """One photo: its scores, its rank among the held-out photos, and where it lies for the attack."""
    record = result.record
    word = "training photo (member)" if of == "members" else "held-out photo"
    ranks, raw, lines = [], [], []
    for name, found in record["attacks"].items():
        for when in WHENS:
            members, nonmembers = result.scores(name, when)
            score = (members if of == "members" else nonmembers)[index]
            others = nonmembers if of == "members" else np.delete(nonmembers, index)
            beaten = 100 * float(np.mean(others < score)) if len(others) else 0.0
            ranks.append((f"{found['title']}, {WHENS[when]}", f"{beaten:.0f} % of the held-out photos"))
            raw.append((ranks[-1][0], f"{score:.4g}"))
    found = record["attacks"][attack]
    for when in WHENS:
        members, nonmembers = result.scores(attack, when)
        chosen = float((members if of == "members" else nonmembers)[index])
        lines.append(html.Strip(when, members.tolist(), nonmembers.tolist(), chosen, of))
    repeats = record["domain"]["repeats"]
    how_often = f", repeated {repeats[index]} × in pre-training" if of == "members" and repeats else ""
    uri = runs.picture_uris(result, of, [index])[0]
    return html.block(
        Markup(
            '<div class="detail" role="status"><h3>Photo {}: a {}{}</h3><div class="two"><div class="shots">{}</div>'
            "<div>{}<details class=quiet><summary>The scores themselves</summary>{}</details></div></div>{}</div>"
        ).format(
            index + 1, word, how_often, html.picture(uri, f"{word} {index + 1}"),
            html.table(("", "scores higher than"), ranks), html.table(("", "score"), raw),
            html.strips(lines, f"The {found['title']} score: further right means more likely a member"),
        )
    )  # fmt: skip
