"""What protects people, from committed results: each defence as a question, a figure and a sentence, and the gate game.

Everything is on the page at once; defend.js reveals and redraws it in the browser, without the server. A result that is
not there yet is said to be "not measured yet". Loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from s2l.store import read_json
from s2l.tables.gate_view import share
from s2l.tables.sheet import NO_DEFENCE, TITLES, UNSHAKEN
from s2l.ui import html
from s2l.ui.effects import RESULTS, signed

SCRIPT = Path(__file__).with_name("defend.js")
NOT_YET = "Not measured yet."
LEAST_AUC = 0.3  # at the left end of a figure
HONEST = "held-out photos"
MANY = 4  # bars of a figure that needs the whole width
SIZE = "16"  # pictures of an upload in the sentences
# How results/gate.json calls what is done to pictures before they are uploaded, and what that is in plain words.
WAYS = {
    "untouched": "as the model drew them", "JPEG 75": "saved as JPEG 75", "JPEG 50": "saved as JPEG 50",
    "noise, sigma .02": "a little noise added", "noise, sigma .05": "more noise added",
    "upscaled and back": "scaled up and back", "half honest photos": "half of them honest photos",
}  # fmt: skip
# What each gate asks of a picture.
ASKS = {
    "own_output": "does the model's autoencoder leave a picture as it is, which it does with the model's own?",
    "own_output_jpeg": "would it, if the picture had not been compressed?",
}


@dataclass(frozen=True)
class Bar:
    """One line of a figure: a value from 0 to 1, with its interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Defence:
    """One defence: what is asked, and what was measured. `helps` is None where nothing was measured, or nothing is
    clear."""

    id: str
    title: str
    what: str
    said: str = NOT_YET
    bars: tuple[Bar, ...] = ()
    helps: bool | None = None


# (id, title, what it is, row of results/defences.json)
IN_TRAINING = (
    ("dedup", "Every photo once", "Copies of a photo are removed before the model is trained", "de-duplicated"),
    ("public", "No private photos", "The model is trained on public photos only", "public only"),
    ("dp8", "Differential privacy, epsilon 8",
     "Noise in the training hides each private photo (the smaller epsilon, the better)", "DP, epsilon 8"),
    ("dp1", "Differential privacy, epsilon 1", "The same with far more noise", "DP, epsilon 1"),
    ("public-dp", "Public photos first, then differential privacy", "Private photos come last, under noise",
     "public, then DP, epsilon 8"),
)  # fmt: skip


def in_words(label: str) -> str:
    """What a row of results/gate.json stands for, in plain words."""
    drawn, _, way = label.partition(", ")
    if not drawn.startswith("guidance "):
        return "honest photos instead" if label == HONEST else label
    return WAYS.get(way, way) + ("" if drawn == "guidance 1" else f", at {drawn}")


@lru_cache(maxsize=4)  # the closing screen of every run asks again
def results(folder: Path = RESULTS) -> dict[str, dict]:
    """{"gate", "defences"}: the committed results that are there."""
    found = {}
    for name in ("gate", "defences"):
        with suppress(OSError, ValueError):
            table = read_json(folder / f"{name}.json")
            if isinstance(table, dict) and table.get("rows"):
                found[name] = table
    return found


# --- the defences -----------------------------------------------------------------------------------------------------


def defences(found: dict[str, dict]) -> list[Defence]:
    """Every defence, with what `found` says of it."""
    rows = found.get("defences", {}).get("rows", {})
    listed = [_trained(rows, *entry) for entry in IN_TRAINING]
    return [*listed, _withheld(rows), _in_tuning(rows), _gate(found.get("gate"))]


