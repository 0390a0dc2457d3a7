"""How the choice of held-out photos changes an audit: scores of a fair split and of a second source on two models.

For a person of a lab the second source is drawn (s2l/worlds/second.py); for photos of one's own it is a folder
(s2l/pipeline/folders.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from s2l.config import AuditConfig, RunConfig
from s2l.data.domain import Domain
from s2l.data.lab_domain import second_source_domain
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.measure.control import BlindControl
from s2l.measure.split import blind_at_shares
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import calibration_people, model_record, shaken, versions
from s2l.pipeline.folders import Parts, PartScores, images_of
from s2l.pipeline.membership import score_attacks
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.progress import Progress, silent
from s2l.store import Store
from s2l.worlds.second import DIRECTIONS


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
    members = domain.membership.members
    fair, never = (images_of(domain, parts, part) for part in ("fair", "never"))
    blind: dict[str, dict[str, list[BlindControl]]] = {}
    for direction in DIRECTIONS:
        second = images_of(domain, parts, direction)
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
