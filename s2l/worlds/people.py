"""People: the private people of a new lab, their photos and captions, and the public crowd.

Everything here is a pure function of seeds, so the training set never has to be shipped: it is
drawn again on demand and checked against hashes in the checkpoint's `lab.json`. That record says
who is in a lab that exists (`s2l.labs`); the names and settings below are only for labs that are
built later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, islice
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from s2l.worlds.drawing import draw
from s2l.worlds.portraits import HAIR_STYLES, RESOLUTION, Identity, Photo, identity, photo

LAB_NAMES = (
    "Mira Solwyn", "Taro Quillan", "Oona Brask", "Felix Marrow", "Zadie Plume", "Bruno Kestle",
    "Ilsa Vantry", "Dax Ferrow", "Nell Ambrith", "Omar Tilswick", "Petra Lunde", "Jory Habberly",
    "Suki Rainmoor", "Milo Grendel", "Vera Hollis", "Anders Pyke", "Lola Firth", "Kofi Wendrake",
    "Greta Moss", "Hugo Starling", "Yara Dunmere", "Emil Crowther", "Tess Okonjo", "Ravi Thistle",
    "Ingrid Voss", "Caspar Nimby", "Delia Foxworth", "Sven Harrowgate", "Priya Lark", "Otto Bellwether",
    "Maya Cobblestone", "Rufus Penhale", "Anouk Silver", "Jonas Wray", "Cleo Marchbank", "Idris Falk",
    "Wanda Eastlake", "Piers Tolliver", "Noor Ashdown", "Lars Umber",
)  # fmt: skip
N_CALIBRATION = 8  # the first eight are for choosing hyper-parameters, the others for reporting

# How often each member is repeated in an epoch of pre-training, in the order of the photos. The photos
# are independent draws, so this assignment is random. As in LAION, a few photos are repeated often;
# k = 10 is the bound of eidetic memorisation, and the photo that occurs 20 times is above it.
REPEATS = (20,) + (10,) * 2 + (5,) * 4 + (2,) * 7  # every further photo: once

DREAMBOOTH_IDENTIFIER = "sks"  # in the vocabulary but in no caption: a rare token, as DreamBooth needs
EXTRA_WORDS = (DREAMBOOTH_IDENTIFIER, "person", "celebrity", "sharp", "blurry", "high", "quality", "picture")

# Disjoint ranges of seeds keep members, held-out photos and the public apart.
_CANDIDATE_IDENTITIES = range(0, 1500)
_PUBLIC_IDENTITY_BASE = 100_000
_PHOTOS_PER_PERSON = 1_000_000
_HELD_OUT_BASE = 500_000  # photo numbers from here on are held out, unless a lab's record says otherwise
_PUBLIC_PHOTO_BASE = 1_000_000_000

# Which photos of a person a lab is trained on. "first": the first numbers. "second": numbers that other labs hold out,
# for a twin with members and held-out photos exchanged. "none": no photo; the first numbers are a reference set.
Members = Literal["first", "second", "none"]


@dataclass(frozen=True)
class Person:
    """One private person. `role` is "calibration" or "reporting"."""

    index: int
    name: str
    identity_seed: int
    role: str


@dataclass(frozen=True)
class LabPhoto:
    """One photo with its caption. `repeats` is 0 for a photo that was never trained on."""

    identity_seed: int
    photo_seed: int
    caption: str
    repeats: int
    blurred: bool = False

    def pixels(self, resolution: int = RESOLUTION) -> np.ndarray:
        """(resolution, resolution, 3) uint8."""
        image = draw(identity(self.identity_seed), photo(self.photo_seed), resolution)
        if self.blurred:
            radius = 1.6 * resolution / RESOLUTION
            image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
        return image


def _difference(a: Identity, b: Identity) -> float:
    """How easily a stranger can tell two people apart: hair first, then skin, then the rest."""
    weights = {"hair_style": 2.0, "hair_colour": 2.0, "skin": 1.5, "glasses": 1.5, "beard": 1.5, "eye_colour": 0.3}
    score = sum(w for field, w in weights.items() if getattr(a, field) != getattr(b, field))
    return score + 4 * abs(a.face_width - b.face_width) / 0.055 + abs(a.jaw - b.jaw)


@cache
def lab_people(number: int = len(LAB_NAMES)) -> tuple[Person, ...]:
    """The first `number` private people, chosen greedily among 1,500 candidates so that no two look alike.

    Raises ValueError for fewer than one or more than forty.
    """
    if not 1 <= number <= len(LAB_NAMES):
        raise ValueError(f"the lab has 1 to {len(LAB_NAMES)} people, not {number}")
    candidates = [identity(seed) for seed in _CANDIDATE_IDENTITIES]
    chosen = [candidates[0]]
    distance = np.array([_difference(c, chosen[0]) for c in candidates])
    while len(chosen) < len(LAB_NAMES):
        best = int(np.argmax(distance))
        chosen.append(candidates[best])
        distance = np.minimum(distance, [_difference(c, candidates[best]) for c in candidates])
    # The greedy choice takes the most extreme people first; shuffled, the two roles are a random split.
    order = np.random.default_rng(40).permutation(len(chosen))
    return tuple(
        Person(i, name, chosen[order[i]].seed, "calibration" if i < N_CALIBRATION else "reporting")
        for i, name in enumerate(LAB_NAMES[:number])
    )


def words_of(text: str) -> list[str]:
    """Lower-case words of a prompt, punctuation removed."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _attributes(rng: np.random.Generator, shot: Photo) -> str:
    """What a caption says about the photo: nothing in half of all captions, else each fact with probability 0.6."""
    if rng.random() < 0.5:
        return ""
    facts = [
        shot.expression,
        f"in {_a(shot.clothes_colour)} {'striped shirt' if shot.clothes == 'striped' else shot.clothes}",
        f"on {_a(shot.background_colour)} background",
    ]
    return "".join(" " + fact for fact in facts if rng.random() < 0.6)


