"""The first screen: what leaked, in pictures, and how far the attacker goes along the shake.

Everything is on the page at once: the slider through w = 0, the choice of attack and the threshold move pictures,
ranking, ROC and count together in the browser (leak.js), without the server.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from s2l.assets import ASSETS
from s2l.report.frames import COLUMNS, FRAMES, SEEDS
from s2l.store import read_json
from s2l.ui import html

FOLDER = ASSETS / "frames"
SCRIPT = Path(__file__).with_name("leak.js")
FIRST_ATTACK = "loss"
ACCUSED = 20  # photos at first
# What each attack looks at, in one line.
WORDS = {
    "loss": "Loss: add noise to the photo, let the model remove it. It does better on photos it has seen.",
    "secmi": "SecMI: add noise in small steps and take one back. The model returns more exactly on photos it has seen.",
    "sima": "SimA: ask how much noise the model sees in the clean photo. It sees less in photos it has seen.",
}


@dataclass(frozen=True)
class Frames:
    """The frames of one person: `data` is frames.json (report/frames.py)."""

    folder: Path

    @cached_property
    def data(self) -> dict[str, Any]:
        return read_json(self.folder / FRAMES)

    @cached_property
    def photos(self) -> list[str]:
        """Data URIs of the members, then of the held-out photos."""
        return _tiles(self.folder / "photos.webp", COLUMNS, self.data["n_members"] + self.data["n_nonmembers"])

    @cached_property
    def pictures(self) -> list[list[str]]:
        """At every w, data URIs of the generations: those of the same seeds, then the closest pairs'."""
        tiles = _tiles(self.folder / "pictures.webp", SEEDS + 2, (SEEDS + 2) * len(self.data["frames"]))
        return [tiles[i : i + SEEDS + 2] for i in range(0, len(tiles), SEEDS + 2)]


@lru_cache(maxsize=1)
def shipped() -> dict[str, Frames]:
    """{person: frames} of everybody who has them, whoever leaks most first."""
    found = [Frames(path.parent) for path in sorted(FOLDER.glob(f"*/{FRAMES}"))]
    found.sort(key=lambda frames: -frames.data["frames"][_base(frames.data)]["near"]["members"]["copies"])
    return {frames.data["person"]: frames for frames in found}


def first_person() -> str:
    """Whom the screen shows at first; "" if nobody has frames."""
    return next(iter(shipped()), "")


