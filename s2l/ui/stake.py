"""What is at stake for a person before anybody shakes the model, from the committed baselines of the lab."""

from __future__ import annotations

from functools import lru_cache

from markupsafe import Markup

from s2l.labs import Lab
from s2l.store import read_json
from s2l.ui import html
from s2l.ui.effects import RESULTS

ATTACK, TITLE = "loss", "Loss"
OFTEN = 10  # repeats from which a photo counts as repeated often


@lru_cache(maxsize=4)
def baselines(lab: Lab) -> dict | None:
    """The result of `python -m s2l lab measure` on this very checkpoint; None where none is committed."""
    counters = lab.record.get("counters")  # no two trainings have the same
    for path in sorted(RESULTS.glob("lab*.json")) if counters else ():
        found = read_json(path)
        if isinstance(found, dict) and found.get("model", {}).get("counters") == counters:
            return found
    return None


def stake_html(lab: Lab, name: str) -> Markup:
    """Does the base model leak this person's photos already, and which ones; empty where it was not measured."""
    found = baselines(lab)
    person = next((row for row in found["people"] if row["name"] == name), None) if found else None
    if found is None or person is None or ATTACK not in person["auc"]:
        return Markup()
    everybody, by_repeats = found["auc"][ATTACK], person["auc_by_repeats"][ATTACK]
    often = [auc for repeats, auc in by_repeats.items() if int(repeats) >= OFTEN]
    parts = [
        f"The base model leaks already, before any shake: shown one training photo of {name} and one held-out photo, "
        f"the {TITLE} attack picks the right one in {100 * person['auc'][ATTACK]:.0f} of 100 pairs (guessing: 50)."
    ]
    if often and "1" in by_repeats:
        parts.append(
            f"For photos that were repeated {OFTEN} times or more it is {100 * sum(often) / len(often):.0f} of 100, "
            f"for photos that the model saw once per pass {100 * by_repeats['1']:.0f}: rarely seen is safer, not safe."
        )
    parts.append(
        f"How sure: over all {len(found['people'])} people it is {100 * everybody['mean']:.0f} of 100, with a 95 % "
        f"interval from {100 * everybody['low']:.0f} to {100 * everybody['high']:.0f}. Other tabs use other held-out "
        "photos and other noise: their numbers for one person differ by a few hundredths."
    )
    return html.block(
        Markup('<p class="verdict conclusion-of"><b>What is at stake.</b> {}</p>').format(" ".join(parts))
    )
