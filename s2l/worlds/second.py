"""A second source: photos of the same people as another photographer takes them, for audits whose split is not fair.

Members and held-out photos of a person differ in nothing but the photo seed. Photos of the second source are of the
same face, but their circumstances are drawn from another distribution, in one of two directions:

    studio  plain background, head centred and upright, tight crop, even light: easier pictures
    street  busy background, small head off centre, dark, with the noise of a high ISO: harder pictures

Captions have the form of the lab's own and describe the changed photo.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from s2l.worlds.drawing import draw
from s2l.worlds.people import LabPhoto, Person, caption_of, first_seed
from s2l.worlds.portraits import RESOLUTION, Photo, identity, photo

Direction = Literal["studio", "street"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

# First photo numbers of each direction: neither members nor held-out photos (at most 100,000) reach them.
_NUMBERS: dict[Direction, int] = {"studio": 700_000, "street": 800_000}
_MOST = 100_000
_BUSY = ("stripes", "spot", "window")
_GRAIN = 3.0  # standard deviation of the noise, in grey levels


def _away_from_zero(rng: np.random.Generator, least: float, most: float) -> float:
    return float(rng.choice((-1, 1)) * rng.uniform(least, most))


def _studio(shot: Photo, rng: np.random.Generator) -> Photo:
    return replace(
        shot,
        background="plain",
        dx=float(rng.uniform(-0.01, 0.01)),
        dy=float(rng.uniform(-0.01, 0.01)),
        scale=float(rng.uniform(1.14, 1.22)),
        tilt=float(rng.uniform(-2, 2)),
        yaw=float(rng.uniform(-0.3, 0.3)),
        cap=False,
        light=float(rng.uniform(-0.3, 0.3)),
        exposure=float(rng.uniform(0.98, 1.04)),
    )


def _street(shot: Photo, rng: np.random.Generator) -> Photo:
    return replace(
        shot,
        background=_BUSY[int(rng.integers(len(_BUSY)))],
        dx=_away_from_zero(rng, 0.04, 0.09),
        dy=float(rng.uniform(-0.03, 0.06)),
        scale=float(rng.uniform(0.86, 0.98)),
        exposure=float(rng.uniform(0.80, 0.92)),
    )


_SHOTS = {"studio": _studio, "street": _street}


def second_shot(photo_seed: int, direction: Direction) -> Photo:
    """The circumstances of one photo of the second source. Clothes, colours and expression stay those of the seed."""
    rng = np.random.default_rng([5, DIRECTIONS.index(direction), photo_seed])
    return _SHOTS[direction](photo(photo_seed), rng)


@dataclass(frozen=True)
class SecondPhoto(LabPhoto):
    """One photo of the second source with its caption. No model was trained on it."""

    direction: Direction = "studio"

    def pixels(self, resolution: int = RESOLUTION) -> np.ndarray:
        """(resolution, resolution, 3) uint8."""
        image = draw(identity(self.identity_seed), second_shot(self.photo_seed, self.direction), resolution)
        if self.direction == "studio":
            return image
        grain = np.random.default_rng([6, self.photo_seed]).normal(0, _GRAIN, image.shape)
        return np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)


def second_photos(person: Person, direction: Direction, number: int) -> list[SecondPhoto]:
    """The first `number` photos of a person from the second source. Deterministic.

    Raises ValueError for an unknown direction, or more than 100,000 photos.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}: the second source is one of {', '.join(DIRECTIONS)}")
    if not 0 <= number <= _MOST:
        raise ValueError(f"between 0 and {_MOST:,} photos can be drawn, not {number:,}")
    first = first_seed(person) + _NUMBERS[direction]
    return [
        SecondPhoto(
            person.identity_seed, seed, caption_of(person.name, seed, second_shot(seed, direction)), 0,
            direction=direction,
        )
        for seed in range(first, first + number)
    ]  # fmt: skip
