"""What a comparison of two models says: every attack and the extraction, with controls and intervals.

`audit(before, after, domain, config)` is the one function that judges, for a run's own fine-tuning and for models
that come from elsewhere. It scores, generates and compares in cached stages, so a killed audit goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from s2l import attacks
from s2l.attacks.calibration import Combination, are_distances, shake_calibrated
from s2l.config import AuditConfig, ExtractionConfig
from s2l.data import sp_set
from s2l.data.domain import Domain, ImageSet, MembershipSplit
from s2l.errors import UserError
from s2l.measure import intervals, metrics
from s2l.measure.blind import EDGE, MIN_SIZE, blind_clusters, score_blind
from s2l.measure.control import blind_control
from s2l.measure.distances import Images
from s2l.measure.extraction import (
    efficiency,
    extract,
    extraction_curve,
    paired_extraction,
    reconstruction_floor,
    second_opinions,
)
from s2l.model.diffusion import DiffusionModel
from s2l.pipeline import guidance, identity
from s2l.pipeline import stages as declared
from s2l.pipeline.stages import COMPARE, SEEDS, Stages
from s2l.progress import Event
from s2l.store import read_json, write_json

TOP_EXPOSED = 10
FLOOR_IMAGES = 512  # held-out photos that measure the autoencoder's own error: enough for its mean
FPRS = (0.1, 0.01, 0.001)

Pair = tuple[np.ndarray, np.ndarray]  # scores of members (N,) and non-members (M,), higher = member


@dataclass(frozen=True)
class Subject:
    """One of the two models. Different weights need different keys.

    key      names the weights in the cache
    load     gives the model when something is missing there: an audit from the cache loads none
    caption  what the attacker writes for a caption: after some methods a token stands for the name
    """

    key: str
    load: Callable[[], DiffusionModel]
    caption: Callable[[str], str] = str

    @classmethod
    def of(cls, model: DiffusionModel, key: str | None = None, caption: Callable[[str], str] = str) -> Subject:
        """A model that is loaded already. A fine-tuned copy has its base's key: give one of its own."""
        return cls(key or model.key, lambda: model, caption)


@dataclass(frozen=True)
class AuditResult:
    """`record` has the parts "attacks", "extraction", "blind" and "control" of result.json (docs/result-schema.md).

    `folders` are the image sets: "before" and "after" (generations), and where known "members" and "nonmembers".
    """

    record: dict
    folders: dict[str, Path]


def check_split(domain: Domain) -> None:
    """Raises UserError for a split on which nothing can be estimated; better before a training than after."""
    if domain.split is not None and min(len(domain.membership.members), len(domain.membership.nonmembers)) < 2:
        counts = f"{len(domain.membership.members)} and {len(domain.membership.nonmembers)}"
        raise UserError(f"at least 2 members and 2 non-members are needed to judge an attack, not {counts}")


def audit(
    before: Subject,
    after: Subject,
    domain: Domain,
    config: AuditConfig = AuditConfig(),
    extraction: ExtractionConfig = ExtractionConfig(),
    stages: Stages | None = None,
    people: Callable[[], Sequence[Domain]] = tuple,
) -> AuditResult:
    """Compare two models on one domain: attacks, calibrations, extraction, blind flags and the blind control.

    `people` gives the calibration people, for attacks that must be fitted (CLiD); the part that the domain's own split
    sets aside for calibration comes first. Without a split only the membership-blind part remains.
    Raises UserError for a split that is too small, Cancelled when the progress listener does.
    """
    if before.key == after.key:
        raise ValueError(f"the two models share the key {before.key}: the cache would take one for the other")
    check_split(domain)
    stages = stages or Stages()
    first_stage = len(stages.timings)
    folders, scores = {}, {}
    if domain.split is not None:
        folders = {part: image_stage(domain, part, stages) for part in ("members", "nonmembers")}
        scores = _all_scores(before, after, domain, config, stages, people)
    folders |= generations(before, after, domain.name, extraction, stages)

    def work(folder: Path) -> None:
        stages.progress(Event(COMPARE.id, 0, 1))
        pictures = {when: sp_set.load_images(folders[when]).images for when in ("before", "after")}
        record: dict = {"attacks": {}, "extraction": None, "control": None}
        record["blind"] = compare_blind(pictures, domain.split, extraction.delta)
        if domain.split is not None:
            for name in config.attacks:
                record["attacks"][name] = _attack_record(name, config, scores[name])
            record["extraction"] = compare_extraction(
                before.load(), domain, pictures["before"], pictures["after"], extraction
            )
            record["control"] = asdict(blind_control(domain.membership))
        write_json(folder / "audit.json", record)

    key = identity.audit(domain.key, domain.repeats, config, extraction, stages.keys()[first_stage:])
    folder = stages(COMPARE, key, work)
    return AuditResult(read_json(folder / "audit.json"), folders)


