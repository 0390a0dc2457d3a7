"""How the choice of held-out photos changes an audit: scores of a fair split and of a second source on two models.

For a person of a lab the second source is drawn (s2l/worlds/second.py); for photos of one's own it is a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from s2l.config import AuditConfig, DomainConfig, RunConfig
from s2l.data.domain import Domain, ImageSet, MembershipSplit, folder_domain
from s2l.data.lab_domain import second_source_domain
from s2l.data.photos import read_photos
from s2l.errors import UserError
from s2l.keys import key_of
from s2l.labs import find_lab
from s2l.measure.control import BlindControl
from s2l.measure.split import SHARES, AtShare, at_shares, blind_at_shares
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import calibration_people, model_record, shaken, versions
from s2l.pipeline.membership import score_attacks
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.progress import Progress, silent
from s2l.record import BOTH
from s2l.store import Store
from s2l.worlds.people import photo_hash
from s2l.worlds.second import DIRECTIONS

Parts = Mapping[str, slice]  # where the domain's held-out photos of each kind lie
PartScores = dict[str, dict[str, np.ndarray]]  # {"before" or "after": {"members" or a part: scores (N,)}}


def part_scores(
    before: Subject,
    after: Subject,
    domain: Domain,
    parts: Parts,
    config: AuditConfig,
    stages: Stages,
    people: Callable[[], Sequence[Domain]] = tuple,
) -> dict[str, PartScores]:
    """{attack: scores of the members and of each part of the held-out photos}, before and after, higher = member."""
    scored = score_attacks(before, after, domain, config, stages, people)
    pairs = {name: {"before": each.before, "after": each.after} for name, each in scored.items()}
    return {
        name: {
            when: {"members": pair[0]} | {part: pair[1][where] for part, where in parts.items()}
            for when, pair in both.items()
            if pair is not None
        }
        for name, both in pairs.items()
    }


def both(scores: Mapping[str, Mapping], part: str) -> tuple:
    """A part's scores (before, after)."""
    return tuple(scores[when][part] for when in BOTH)


def _images(domain: Domain, parts: Parts, part: str) -> ImageSet:
    held_out = domain.membership.nonmembers
    return held_out.subset(range(len(held_out))[parts[part]])


def run_split(
    config: RunConfig, store: Store | None = None, runtime: Runtime = Runtime(), progress: Progress = silent
) -> dict:
    """Shake the model for one person of a lab and score members, held-out photos and both second sources.

    Returns what a cell of the table `split` holds besides its name: "scores" {attack: PartScores} with the parts
    "fair", "never", "studio" and "street", and "blind" {direction: {"members", "never": a list of BlindControl, one per
    share}}. The SP set and the fine-tuned weights are those of `run` with the same settings.
    Raises UserError for a model that is not a lab.
    """
    lab = find_lab(config.model)
    if lab is None:
        raise UserError("only the people of a lab have a second source that can be drawn", field="model")
    stages = Stages(store, progress)
    domain, parts = second_source_domain(lab, config.domain)
    model, tuned = shaken(config, stages, runtime)
    people = partial(calibration_people, config.domain, config.model)
    scores = part_scores(Subject.of(model), tuned.subject, domain, parts, config.audit, stages, people)
    members, fair, never = domain.membership.members, _images(domain, parts, "fair"), _images(domain, parts, "never")
    blind: dict[str, dict[str, list[BlindControl]]] = {}
    for direction in DIRECTIONS:
        second = _images(domain, parts, direction)
        blind[direction] = {
            who: blind_at_shares(photos, fair, second) for who, photos in (("members", members), ("never", never))
        }
    return {
        "model": model_record(config.model, model),
        "role": domain.role,
        "n_members": len(members),
        "n_nonmembers": len(fair),
        "scores": scores,
        "blind": blind,
        "stages": stages.total(),
        "versions": versions(),
    }


# --- folders of one's own ---------------------------------------------------------------------------------------------


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


def blind_of(domain: Domain, parts: Parts) -> list[BlindControl]:
    """The blind control at each share."""
    fair, second = (_images(domain, parts, part) for part in ("fair", _second(parts)))
    return blind_at_shares(domain.membership.members, fair, second, shares_of(parts))


def attacks_of(scores: Mapping[str, PartScores], parts: Parts, confidence: float) -> dict[str, list[AtShare]]:
    """Each attack at each share."""
    shares, second = shares_of(parts), _second(parts)
    return {
        name: at_shares(both(own, "members"), both(own, "fair"), both(own, second), shares, confidence)
        for name, own in scores.items()
    }


def _second(parts: Parts) -> str:
    return "second" if "second" in parts else "fair"