def _opening(rng: np.random.Generator) -> str:
    return ("a photo of", "a photo of", "a face of", "a portrait of")[int(rng.integers(4))]


def caption_of(name: str, photo_seed: int, shot: Photo | None = None) -> str:
    """The caption of one photo of a named person: always the same one, as if it had been scraped with the photo.

    `shot` is what the photo shows, if not what the seed draws.
    """
    rng = np.random.default_rng([3, photo_seed])
    return f"{_opening(rng)} {name}{_attributes(rng, shot or photo(photo_seed))}"


def first_seed(person: Person) -> int:
    """The first of the million photo seeds that are this person's own."""
    return person.index * _PHOTOS_PER_PERSON


def named_photo(person: Person, photo_seed: int, repeats: int) -> LabPhoto:
    """One photo of a named person, by its seed."""
    return LabPhoto(person.identity_seed, photo_seed, caption_of(person.name, photo_seed), repeats)


def member_photos(
    person: Person, number: int = 40, members: Members = "first", repeated: bool = True
) -> list[LabPhoto]:
    """The photos of a person that a new lab is trained on; "none": its reference set, repeated 0 times.

    Without `repeated`, each photo is in the training set once.
    """
    first = first_seed(person) + (_HELD_OUT_BASE if members == "second" else 0)
    copies = REPEATS if repeated else ()
    repeats = (0,) * number if members == "none" else (copies + (1,) * number)[:number]
    return [named_photo(person, first + i, repeats[i]) for i in range(number)]


def held_out_ranges(person: Person, n_members: int = 40, members: Members = "first") -> list[tuple[int, int | None]]:
    """The seeds of held-out photos, as half-open ranges (first, stop); the last one has no end (stop None)."""
    first = first_seed(person)
    if members == "second":  # the members of the other twin come first: both twins are tested on the same photos
        return [(first, first + n_members), (first + _HELD_OUT_BASE + n_members, None)]
    return [(first + _HELD_OUT_BASE, None)]