# --- membership inference ------------------------------------------------------------------------


def scorer(
    subject: Subject, domain: Domain, config: AuditConfig, stages: Stages, when: str, of: str = ""
) -> Callable[[str], np.ndarray]:
    """A function: attack -> (N, K) components of the domain's images, members first, on one model.

    Each attack is a cached stage. Those of one sharing group are computed together when the first is asked for.
    `when` ("before", "after") and `of` tell the stages of two models, and of other photos, apart.
    """
    images = domain.membership.all()
    captions = [subject.caption(c) for c in images.captions]
    groups = {name: group for group in attacks.sharing_groups(config.attacks, config) for name in group}
    fresh: dict = {}

    def key(name: str) -> str:
        settings = attacks.attack_settings(name, config)
        return identity.scores(subject.key, domain.key, name, settings, config, captions)

    @cache
    def query() -> attacks.Query:
        return attacks.make_query(subject.load(), images, config.seed, captions)

    def components(name: str) -> np.ndarray:
        def work(folder: Path) -> None:
            if name not in fresh:
                missing = [other for other in groups[name] if not stages.store.has("scores", key(other))]
                fresh.update(attacks.run_components(missing, subject.load(), query(), config, stages.progress))
            save_file({"components": fresh[name]}, folder / "scores.safetensors")

        stage = declared.scores(name, attacks.get_attack(name).title, when, of)
        folder = stages(stage, key(name), work)
        return load_file(folder / "scores.safetensors")["components"].double().numpy()

    return components


@dataclass(frozen=True)
class Scored:
    """Calibrated scores of one attack. `original` are those after with the captions that the model before got.

    After Textual Inversion or DreamBooth a token stands for the name; `original` is None where nothing was replaced.
    `fitted` and `frozen` are what calibration data adds to the record.
    """

    before: Pair
    after: Pair
    original: Pair | None
    fitted: Combination | None
    frozen: dict | None


def _all_scores(
    before: Subject,
    after: Subject,
    domain: Domain,
    config: AuditConfig,
    stages: Stages,
    people: Callable[[], Sequence[Domain]],
) -> dict[str, Scored]:
    """{attack: its scores}; what calibrates an attack never sees the images under test."""
    models = {"before": before, "after": after}
    original = replace(after, caption=before.caption)
    renamed = any(after.caption(c) != original.caption(c) for c in domain.membership.all().captions)
    test = {when: scorer(model, domain, config, stages, when) for when, model in models.items()}
    if renamed:
        test["original"] = scorer(original, domain, config, stages, "after", "original captions")
    own = domain.calibration()
    aside = {w: scorer(m, own, config, stages, w, "calibration part") for w, m in models.items()} if own else {}
    found = {}
    for name in config.attacks:
        fitted = None
        if attacks.get_attack(name).components:
            if own is not None:
                fitted_on = [_pair(aside["before"](name), own)]
            else:
                fitted_on = [calibration_pair(name, before, person, config, stages) for person in people()]
            fitted = Combination.fit(fitted_on) if fitted_on else Combination.uncalibrated()
        score = fitted or (lambda components: components[:, 0])
        pairs = {when: _pair(score(components(name)), domain) for when, components in test.items()}
        nobody = {when: _pair(score(components(name)), own)[1] for when, components in aside.items() if own is not None}
        frozen = {when: _frozen(nobody[when], pairs[when], config.confidence) for when in nobody}
        found[name] = Scored(pairs["before"], pairs["after"], pairs.get("original"), fitted, frozen or None)
    return found


def _frozen(calibration_nonmembers: np.ndarray, test: Pair, confidence: float) -> list[dict]:
    """TPR and FPR of the test part at thresholds that the calibration part froze, one an FPR."""
    members, nonmembers = test
    return [
        asdict(metrics.frozen_tpr(calibration_nonmembers, [members], [nonmembers], fpr, confidence)) for fpr in FPRS
    ]


