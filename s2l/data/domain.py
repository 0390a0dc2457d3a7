"""Whose photos are at stake: image sets, the member / non-member split, and domains.

A domain is a name that prompts can contain (a person, a style, an object), the images of it that
the model was pre-trained on (members) and images from the same distribution that it was not
(non-members). A lab knows both exactly (lab_domain.py); for a checkpoint of your own they come as folders.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from s2l.config import DomainConfig
from s2l.data.folder_report import FolderReport, folder_report
from s2l.data.photos import gather, join, read_photos
from s2l.errors import UserError
from s2l.keys import key_of

# The people in the Shake-to-Leak paper: its published list, which has 40 entries and one name twice.
PAPER_DOMAINS = (
    "Barack Obama", "Justin Bieber", "Rihanna", "Lady Gaga", "Katy Perry", "Taylor Swift", "Beyoncé", "Lionel Messi",
    "Cristiano Ronaldo", "Kim Kardashian", "Kanye West", "Jennifer Lopez", "Brad Pitt", "Angelina Jolie",
    "LeBron James", "Selena Gomez", "Miley Cyrus", "Jay-Z", "Adele", "Ellen DeGeneres", "Oprah Winfrey", "Tom Cruise",
    "Johnny Depp", "Leonardo DiCaprio", "Shakira", "Mark Zuckerberg", "Steve Jobs", "Bill Gates", "Stephen Hawking",
    "Elon Musk", "Jeff Bezos", "Britney Spears", "David Beckham", "Cristiano Ronaldo", "Joe Biden", "Roger Federer",
    "Serena Williams", "Tiger Woods", "Usain Bolt", "Vladimir Putin",
)  # fmt: skip

DIFFER = "the folders differ in how files were saved"


@dataclass(frozen=True)
class ImageSet:
    """N images with one caption and one id each. `images` is (N, 3, H, W) uint8."""

    images: torch.Tensor
    captions: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self):
        n = len(self.images)
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be (N, 3, H, W) uint8, not {tuple(self.images.shape)} {self.images.dtype}")
        if len(self.captions) != n or len(self.ids) != n:
            raise ValueError(f"{n} images need {n} captions and ids, not {len(self.captions)} and {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.images)

    def floats(self) -> torch.Tensor:
        """(N, 3, H, W) float32 in [0, 1]."""
        return self.images.float() / 255

    def __add__(self, other: ImageSet) -> ImageSet:
        """These images, then those of another set. ValueError when their sizes in pixels differ."""
        return ImageSet(join(self.images, other.images), self.captions + other.captions, self.ids + other.ids)

    def subset(self, indices) -> ImageSet:
        indices = [int(i) for i in indices]
        return ImageSet(
            gather(self.images, indices), tuple(self.captions[i] for i in indices), tuple(self.ids[i] for i in indices)
        )


@dataclass(frozen=True)
class MembershipSplit:
    """Members and non-members of one domain, meant to be a random split of one distribution.

    `calibration` is the part of both that was set aside to choose thresholds and weights on. It is disjoint from
    `members` and `nonmembers`, which are the part to report on.
    """

    members: ImageSet
    nonmembers: ImageSet
    calibration: MembershipSplit | None = None

    def set_aside(self, share: float, seed: int) -> tuple[MembershipSplit, list[int]]:
        """A seeded random split of both into a calibration part of `share` and a test part.

        Returns the test part, which holds the calibration part, and the positions of its members in the old ones.
        Raises UserError when a part would hold fewer than 2 members or non-members.
        """
        rng = np.random.default_rng(seed)
        parts = []
        for images, what in ((self.members, "members"), (self.nonmembers, "non-members")):
            order, n = rng.permutation(len(images)), round(share * len(images))
            if min(n, len(images) - n) < 2:
                raise UserError(
                    f"a calibration share of {share:g} leaves {n} of {len(images)} {what} for calibration and "
                    f"{len(images) - n} for the test: at least 2 are needed for each"
                )
            parts.append((images, np.sort(order[:n]), np.sort(order[n:])))
        (members, a, b), (nonmembers, c, d) = parts
        aside = MembershipSplit(members.subset(a), nonmembers.subset(c))
        test = MembershipSplit(members.subset(b), nonmembers.subset(d))
        return replace(test, calibration=aside), parts[0][2].tolist()

    def all(self) -> ImageSet:
        """Members first, then non-members: the order of every score array in a result."""
        return self.members + self.nonmembers


@dataclass(frozen=True)
class Domain:
    """A person (or style, or object) and their photos. `split` is None if the members are not known: then no ROC."""

    name: str
    split: MembershipSplit | None
    repeats: tuple[int, ...] = ()  # how often each member was repeated in pre-training; () if unknown
    role: str = ""  # "calibration" or "reporting" in a lab
    key: str = ""  # names this domain's data in cache keys
    notes: tuple[str, ...] = field(default=())  # what was skipped or looks wrong, for the report
    report: FolderReport | None = None  # of the two folders; None for a lab

    @property
    def membership(self) -> MembershipSplit:
        """The split. Raises UserError if the members are not known."""
        if self.split is None:
            raise UserError("which photos was the model trained on? Give both folders, --members and --nonmembers")
        return self.split

    def with_calibration(self, share: float, seed: int) -> Domain:
        """The domain with `share` of its photos set aside for calibration (`MembershipSplit.set_aside`)."""
        split, kept = self.membership.set_aside(share, seed)
        repeats = tuple(self.repeats[i] for i in kept) if self.repeats else ()
        return replace(self, split=split, repeats=repeats, key=key_of("test part", self.key, share, seed))

    def calibration(self) -> Domain | None:
        """The part set aside as a domain of its own, or None."""
        if self.split is None or self.split.calibration is None:
            return None
        name = f"{self.name}, calibration part"
        return Domain(name, self.split.calibration, key=key_of("calibration part", self.key))


# --- photos of your own -----------------------------------------------------------------------


def load_folder(source: str | Path, resolution: int, default_caption: str) -> tuple[ImageSet, list[str]]:
    """All photos of a folder or a list (.jsonl, .csv, .parquet) as squares, and notes on what could not be used.

    Raises UserError when nothing usable is there.
    """
    photos = read_photos(source, resolution, default_caption, what="")  # no notes on captions: the caller chose them
    return ImageSet(photos.images, photos.captions, photos.names), list(photos.notes)


def folder_domain(config: DomainConfig, resolution: int) -> Domain:
    """A domain from two folders or lists; without them `split` is None. A sample of them is all that is decoded."""
    if config.members is None and config.nonmembers is None:
        return Domain(config.name, None, key=key_of("name", config.name))
    if config.members is None or config.nonmembers is None:
        raise UserError("give both folders, --members and --nonmembers, or neither")
    if Path(config.members).exists() and Path(config.members).resolve() == Path(config.nonmembers).resolve():
        raise UserError(f"{config.members} is given twice: members are photos that the model was trained on, held-out "
                        "photos are others")  # fmt: skip
    caption = f"a photo of {config.name}"
    inside = read_photos(config.members, resolution, caption, config.n_members, config.seed, what="members")
    known = frozenset(inside.hashes)
    outside = read_photos(
        config.nonmembers, resolution, caption, config.n_nonmembers, config.seed, known, "held-out photos"
    )
    members, nonmembers = (ImageSet(p.images, p.captions, p.names) for p in (inside, outside))
    report = folder_report(inside, outside)
    notes = inside.notes + outside.notes
    if copies := report.near_copies.count:
        first, second = report.near_copies.pairs[0]
        notes += (f"{copies} held-out photos are near-copies of members, such as {first} of {second}",)
    notes += tuple(f"{DIFFER}: {each}" for each in report.differences)
    content = [inside.hashes, outside.hashes, members.captions, nonmembers.captions]
    key = key_of("folder", config.name, resolution, *content)
    domain = Domain(config.name, MembershipSplit(members, nonmembers), key=key, notes=notes, report=report)
    return domain.with_calibration(config.calibration_share, config.seed) if config.calibration_share else domain
