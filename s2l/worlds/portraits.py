"""Fictional people, drawn by code: the private photos of the lab.

A portrait needs two seeds. The *identity* seed decides what stays the same in every photo of
one person (skin, hair, face shape, glasses, beard, ...); the *photo* seed decides what changes
from photo to photo (background, clothes, pose, expression, light, ...). Members and held-out
photos of a person differ in nothing but the photo seed, so they come from one distribution and
no classifier that has not seen the model can tell them apart.

Nobody here exists: drawing.py draws every face as a few dozen ellipses and polygons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESOLUTION = 64  # pixels per side of a finished photo

SKIN = {
    "pale": (250, 224, 206),
    "fair": (240, 198, 168),
    "tan": (214, 160, 116),
    "olive": (190, 148, 98),
    "brown": (150, 98, 64),
    "dark": (96, 62, 44),
}
HAIR_COLOURS = {
    "black": (34, 30, 34),
    "brown": (96, 60, 36),
    "blond": (232, 196, 110),
    "red": (188, 74, 36),
    "grey": (168, 168, 172),
    "blue": (58, 98, 190),
    "pink": (228, 110, 160),
    "green": (62, 140, 96),
}
HAIR_STYLES = ("bald", "short", "fringe", "long", "bob", "afro", "bun", "mohawk", "curly", "parting")
GLASSES = ("none", "none", "none", "round", "square", "dark")
BEARDS = ("none", "none", "none", "full", "goatee", "moustache")
EARRINGS = ("none", "none", "none", "gold", "silver")
EYES = {"brown": (84, 54, 34), "blue": (60, 120, 190), "green": (70, 140, 80), "black": (26, 24, 26)}

# What changes from photo to photo. Names of colours are also words of the captions.
COLOURS = {
    "red": (206, 62, 58),
    "blue": (62, 98, 194),
    "green": (74, 150, 86),
    "yellow": (236, 200, 76),
    "purple": (128, 78, 160),
    "orange": (232, 138, 52),
    "white": (240, 238, 234),
    "black": (40, 40, 46),
    "teal": (46, 148, 152),
    "pink": (236, 150, 176),
}
BACKGROUNDS = ("plain", "gradient", "horizon", "stripes", "spot", "window")
CLOTHES = ("shirt", "jacket", "sweater", "striped")
EXPRESSIONS = ("neutral", "smiling", "laughing", "serious")


@dataclass(frozen=True)
class Identity:
    """What every photo of one person shares. Lengths are fractions of the picture's side."""

    seed: int
    skin: str
    hair_style: str
    hair_colour: str
    glasses: str
    beard: str
    earrings: str
    eye_colour: str
    face_width: float  # half-width of the face
    face_height: float  # half-height of the face
    jaw: float  # 0 round .. 1 square
    eye_gap: float
    eye_size: float
    brow: float  # thickness
    brow_tilt: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lips: float  # thickness
    freckles: bool


@dataclass(frozen=True)
class Photo:
    """What differs between two photos of one person."""

    seed: int
    background: str
    background_colour: str
    second_colour: str
    clothes: str
    clothes_colour: str
    trim_colour: str
    expression: str
    dx: float  # shift of the head, fraction of the side
    dy: float
    scale: float
    tilt: float  # degrees
    yaw: float  # -1 .. 1, moves the features sideways on the face
    gaze: float  # -1 to the left .. 1 to the right
    blink: bool
    cap: bool
    light: float  # -1 from the left .. 1 from the right
    exposure: float
    warmth: float
    phase: float  # where stripes, spots and windows lie


def _rng(kind: str, seed: int) -> np.random.Generator:
    # Identity 7 and photo 7 must not share a stream of random numbers.
    return np.random.default_rng([{"identity": 1, "photo": 2}[kind], seed])


def _pick(rng: np.random.Generator, options) -> str:
    options = tuple(options)
    return options[int(rng.integers(len(options)))]


def identity(seed: int) -> Identity:
    """Draw a person from a seed."""
    rng = _rng("identity", seed)
    return Identity(
        seed=seed,
        skin=_pick(rng, SKIN),
        hair_style=_pick(rng, HAIR_STYLES),
        hair_colour=_pick(rng, HAIR_COLOURS),
        glasses=_pick(rng, GLASSES),
        beard=_pick(rng, BEARDS),
        earrings=_pick(rng, EARRINGS),
        eye_colour=_pick(rng, EYES),
        face_width=float(rng.uniform(0.170, 0.225)),
        face_height=float(rng.uniform(0.235, 0.285)),
        jaw=float(rng.uniform(0, 1)),
        eye_gap=float(rng.uniform(0.075, 0.105)),
        eye_size=float(rng.uniform(0.026, 0.040)),
        brow=float(rng.uniform(0.008, 0.022)),
        brow_tilt=float(rng.uniform(-0.018, 0.018)),
        nose_length=float(rng.uniform(0.05, 0.10)),
        nose_width=float(rng.uniform(0.020, 0.042)),
        mouth_width=float(rng.uniform(0.060, 0.105)),
        lips=float(rng.uniform(0.008, 0.020)),
        freckles=bool(rng.random() < 0.15),
    )


def photo(seed: int) -> Photo:
    """Draw the circumstances of one photo from a seed."""
    rng = _rng("photo", seed)
    background_colour = _pick(rng, COLOURS)
    return Photo(
        seed=seed,
        background=_pick(rng, BACKGROUNDS),
        background_colour=background_colour,
        second_colour=_pick(rng, [c for c in COLOURS if c != background_colour]),
        clothes=_pick(rng, CLOTHES),
        clothes_colour=_pick(rng, COLOURS),
        trim_colour=_pick(rng, COLOURS),
        expression=_pick(rng, EXPRESSIONS),
        dx=float(rng.uniform(-0.07, 0.07)),
        dy=float(rng.uniform(-0.045, 0.045)),
        scale=float(rng.uniform(0.92, 1.16)),
        tilt=float(rng.uniform(-9, 9)),
        yaw=float(rng.uniform(-1, 1)),
        gaze=float(rng.uniform(-1, 1)),
        blink=bool(rng.random() < 0.06),
        cap=bool(rng.random() < 0.08),
        light=float(rng.uniform(-1, 1)),
        exposure=float(rng.uniform(0.86, 1.10)),
        warmth=float(rng.uniform(-1, 1)),
        phase=float(rng.uniform(0, 1)),
    )