def _pair(scores: np.ndarray, domain: Domain) -> Pair:
    n_members = len(domain.membership.members)
    return scores[:n_members], scores[n_members:]


def calibration_pair(name: str, base: Subject, person: Domain, config: AuditConfig, stages: Stages) -> Pair:
    """(N, K) and (M, K) components of one attack on a calibration person, under the model before fine-tuning."""
    alone = config.model_copy(update={"attacks": (name,)})
    return _pair(scorer(base, person, alone, stages, "before", person.name)(name), person)


def _attack_record(name: str, config: AuditConfig, scored: Scored) -> dict:
    """One entry of "attacks"."""
    record = compare_attack(name, config, scored.before, scored.after)
    record["original_captions"] = None
    if scored.original is not None:
        (m0, n0), (m1, n1) = scored.before, scored.original
        record["original_captions"] = {
            "after": asdict(metrics.summary(m1, n1, FPRS, config.confidence)),
            "difference": asdict(intervals.paired_auc_difference(m0, n0, m1, n1, config.confidence)),
        }
    fitted = scored.fitted and scored.fitted.model_dump(mode="json")
    return record | {"calibration": fitted, "frozen": scored.frozen}


def describe_attack(name: str, config: AuditConfig) -> dict:
    """Title, source, settings and cost of an attack, for a record."""
    attack, settings = attacks.get_attack(name), attacks.attack_settings(name, config)
    return {
        "title": attack.title,
        "source": attack.source,
        "settings": settings.model_dump(mode="json"),
        "unet_evaluations": attack.evaluations(settings),
    }


def compare_attack(name: str, config: AuditConfig, before: Pair, after: Pair) -> dict:
    """One attack before and after, on the same images with the same noise.

    Besides the attack on each model it judges the *change* of the score (shake-calibrated: the base
    model as its own reference), which needs both models; the relative change, and the base model judged with
    the shaken one as its reference, only where scores are distances.
    """
    (m0, n0), (m1, n1), confidence = before, after, config.confidence
    relative = reference = None
    if are_distances(m0, n0, m1, n1):
        m, n = (shake_calibrated(*pair, "log_ratio") for pair in ((m0, m1), (n0, n1)))
        relative = asdict(metrics.summary(m, n, FPRS, confidence))
        m, n = (shake_calibrated(*pair, "reference", config.shake_weight) for pair in ((m0, m1), (n0, n1)))
        reference = asdict(metrics.summary(m, n, FPRS, confidence)) | {
            "weight": config.shake_weight,
            "difference": asdict(intervals.paired_auc_difference(m0, n0, m, n, confidence)),
        }
    return describe_attack(name, config) | {
        "before": asdict(metrics.summary(m0, n0, FPRS, confidence)),
        "after": asdict(metrics.summary(m1, n1, FPRS, confidence)),
        "difference": asdict(intervals.paired_auc_difference(m0, n0, m1, n1, confidence)),
        "shake": asdict(
            metrics.summary(shake_calibrated(m0, m1), shake_calibrated(n0, n1), FPRS, confidence)
        ),
        "shake_relative": relative,
        "shake_reference": reference,
        "set_evidence": {"before": asdict(metrics.set_evidence(m0, n0)), "after": asdict(metrics.set_evidence(m1, n1))},
        "most_exposed": [asdict(x) for x in metrics.most_exposed(m0, m1, n0, n1, TOP_EXPOSED)],
        "scores": {
            "before": {"members": m0.tolist(), "nonmembers": n0.tolist()},
            "after": {"members": m1.tolist(), "nonmembers": n1.tolist()},
        },
    }  # fmt: skip


# --- generations: extraction and blind flags -----------------------------------------------------


def generations(
    before: Subject, after: Subject, name: str, config: ExtractionConfig, stages: Stages
) -> dict[str, Path]:
    """{"before", "after"}: folders with the pictures of each model, of the same prompts and seeds."""
    drawn = _draws(before, name, config, stages)
    plain = [before.caption(prompt) for prompt in drawn.prompts]
    mapped = [after.caption(prompt) for prompt in drawn.prompts]
    chosen = drawn.seeds if config.seed_pool is not None else None
    guided = plain if config.guidance_w is not None else None

    def draw_before(folder: Path) -> None:
        sp_set.generate_images(
            before.load(), plain, drawn.seeds, config.sampler, folder, "generate before", stages.progress
        )

    def draw_after(folder: Path) -> None:
        generate = guidance.after_generate(before.load(), after.load(), config, plain, mapped)
        sp_set.generate_images(
            after.load(), mapped, drawn.seeds, config.sampler, folder, "generate after", stages.progress, generate
        )

    keys = {
        "before": identity.generations(before.key, plain, config, chosen),
        "after": identity.generations(after.key, mapped, config, chosen, guided),
    }
    return {
        "before": stages(declared.generations("before"), keys["before"], draw_before),
        "after": stages(declared.generations("after"), keys["after"], draw_after),
    }