def _trained(rows: dict, name: str, title: str, what: str, label: str) -> Defence:
    """A defence before or in the training: the best attack on the base model without it, and with it."""
    plain = Defence(name, title, what)
    with suppress(KeyError, TypeError, ValueError):
        before, after = rows[NO_DEFENCE]["attacks"], rows[label]
        attack = max(before, key=lambda each: before[each]["before"]["mean"])
        a, b = before[attack]["before"], after["attacks"][attack]["before"]
        change = after["change"][attack]
        ends = [change["difference"], change["low"], change["high"]]
        helps = True if ends[2] < 0 else False if ends[1] > 0 else None
        answer = {True: "It helps", False: "It makes it worse", None: "No clear effect here"}[helps]
        said = (
            f"{answer}: the AUC of the best attack on a model without a defence ({TITLES.get(attack, attack)}) goes "
            f"from {a['mean']:.3f} to {b['mean']:.3f}, a change of {signed(ends)}.{_price(rows[NO_DEFENCE], after)}"
        )
        return Defence(name, title, what, said, (_bar("without", a), _bar("with it", b)), helps)
    return plain


def _price(none: dict, row: dict) -> str:
    """What the defence costs: how often a stranger recognises whom a picture shows."""
    with suppress(KeyError, TypeError):
        a, b = none["price"]["recognised"], row["price"]["recognised"]
        return (
            f" The price: a stranger recognises {b['right']} of {b['of']} pictures of the people, and {a['right']} of "
            f"{a['of']} without the defence."
        )
    return ""


def _bar(label: str, estimate: dict) -> Bar:
    return Bar(label, estimate["mean"], estimate["low"], estimate["high"])


def _rate(label: str, rate: dict) -> Bar:
    return Bar(label, rate["rate"], rate["low"], rate["high"])


def _gate(table: dict | None) -> Defence:
    plain = Defence("gate", "A gate at the fine-tuning service",
                    "A service refuses pictures that the model itself has drawn")  # fmt: skip
    with suppress(KeyError, TypeError, ValueError):
        caught = {label: row[SIZE]["tpr"] for label, row in (table or {})["rows"].items()}
        wrongly = (table or {})["negatives"][HONEST][SIZE]["fpr"]
        first, worst = next(iter(caught)), min(caught, key=lambda label: caught[label]["rate"])
        helps = True if caught[first]["low"] > 0.5 else False if caught[first]["high"] < 0.5 else None
        answers = {True: "It helps against whoever does nothing", False: "It catches too few", None: "Unclear here"}
        said = (
            f"{answers[helps]}: of uploads of {SIZE} pictures that the model drew, it refuses "
            f"{share(caught[first])}, and {share(wrongly)} of honest ones. It can be evaded: of those with "
            f"“{in_words(worst)}” it refuses {share(caught[worst])}."
        )
        bars = (*(_rate(in_words(each), rate) for each, rate in caught.items()), _rate(in_words(HONEST), wrongly))
        return Defence(plain.id, plain.title, plain.what, said, bars, helps)
    return plain


def _with_the_shake(rows: dict, label: str) -> dict:
    """The best AUC of whoever has both models or the un-shaken one: an estimate of the row `label`."""
    pair = [each["reference"]["auc"] for each in rows[label]["attacks"].values() if each["reference"]]
    away = [each["after"] for each in rows[label + UNSHAKEN]["attacks"].values()]
    return max([*pair, *away], key=lambda auc: auc["mean"])


def _auc(estimate: dict) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _withheld(rows: dict) -> Defence:
    """The attacker gets the fine-tuned model without its base: what the pair would have added."""
    plain = Defence("withheld", "The base model is kept back",
                    "Whoever gets the fine-tuned weights does not get the base model")  # fmt: skip
    with suppress(KeyError, TypeError, ValueError):
        alone = max((x["after"] for x in rows[NO_DEFENCE]["attacks"].values()), key=lambda auc: auc["mean"])
        both = _with_the_shake(rows, NO_DEFENCE)
        helps = True if both["low"] > alone["high"] else False if both["mean"] <= alone["mean"] else None
        answer = {True: "It helps", False: "It does not help here", None: "No clear effect here"}[helps]
        said = (
            f"{answer}: the best attack that needs both models, the un-shaken one included, has an AUC of "
            f"{_auc(both)}, the best on the fine-tuned model alone {_auc(alone)}. This small lab is another one than "
            "that of the first screen, where both models together find more."
        )
        return Defence(
            plain.id, plain.title, plain.what, said, (_bar("both models", both), _bar("without the base", alone)), helps
        )
    return plain


