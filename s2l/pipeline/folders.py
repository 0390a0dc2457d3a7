"""Two folders of photos, and perhaps a third of a second source: what tells them apart without any model.

Loads no model, so that a check of two folders takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from s2l.config import DomainConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit, folder_domain
from s2l.data.folder_report import alike_line, folder_lines
from s2l.data.photos import read_photos
from s2l.data.reencode import SIDES
from s2l.errors import UserError
from s2l.keys import key_of
from s2l.measure.control import BlindControl, blind_control
from s2l.measure.fine import FineControl, fine_control
from s2l.measure.split import SHARES, AtShare, at_shares, blind_at_shares
from s2l.record import BOTH
from s2l.worlds.people import photo_hash

Parts = Mapping[str, slice]  # where the domain's held-out photos of each kind lie
PartScores = dict[str, dict[str, np.ndarray]]  # {"before" or "after": {"members" or a part: scores (N,)}}


def both(scores: Mapping[str, Mapping], part: str) -> tuple:
    """A part's scores (before, after)."""
    return tuple(scores[when][part] for when in BOTH)


def images_of(domain: Domain, parts: Parts, part: str) -> ImageSet:
    """The held-out photos of one part; their pixels are not copied."""
    held_out, where = domain.membership.nonmembers, parts[part]
    return ImageSet(held_out.images[where], held_out.captions[where], held_out.ids[where])


def folders_domain(config: DomainConfig, second: str | None, resolution: int) -> tuple[Domain, dict[str, slice]]:
    """Members and held-out photos from two folders, those of the second source behind the latter.

    A second-source photo that is also in one of the two other folders is left out, and a note says so.
    Raises UserError for folders without usable photos, or with fewer than two.
    """
    domain = folder_domain(config, resolution)
    members, fair = domain.membership.members, domain.membership.nonmembers
    parts = {"fair": slice(0, len(fair))}
    sets = {"members": members, "held-out photos": fair}
    if second is not None:
        caption = f"a photo of {config.name}"
        photos = read_photos(second, resolution, caption, config.n_nonmembers, config.seed, what="second-source photos")
        known = {photo_hash(image.permute(1, 2, 0).numpy()) for image in domain.membership.all().images}
        new = [i for i, content in enumerate(photos.hashes) if content not in known]
        others = ImageSet(photos.images, photos.captions, photos.names).subset(new)
        notes = (*domain.notes, *photos.notes)
        if len(new) < len(photos.hashes):
            notes += (f"{len(photos.hashes) - len(new)} second-source photos are in another folder too: left out",)
        sets["second-source photos"] = others
        parts["second"] = slice(len(fair), len(fair) + len(others))
        key = key_of("second folder", domain.key, photos.hashes, photos.captions)
        split = MembershipSplit(members, fair + others)
        domain = replace(domain, split=split, key=key, notes=notes)
    for what, images in sets.items():
        if len(images) < 2:
            raise UserError(f"at least 2 {what} are needed to compare them, not {len(images)}")
    return domain, parts


def shares_of(parts: Parts) -> tuple[float, ...]:
    """The shares that can be mixed: all, or only the fair split if there is no second source."""
    return SHARES if "second" in parts else SHARES[:1]


@dataclass(frozen=True)
class Checked:
    """What tells members from held-out photos without any model.

    blind        the blind control at each share of the second source
    fine         the blind control at the finest scale
    differences  how the files differ, from the report of the folders
    report       that report's record
    """

    blind: list[BlindControl]
    fine: FineControl
    differences: tuple[str, ...]
    report: dict

    @property
    def lines(self) -> list[str]:
        """The report of the folders as text, and how far their files are alike where it names no difference."""
        return folder_lines(self.report) + ([] if self.differences else [alike_line(self.report)])

    @property
    def ways(self) -> list[str]:
        """What gives the split itself away, in words; empty for one that looks fair."""
        fine = [f"{self.fine.reason} at the finest scale of pixels"] if self.fine.differ else []
        return fine + (["content or captions"] if self.blind[0].confounded else [])

    def record(self) -> dict:
        """As JSON holds it."""
        return {"blind": [asdict(each) for each in self.blind], "fine": asdict(self.fine), "report": self.report}


def compare_folders(domain: Domain, parts: Parts) -> Checked:
    """Both blind controls and the report of the folders of `folders_domain`."""
    fair, second = (images_of(domain, parts, part) for part in ("fair", _second(parts)))
    members, report = domain.membership.members, domain.report
    if "second" in parts:
        blind = blind_at_shares(members, fair, second, shares_of(parts))
    else:
        blind = [blind_control(domain.membership)]
    fine = fine_control(MembershipSplit(members, fair))
    return Checked(blind, fine, report.differences if report else (), report.record() if report else {})


def in_folder(config: DomainConfig, out: Path) -> DomainConfig:
    """The same settings for the two re-encoded folders in `out`."""
    return config.model_copy(update={side: str(out / side) for side in SIDES})


def attacks_of(scores: Mapping[str, PartScores], parts: Parts, confidence: float) -> dict[str, list[AtShare]]:
    """Each attack at each share."""
    shares, second = shares_of(parts), _second(parts)
    return {
        name: at_shares(both(own, "members"), both(own, "fair"), both(own, second), shares, confidence)
        for name, own in scores.items()
    }


def _second(parts: Parts) -> str:
    return "second" if "second" in parts else "fair"
