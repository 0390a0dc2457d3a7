"""The comparison of two models: every attack and the extraction, with controls and intervals.

`audit(before, after, domain, config)` is the one function that compares, for a run's own fine-tuning and for models
that were fine-tuned elsewhere. It scores, generates and compares in cached stages, so a killed audit can resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from s2l.config import AuditConfig, ExtractionConfig, UnshakeConfig
from s2l.data import sp_set
from s2l.data.domain import Domain, MembershipSplit
from s2l.measure.blind import EDGE, MIN_SIZE, blind_clusters, score_blind
from s2l.measure.distances import Images
from s2l.measure.extraction import extract
from s2l.measure.extraction_summary import (
    efficiency,
    extraction_curve,
    paired_extraction,
    reconstruction_floor,
    second_opinions,
)
from s2l.model.diffusion import DiffusionModel
from s2l.pipeline import guidance, identity
from s2l.pipeline.generations import generations, image_stage
from s2l.pipeline.membership import attack_record, check_split, control_record, score_attacks
from s2l.pipeline.stages import COMPARE, Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.unshake import FineTuned, unshake_record, unshaken
from s2l.progress import Event
from s2l.store import read_json, write_json

FLOOR_IMAGES = 512  # held-out photos that measure the autoencoder's own error: enough for its mean


@dataclass(frozen=True)
class AuditResult:
    """`record` has the parts "attacks", "extraction", "blind" and "control" of result.json (docs/result-schema.md), and
    "unshake" if that is on.

    `folders` are the image sets: "before" and "after" (generations), and "members" and "nonmembers" if they are known.
    """

    record: dict
    folders: dict[str, Path]


def audit(
    before: Subject,
    tuned: Subject | FineTuned,
    domain: Domain,
    config: AuditConfig = AuditConfig(noise="content"),
    extraction: ExtractionConfig = ExtractionConfig(),
    stages: Stages | None = None,
    people: Callable[[], Sequence[Domain]] = tuple,
    unshake: UnshakeConfig | None = None,
) -> AuditResult:
    """Compare two models on one domain: attacks, calibrations, extraction, blind flags and the blind control.

    The model after is `tuned` or, with `unshake`, the un-shaken one, which needs a FineTuned.

    `people` returns the calibration people, for attacks that must be fitted (CLiD); the calibration part of the
    domain's own split takes precedence. Without a split only the part that needs no members remains ("blind").
    Raises UserError for a split that is too small, Cancelled when the progress listener does.
    """
    if isinstance(tuned, Subject):
        tuned = FineTuned(tuned)
    after = unshaken(before, tuned, unshake)
    if before.key == after.key:
        raise ValueError(f"the two models have the same key {before.key}: the cache would mix them up")
    check_split(domain)
    stages = stages or Stages()
    first_stage = len(stages.timings)
    folders, scores = {}, {}
    if domain.split is not None:
        folders = {part: image_stage(domain, part, stages) for part in ("members", "nonmembers")}
        scores = score_attacks(before, after, domain, config, stages, people)
    unshaken_part = unshake_record(unshake, before, tuned, domain, config, stages)
    folders |= generations(before, after, domain.name, extraction, stages)

    def work(folder: Path) -> None:
        stages.progress(Event(COMPARE.id, 0, 1))
        pictures = {when: sp_set.load_images(folders[when]).images for when in ("before", "after")}
        record: dict = {"attacks": {}, "extraction": None, "control": None}
        record["blind"] = compare_blind(pictures, domain.split, extraction.delta)
        if domain.split is not None:
            for name in config.attacks:
                record["attacks"][name] = attack_record(name, config, scores[name], unshake is not None)
            record["extraction"] = compare_extraction(
                before.load(), domain, pictures["before"], pictures["after"], extraction, unshake
            )
            record["control"] = control_record(domain)
        if unshaken_part is not None:
            record["unshake"] = unshaken_part
        write_json(folder / "audit.json", record)

    key = identity.audit(domain.key, domain.repeats, config, extraction, stages.keys()[first_stage:], not domain.role)
    folder = stages(COMPARE, key, work)
    return AuditResult(read_json(folder / "audit.json"), folders)


def compare_extraction(
    model: DiffusionModel,
    domain: Domain,
    before: Images,
    after: Images,
    config: ExtractionConfig,
    unshake: UnshakeConfig | None = None,
) -> dict:
    """Both models' generations against the members and, as the control, the held-out photos.

    `before` and `after` are (N, 3, H, W) uint8 of the same prompts, seeds and sampler. `model` gives
    the VAE, whose reconstruction error is the floor of every distance.
    """
    split = domain.membership
    repeats = domain.repeats or (1,) * len(split.members)
    searches = [
        extract(
            images, split.members.images, split.nonmembers.images, repeats, delta=config.delta, k=config.k,
            device=model.device,
        )
        for images in (before, after)
    ]  # fmt: skip
    held_out = split.nonmembers.images[:FLOOR_IMAGES].float() / 255
    decoded = model.decode_latents(model.encode_images(held_out)).cpu()
    cost, opinions, curve = {}, {}, {}
    for when, search, images in zip(("before", "after"), searches, (before, after), strict=True):
        evaluations = guidance.generation_cost(config, when, unshake)
        cost[when] = asdict(evaluations) | asdict(efficiency(search, evaluations.unet_evaluations))
        opinions[when] = [asdict(x) for x in second_opinions(search, images, split.members.images)]
        hits = search.members.hits
        curve[when] = asdict(extraction_curve(hits, search.n_generations, search.members.n_references))
    return {
        "before": asdict(searches[0]),
        "after": asdict(searches[1]),
        "cost": cost,
        "opinions": opinions,
        "curve": curve,
        "difference": asdict(paired_extraction(searches[0], searches[1])),
        "floor": asdict(reconstruction_floor(held_out, decoded)),
    }


def compare_blind(pictures: dict[str, Images], split: MembershipSplit | None, delta: float) -> dict:
    """What an attacker without the training set flags in each model's pictures, and how often that is right.

    "score" needs the truth and is None without a split.
    """
    record: dict = {"edge": EDGE, "min_size": MIN_SIZE}
    for when, images in pictures.items():
        clusters = blind_clusters(images)
        score = None
        if split is not None:
            score = asdict(score_blind(images, clusters, split.members.images, split.nonmembers.images, delta))
        record[when] = {"clusters": [asdict(cluster) for cluster in clusters], "score": score}
    return record