def _in_tuning(rows: dict) -> Defence:
    """What it protects is not what is at stake: the figure shows what the attacks with the shake still find."""
    why = "It protects the pictures that are uploaded, and those are the attacker's own drawings."
    plain = Defence("dp-tuning", "Differential privacy in the fine-tuning",
                    "Noise in the fine-tuning hides each uploaded picture",
                    f"{NOT_YET} It promises nothing for the people in the photos. {why}")  # fmt: skip
    with suppress(KeyError, TypeError, ValueError):
        before, after = _with_the_shake(rows, NO_DEFENCE), _with_the_shake(rows, "DP fine-tuning, epsilon 8")
        helps = True if after["high"] < before["low"] else False if after["high"] >= before["mean"] else None
        answer = {
            True: "Less is found, but not by its promise",
            False: "It does not help",
            None: "No clear effect here",
        }
        said = (
            f"{answer[helps]}: the best attack that needs both models has an AUC of "
            f"{_auc(before)} without it and {_auc(after)} with it. {why}"
        )
        return Defence(
            plain.id, plain.title, plain.what, said, (_bar("without", before), _bar("with it", after)), helps
        )
    return plain


# --- as HTML ----------------------------------------------------------------------------------------------------------


def bars_html(defence: Defence, least: float = 0.0) -> Markup:
    """The figure of a defence: a line for each bar, from `least` to 1, with its interval. Empty without bars."""

    def place(value: float) -> str:
        return f"{100 * min(max((value - least) / (1 - least), 0), 1):.1f}%"

    line = Markup(
        '<div class="line"><span>{label}</span><span class="track" aria-hidden="true"><i class="span" '
        'style="left:{low};width:calc({high} - {low})"></i><i class="at" style="left:{at}"></i></span>'
        "<span>{value}</span></div>"
    )
    return Markup("").join(
        line.format(
            label=bar.label, low=place(bar.low), high=place(bar.high), at=place(bar.value),
            value=_percent(bar) if defence.id == "gate" else f"{bar.value:.2f} [{bar.low:.2f}, {bar.high:.2f}]",
        )
        for bar in defence.bars
    )  # fmt: skip


def _percent(bar: Bar) -> str:
    return f"{100 * bar.value:.0f} % [{100 * bar.low:.0f}, {100 * bar.high:.0f}]"


def card_html(defence: Defence) -> Markup:
    """One defence: a button for the visitor's guess, and what was measured, hidden until it is asked for."""
    helps = {True: "yes", False: "no", None: "unclear"}[defence.helps]
    axis = ""
    if defence.bars:
        axis = f"AUC of the attack, from {LEAST_AUC:g} (left) to 1 (right); 0.5 is guessing. Bars: 95 % intervals."
        if defence.id == "gate":
            axis = (
                f"How many uploads of {SIZE} pictures are refused (left: none, right: all), by what was done to them "
                "first. The last line should be short, all others long. Brackets and bars: 95 % intervals."
            )
    return Markup(
        '<li class="card{wide}" data-helps="{helps}"><button type="button" data-guess="{id}" aria-pressed="false">'
        "{title}</button><p class=quiet>{what}</p><div data-measured hidden><p data-mine></p><p>{said}</p>"
        "<p class=quiet>{axis}</p>{bars}</div></li>"
    ).format(
        wide=" wide" if len(defence.bars) > MANY else "", helps=helps, id=defence.id, title=defence.title,
        what=f"{defence.what}.", bars=bars_html(defence, 0.0 if defence.id == "gate" else LEAST_AUC), axis=axis,
        said=defence.said,
    )  # fmt: skip