def _draws(base: Subject, name: str, config: ExtractionConfig, stages: Stages) -> guidance.Draws:
    """The prompts and seeds of both models; choosing seeds out of a pool is a stage of its own."""
    pool = guidance.candidates(config, name)
    if config.seed_pool is None:
        return pool

    def work(folder: Path) -> None:
        found = guidance.text_noise_magnitude(base.load(), *pool, config.sampler, stages.progress)
        save_file({"magnitudes": found}, folder / "magnitudes.safetensors")

    first_timestep = base.load().first_timestep(config.sampler)
    key = identity.chosen_seeds(base.key, pool.prompts, config, first_timestep)
    folder = stages(SEEDS, key, work)
    return guidance.promising(pool, load_file(folder / "magnitudes.safetensors")["magnitudes"], config.n_generations)


def image_stage(domain: Domain, part: str, stages: Stages) -> Path:
    """The folder of the domain's "members" or "nonmembers" as pictures, for figures and pages."""
    images = getattr(domain.split, part)
    key = identity.images(domain.key, part)
    return stages(declared.photos(part), key, lambda folder: _save_images(images, folder))


def _save_images(images: ImageSet, folder: Path) -> None:
    """Write an image set as an imagefolder with metadata.jsonl."""
    rows = []
    for i, (picture, caption) in enumerate(zip(images.images, images.captions, strict=True)):
        name = f"{i:08d}.png"
        sp_set._write_png(picture.permute(1, 2, 0).numpy(), folder / name)
        rows.append(json.dumps({"file_name": name, "text": caption, "id": images.ids[i]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")


def compare_extraction(
    model: DiffusionModel, domain: Domain, before: Images, after: Images, config: ExtractionConfig
) -> dict:
    """Both models' generations against the members and, as the control, the held-out photos.

    `before` and `after` are (N, 3, H, W) uint8 of the same prompts, seeds and sampler. `model` gives
    the VAE, whose reconstruction error is the floor of every distance.
    """
    split = domain.membership
    repeats = domain.repeats or (1,) * len(split.members)
    found = [
        extract(images, split.members.images, split.nonmembers.images, repeats, delta=config.delta, k=config.k)
        for images in (before, after)
    ]
    held_out = split.nonmembers.images[:FLOOR_IMAGES].float() / 255
    decoded = model.decode_latents(model.encode_images(held_out)).cpu()
    cost, opinions, curve = {}, {}, {}
    for when, search, images in zip(("before", "after"), found, (before, after), strict=True):
        spent = guidance.generation_cost(config, when)
        cost[when] = asdict(spent) | asdict(efficiency(search, spent.unet_evaluations))
        opinions[when] = [asdict(x) for x in second_opinions(search, images, split.members.images)]
        hits = search.members.hits
        curve[when] = asdict(extraction_curve(hits, search.n_generations, search.members.n_references))
    return {
        "before": asdict(found[0]),
        "after": asdict(found[1]),
        "cost": cost,
        "opinions": opinions,
        "curve": curve,
        "difference": asdict(paired_extraction(found[0], found[1])),
        "floor": asdict(reconstruction_floor(held_out, decoded)),
    }


def compare_blind(pictures: dict[str, Images], split: MembershipSplit | None, delta: float) -> dict:
    """What an attacker without the training set flags in each model's pictures, and how often that is right.

    "score" needs the truth and is None without a split.
    """
    found: dict = {"edge": EDGE, "min_size": MIN_SIZE}
    for when, images in pictures.items():
        clusters = blind_clusters(images)
        score = None
        if split is not None:
            score = asdict(score_blind(images, clusters, split.members.images, split.nonmembers.images, delta))
        found[when] = {"clusters": [asdict(cluster) for cluster in clusters], "score": score}
    return found