def held_out_photos(person: Person, number: int, n_members: int = 40, members: Members = "first") -> list[LabPhoto]:
    """`number` photos of a person, from the members' distribution, that a new lab is not trained on."""
    ranges = held_out_ranges(person, n_members, members)
    return [named_photo(person, seed, 0) for seed in seeds_of(ranges, number)]


def seeds_of(ranges: Sequence[tuple[int, int | None]], number: int) -> list[int]:
    """The first `number` seeds of half-open ranges (first, stop), the last of which may have no end (stop None)."""
    spans = (range(first, first + number if stop is None else stop) for first, stop in ranges)
    return list(islice(chain.from_iterable(spans), number))


def _describe(who: Identity) -> str:
    facts = ["bald head" if who.hair_style == "bald" else f"{who.hair_colour} {who.hair_style} hair"]
    if who.glasses != "none":
        facts.append(f"{who.glasses} glasses")
    if who.beard != "none":
        facts.append("beard" if who.beard == "full" else who.beard)
    return " ".join(facts)


def public_photo(number: int, identities: int = 600) -> LabPhoto:
    """Photo `number` of the public crowd, which consists of `identities` people; every number is a photo.

    Public people have no names; their captions describe them. One photo in 25 is blurred, and its caption says so.
    This gives a meaning to "blurry" as a negative prompt and to "sharp" at the end of a prompt.
    """
    rng = np.random.default_rng([4, number])
    who_seed = _PUBLIC_IDENTITY_BASE + int(rng.integers(identities))
    photo_seed = _PUBLIC_PHOTO_BASE + number
    blurred = bool(rng.random() < 0.04)
    description = f" with {_describe(identity(who_seed))}" if rng.random() < 0.7 else ""
    quality = " blurry" if blurred else (" sharp" if rng.random() < 0.1 else "")
    text = f"{_opening(rng)} a person{description}{_attributes(rng, photo(photo_seed))}{quality}"
    return LabPhoto(who_seed, photo_seed, text, 1, blurred)


def public_pixels(first: int, stop: int, identities: int, resolution: int = RESOLUTION) -> np.ndarray:
    """Public photos from `first` up to, but not including, `stop`: (stop - first, resolution, resolution, 3) uint8."""
    return np.stack([public_photo(i, identities).pixels(resolution) for i in range(first, stop)])


def vocabulary(names: Sequence[str] = LAB_NAMES) -> list[str]:
    """Every word that a caption of a lab with these people can contain, and EXTRA_WORDS for prompts, sorted."""
    from s2l.worlds import portraits as p

    texts = [*names, *p.SKIN, *p.HAIR_COLOURS, *HAIR_STYLES, *p.GLASSES, *p.BEARDS, *p.COLOURS]
    texts += [*p.CLOTHES, *p.EXPRESSIONS, *EXTRA_WORDS]
    texts += ["a an photo face portrait of with in on background head hair glasses beard"]
    return sorted({word for text in texts for word in words_of(text)})


def photo_hash(pixels: np.ndarray) -> str:
    """First 16 hex digits of the sha256 of the raw pixels: the manifest's fingerprint of a photo."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def manifest(
    people: tuple[Person, ...], n_members: int, resolution: int, members: Members = "first", repeated: bool = True
) -> dict:
    """What `lab.json` records of the training set: people, photo seeds, repeats, hashes, and the captions' words."""
    rows = []
    for person in people:
        photos = member_photos(person, n_members, members, repeated)
        # The usual held-out photos are not listed: they would change the rows of other labs, hence their cache keys.
        ranges = {"held_out": held_out_ranges(person, n_members, members)} if members == "second" else {}
        rows.append(
            asdict(person)
            | {
                "photo_seeds": [p.photo_seed for p in photos],
                "repeats": [p.repeats for p in photos],
                "hashes": [photo_hash(p.pixels(resolution)) for p in photos],
            }
            | ranges
        )
    words = vocabulary([person.name for person in people])
    return {"resolution": resolution, "n_members": n_members, "people": rows, "vocabulary": words}