def game(table: dict | None) -> list[dict]:
    """What defend.js needs of each way to upload the example: its label, and each gate's score and threshold."""
    rows = []
    with suppress(KeyError, TypeError, ValueError):
        example = (table or {})["example"]
        limits = (table or {})["thresholds"][str(example["size"])]
        titles = (table or {})["gates"]
        for label, row in sorted(example["rows"].items(), key=lambda entry: entry[0] == HONEST):
            scores = [
                {"gate": titles[g], "score": score, "threshold": limits[g]["value"]}
                for g, score in row["scores"].items()
            ]
            rows.append(
                {"label": in_words(label), "scores": scores, "refused": row["refused"], "honest": label == HONEST}
            )
    return rows


def game_html(table: dict | None) -> Markup:
    """Try to get an SP set past the gate: the choices, and where defend.js draws the scores."""
    rows = game(table)
    title = Markup("<h3>Try to get an SP set past the gate</h3>")
    if table is None or not rows:
        return title + Markup("<p>Not measured yet: <code>python -m s2l gate-study</code>.</p>")
    about = Markup("<p>You upload {} pictures that the model drew of {}. What do you do to them first?</p>").format(
        table["example"]["size"], table["example"]["person"]
    )
    asks = Markup(" ").join(
        Markup("<b>{}</b>: {}").format(title, ASKS[gate]) for gate, title in table["gates"].items() if gate in ASKS
    )
    legend = Markup(
        "<p class=quiet>{} Dashed: the gate's threshold, which few honest uploads reach. A mean score right of it (■) "
        "is refused, left of it (●) it passes; one refusal is enough.</p>"
    ).format(asks)
    chips = Markup("").join(
        Markup('<button type="button" data-row="{}" aria-pressed="{}">{}</button>').format(
            i, "true" if i == 0 else "false", row["label"]
        )
        for i, row in enumerate(rows)
    )
    return Markup(
        '{}{}<div class="effects"><span role="group" class="chips" aria-label="What is done to the pictures">{}</span>'
        '</div><p class="conclusion" data-verdict role="status"></p><div data-scores></div>{}'
        '<div hidden data-game="{}"></div>'
    ).format(title, about, chips, legend, json.dumps(rows, separators=(",", ":")))


def screen(found: dict[str, dict]) -> Markup:
    """The whole tab. A prediction is asked for only where there is an answer."""
    known = [defence for defence in defences(found) if not defence.said.startswith(NOT_YET)]
    asked = Markup(
        "<h3>Which of these protect the people in the photos? Predict first.</h3><p class=quiet>The first ones were "
        "measured on small labs of their own, trained with and without the defence: the numbers are others than on the "
        'first screen.</p><ul class="cards">{}</ul><p><button type="button" class="show" data-show>Show what was '
        'measured</button> <span data-score role="status"></span></p>'
    ).format(Markup("").join(map(card_html, known)))
    return html.block(
        Markup('<section class="defend">{}{}{}</section>').format(
            asked if known else "", _waiting(found), game_html(found.get("gate"))
        )
    )


def _waiting(found: dict[str, dict]) -> Markup:
    """The defences that nobody has measured here yet, folded."""
    missing = [defence for defence in defences(found) if defence.said.startswith(NOT_YET)]
    items = Markup("").join(Markup("<li><b>{}.</b> {}.</li>").format(each.title, each.what) for each in missing)
    return html.fold("missing", "Not measured yet", Markup("<ul>{}</ul>").format(items)) if missing else Markup()


def _lines(found: dict[str, dict]) -> Iterator[Markup]:
    """The end of the lesson: each defence with what was measured of it."""
    for defence in defences(found):
        yield Markup("<li><b>{}.</b> {}. {}</li>").format(defence.title, defence.what, defence.said)


def protects_html(found: dict[str, dict]) -> Markup:
    """What protects people, as the last screen of the lesson says it."""
    return Markup("<h3 class=protects>What protects people?</h3><ul>{}</ul>").format(Markup("").join(_lines(found)))