def _tiles(path: Path, columns: int, n: int) -> list[str]:
    """The first n square tiles of a sheet as data URIs."""
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    side = sheet.shape[1] // columns
    uris = []
    for i in range(n):
        y, x = i // columns * side, i % columns * side
        buffer = io.BytesIO()
        Image.fromarray(sheet[y : y + side, x : x + side]).save(buffer, format="WEBP", quality=78)
        uris.append("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
    return uris


# --- words -------------------------------------------------------------------------------------------------


def place(w: float) -> str:
    """What the model at w is called."""
    if w == 0:
        return "the base model"
    if w == -1:
        return "the shaken model"
    if w == 1:
        return "the un-shaken model"
    return f"the model at w = {w:g}".replace("-", "−")


def label(w: float) -> str:
    """What stands beside the slider: "w = −1: the shaken model", or the number alone."""
    number = f"w = {w:g}".replace("-", "−")
    return f"{number}: {place(w)}" if w in (-1, 0, 1) else number


def _share(part: int, of: int) -> str:
    return f"{100 * part / of:.0f} %"


def sentence(data: dict[str, Any], frame: dict[str, Any], attack: str) -> str:
    """One conclusion from the numbers of a frame."""
    w, found, near, title = frame["w"], frame["attacks"][attack], frame["near"], data["attacks"][attack]
    copies, held = near["members"]["copies"], near["nonmembers"]["copies"]
    auc = f"{found['auc']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    came = f"{copies} of {data['n_members']} private photos ({_share(copies, data['n_members'])}) come out"
    if held:
        never = f"{held} of {data['n_nonmembers']} photos that it never saw, {_share(held, data['n_nonmembers'])}"
        came += f" (and {never}, look alike by chance)"
    if w == 0:
        attack_says = f"the {title} attack has an AUC of {auc} (guessing: 0.50)"
        if copies or found["low"] <= 0.5:
            return f"The base model {'already leaks' if copies else 'shows no leak here'}: {came}, and {attack_says}."
        return f"No private photo comes out of the base model, but it leaks which ones it saw: {attack_says}."
    change = found["change"]
    if change["low"] > 0:
        says = f"The {title} attack gets stronger on {place(w)}"
    elif change["high"] < 0:
        says = f"The {title} attack gets weaker on {place(w)}"
    else:
        says = f"The {title} attack shows no clear change on {place(w)}"
    first = data["frames"][_base(data)]["near"]["members"]["copies"]
    moved = f"AUC {auc}, a change of {_interval(change)} from the base model"
    return f"{says}: {moved}. {came}; {first} did on the base model."


def both_sentence(data: dict[str, Any]) -> str:
    """The conclusion about both models together."""
    both = data["both"]
    change, title = both["change"], data["attacks"][both["attack"]]
    says = "is stronger" if change["low"] > 0 else "is weaker" if change["high"] < 0 else "shows no clear change"
    return (
        "With both models, the attacker asks of which photos the shaken model knows less than the base model: those "
        f"that were memorised lose most. The {title} attack "
        f"{says}: AUC {both['auc']:.2f} [{both['low']:.2f}, {both['high']:.2f}], a change of {_interval(change)} from "
        "the base model alone."
    )


def _interval(change: dict[str, float]) -> str:
    return f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"


def _base(data: dict[str, Any]) -> int:
    """The index of w = 0."""
    return next(i for i, frame in enumerate(data["frames"]) if frame["w"] == 0)


# --- HTML --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def screen(person: str) -> Markup:
    """The whole screen of a person who has frames; empty for everybody else."""
    frames = shipped().get(person)
    if frames is None:
        return Markup()
    data, base = frames.data, _base(frames.data)
    return html.block(
        Markup('<section class="leak" aria-label="See the leak">{}{}{}{}{}</section>').format(
            _lead(data), _copies(frames, base), _ranking(frames, base), _controls(data, base), _payload(frames, base)
        )
    )


def pair_of(person: str) -> Markup:
    """The left part of a person's screen alone: the pictures that show the leak."""
    frames = shipped()[person]
    return _copies(frames, _base(frames.data))


def steps_of(person: str) -> tuple[list[str], ...] | None:
    """Data URIs for "How it works": private photos, what the base model draws, the shaken model from the same seeds,
    and two private photos among two held-out ones. None for somebody without frames."""
    if (frames := shipped().get(person)) is None:
        return None
    ws = [frame["w"] for frame in frames.data["frames"]]
    asked = [frames.photos[i] for i in (frames.data["n_members"], 8, 9, frames.data["n_members"] + 1)]
    return frames.photos[:4], frames.pictures[ws.index(0)][:4], frames.pictures[ws.index(-1)][:4], asked


def _lead(data: dict[str, Any]) -> Markup:
    faces = Markup("").join(
        Markup('<button type="button" data-person="{}" aria-pressed="{}"><img src="{}" alt="">{}</button>').format(
            name, "true" if name == data["person"] else "false", frames.photos[0], name
        )
        for name, frames in shipped().items()
    )
    leaks = data["frames"][_base(data)]["near"]["members"]["copies"] > 0
    title = "Type a name, get a private photo" if leaks else "Type a name: here, no private photo comes out"
    return Markup(
        "<header><h2>{title}</h2><p>This model learnt to draw from {n} private photos of each "
        "person, and from public ones. Its owner publishes the model, never the photos. The attacker knows only a "
        'name.</p><div class="faces" role="group" aria-label="Person">{faces}</div></header>'
    ).format(title=title, n=data["n_members"], faces=faces)


def _copies(frames: Frames, base: int) -> Markup:
    """The closest pair of a generation and a private photo, that of a held-out photo, and the same seeds."""
    data = frames.data
    near, tiles = data["frames"][base]["near"], frames.pictures[base]
    pair = Markup(
        '<div class="pair {kind}"><figure><img data-made="{kind}" src="{made}" alt="generated picture"><figcaption>the '
        'model draws</figcaption></figure><span class="l2"><b data-l2="{kind}">{l2}</b><i data-says="{kind}">{says}</i>'
        '</span><figure><img data-photo="{kind}" src="{photo}" alt="{what}"><figcaption>{what}</figcaption></figure>'
        "</div>"
    )
    members, held = (
        pair.format(
            kind=part, made=tiles[SEEDS + i], l2=f"l2 {near[part]['l2']:.3f}", what=what,
            says=verdict(part, near[part]["l2"], data["delta"]), photo=frames.photos[near[part]["photo"] + first],
        )
        for i, (part, what, first) in enumerate(
            (("members", "a private photo", 0), ("nonmembers", "a photo it never saw", data["n_members"]))
        )
    )  # fmt: skip
    seeds = Markup("").join(
        Markup('<img data-seed="{}" src="{}" alt="generation {}">').format(i, tiles[i], i + 1) for i in range(SEEDS)
    )
    return Markup(
        '<div class="copies"><p class="says">“a photo of {}”</p>{}{}<p class="quiet">{}</p>'
        '<p class="quiet">Six pictures; another model draws them from the same seeds:</p>'
        '<div class="seeds">{}</div></div>'
    ).format(data["person"], members, held, _rule(data), seeds)


def _rule(data: dict[str, Any]) -> str:
    return f"An l2 of at most {data['delta']:g} counts as a copy. Of a photo that it never saw, that would be chance."


def verdict(part: str, l2: float, delta: float) -> str:
    """What a distance means: nothing can be a copy of a photo that the model never saw."""
    return "no copy" if l2 > delta else "a copy" if part == "members" else "alike by chance"


def _ranking(frames: Frames, base: int) -> Markup:
    data = frames.data
    n = data["n_members"]
    photos = Markup("").join(
        Markup('<img class="{}" src="{}" alt="">').format("m" if i < n else "h", uri)
        for i, uri in enumerate(frames.photos)
    )
    attacks = Markup("").join(
        Markup('<button type="button" data-attack="{}" aria-pressed="{}">{}</button>').format(
            name, "true" if name == FIRST_ATTACK else "false", title
        )
        for name, title in data["attacks"].items()
    )
    return Markup(
        '<div class="rank"><div class="line"><span>Which photos was it trained on? Most suspicious first, by</span>'
        '<span role="group" aria-label="Attack" class="chips">{}</span></div><div class="row">'
        '<div class="wall" role="img" data-wall>{}</div><div class="roc-box"><svg data-roc viewBox="0 0 200 200" '
        'role="img"></svg><p data-auc></p><p class="quiet" data-pairs></p></div></div>'
        '<p class="quiet" data-word></p>'
        '<div class="line"><label class="accuse"><span>accuse</span>'
        '<input type="range" min="0" max="{}" value="{}" data-accused aria-label="How many photos to accuse"></label>'
        '<p data-point role="status"></p></div></div>'
    ).format(attacks, photos, n + data["n_nonmembers"], ACCUSED)


def _controls(data: dict[str, Any], base: int) -> Markup:
    last = len(data["frames"]) - 1
    shaken = next(i for i, frame in enumerate(data["frames"]) if frame["w"] == -1)
    away = next(i for i, frame in enumerate(data["frames"]) if frame["w"] == 1)
    chip = Markup('<button type="button" data-go="{}" aria-pressed="{}">{}</button>')
    chips = [chip.format(shaken, "false", "shaken"), chip.format(base, "true", "base"),
             chip.format(away, "false", "un-shaken")]  # fmt: skip
    if data["both"] is not None:
        chips.append(chip.format("both", "false", "both models"))
    return Markup(
        '<div class="steer"><span role="group" aria-label="Which model" class="chips">{}</span><label><span>← shake'
        '</span><input type="range" min="0" max="{}" value="{}" data-w aria-label="w: from '
        'the shaken model through the base model to the un-shaken one"><span>un-shake →</span>'
        "</label><output data-w-says>{}</output></div>"
        '<p class="conclusion" data-conclusion role="status">{}</p>'
    ).format(Markup("").join(chips), last, base, label(0), sentence(data, data["frames"][base], FIRST_ATTACK))


def _payload(frames: Frames, base: int) -> Markup:
    """What leak.js reads."""
    data = frames.data
    attacks = list(data["attacks"])
    payload = {
        "person": data["person"],
        "n": data["n_members"],
        "delta": data["delta"],
        "base": base,
        "attack": FIRST_ATTACK if FIRST_ATTACK in attacks else attacks[0],
        "titles": data["attacks"],
        "words": {name: WORDS.get(name, "") for name in attacks},
        "frames": [
            {
                "w": frame["w"],
                "label": label(frame["w"]),
                "pictures": tiles,
                "near": {p: {k: v for k, v in found.items() if k != "distances"} for p, found in frame["near"].items()},
                "attacks": {
                    name: {"scores": found["scores"], "auc": found["auc"], "low": found["low"],
                           "high": found["high"], "says": sentence(data, frame, name)}
                    for name, found in frame["attacks"].items()
                },
            }
            for frame, tiles in zip(data["frames"], frames.pictures, strict=True)
        ],
        "both": None,
    }  # fmt: skip
    if (both := data["both"]) is not None:
        payload["both"] = {
            "attack": both["attack"], "scores": both["scores"], "auc": both["auc"], "low": both["low"],
            "high": both["high"], "says": both_sentence(data),
        }  # fmt: skip
    return Markup('<div hidden data-frames="{}"></div>').format(json.dumps(payload, separators=(",", ":")))
