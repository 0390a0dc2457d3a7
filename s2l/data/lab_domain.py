"""The people of a lab as domains: members checked against the hashes of the training run, and held-out photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from s2l.config import DomainConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.keys import key_of
from s2l.labs import Lab
from s2l.worlds.people import LabPhoto, photo_hash
from s2l.worlds.second import DIRECTIONS, second_photos

CALIBRATION_HELD_OUT = 100  # per calibration person; with eight of them, 1 % FPR is eight photos
REFERENCE_SET = (
    "the lab {lab} was trained on no photo of {name}: the photos called members are a reference set, judged as if they "
    "were members"
)


def photos_as_images(photos: Sequence[LabPhoto], resolution: int) -> ImageSet:
    """The photos with their captions, by their seeds."""
    pixels = np.stack([p.pixels(resolution) for p in photos])
    return ImageSet(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        tuple(p.caption for p in photos),
        tuple(str(p.photo_seed) for p in photos),
    )


def lab_domain(lab: Lab, config: DomainConfig) -> Domain:
    """A person of the lab. If the lab was trained on none of their photos, the reference set takes the members' place.

    Raises UserError for an unknown name, RuntimeError when the photos drawn here are not those of the record.
    """
    person = lab.person(config.name)
    photos, hashes, sample = person.members(), list(person.hashes), None
    if config.n_members is not None:
        # At random, because the first ones were repeated most.
        sample = sorted(np.random.default_rng(config.seed).permutation(len(photos))[: config.n_members].tolist())
        photos, hashes = [photos[i] for i in sample], [hashes[i] for i in sample]
    members = photos_as_images(photos, lab.resolution)
    if [photo_hash(image.permute(1, 2, 0).numpy()) for image in members.images] != hashes:
        raise RuntimeError(
            f"the photos of {person.name} drawn here differ from those in the lab's record: "
            "another version of Pillow draws differently; install the pinned requirements"
        )
    domain = Domain(
        name=person.name,
        split=MembershipSplit(members, photos_as_images(person.held_out(config.n_nonmembers), lab.resolution)),
        repeats=tuple(p.repeats for p in photos),
        role=person.role,
        key=key_of("lab", lab.resolution, person.row, sample, config.n_nonmembers),
        notes=() if person.trained else (REFERENCE_SET.format(lab=lab.name, name=person.name),),
    )
    return domain.with_calibration(config.calibration_share, config.seed) if config.calibration_share else domain


def second_source_domain(lab: Lab, config: DomainConfig) -> tuple[Domain, dict[str, slice]]:
    """A person's domain whose held-out photos are followed by those that a doubtful audit uses, and what lies where.

    The slices are of the domain's held-out photos: "fair" (the `n_nonmembers` of `lab_domain`), "never" (as many more
    as there are members, to stand in their place), then as many photos as "fair" in each direction of the second
    source. A calibration part is not set aside. Raises UserError for an unknown name.
    """
    n = config.n_nonmembers
    plain = config.model_copy(update={"calibration_share": 0.0})
    n_members = config.n_members or lab.n_members
    domain = lab_domain(lab, plain.model_copy(update={"n_nonmembers": n + n_members}))
    photos, parts = domain.membership.nonmembers, {"fair": slice(0, n), "never": slice(n, n + n_members)}
    for direction in DIRECTIONS:
        parts[direction] = slice(len(photos), len(photos) + n)
        photos = photos + photos_as_images(second_photos(lab.person(config.name), direction, n), lab.resolution)
    split = MembershipSplit(domain.membership.members, photos)
    drawn = [photo_hash(image.permute(1, 2, 0).numpy()) for image in photos.images]  # another drawing, another key
    return replace(domain, split=split, key=key_of("second source", domain.key, drawn)), parts


def calibration_domains(lab: Lab, name: str) -> list[Domain]:
    """The lab's calibration people except the one under test."""
    others = [other for other in lab.names("calibration") if other.lower() != name.lower()]
    return [lab_domain(lab, DomainConfig(name=other, n_nonmembers=CALIBRATION_HELD_OUT)) for other in others]


def protected_photos(lab: Lab) -> ImageSet:
    """Every private photo that the lab's model was trained on, person by person: what its owner wants to protect."""
    return photos_as_images(
        [photo for person in lab.people if person.trained for photo in person.members()], lab.resolution
    )
