"""Membership inference on one model or two: scores in cached stages, calibrated, and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from s2l import attacks
from s2l.attacks.calibration import Combination, are_distances, shake_calibrated
from s2l.config import AuditConfig
from s2l.data.domain import Domain
from s2l.errors import UserError
from s2l.measure import intervals, metrics
from s2l.measure.control import blind_control
from s2l.measure.fine import fine_control
from s2l.measure.operating_points import frozen_tpr
from s2l.pipeline import identity
from s2l.pipeline import stages as declared
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject

TOP_EXPOSED = 10
FPRS = (0.1, 0.01, 0.001)

Pair = tuple[np.ndarray, np.ndarray]  # scores of members (N,) and of held-out photos (M,), higher = member


def check_split(domain: Domain) -> None:
    """Raises UserError for a split too small to estimate anything: before training, not after it."""
    if domain.split is not None and min(len(domain.membership.members), len(domain.membership.nonmembers)) < 2:
        counts = f"{len(domain.membership.members)} and {len(domain.membership.nonmembers)}"
        raise UserError(f"at least 2 members and 2 held-out photos are needed to measure an attack, not {counts}")


def scorer(
    subject: Subject, domain: Domain, config: AuditConfig, stages: Stages, when: str, of: str = ""
) -> Callable[[str], np.ndarray]:
    """A function: attack -> (N, K) components of the domain's images, members first, on one model.

    Each attack is a cached stage. The attacks of one sharing group are computed together at the first call.
    `when` ("before", "after") and `of` name the stages, so that those of two models and of other photos differ.
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
        return attacks.query_of(subject.load(), images, config, captions)

    def components(name: str) -> np.ndarray:
        def work(folder: Path) -> None:
            if name not in fresh:
                missing = [other for other in groups[name] if not stages.store.has("scores", key(other))]
                fresh.update(attacks.run_components(missing, subject.load(), query(), config, stages.progress))
            save_file({"components": fresh[name]}, folder / "scores.safetensors")

        stage = declared.scores(name, attacks.get_attack(name).title, when, of)
        folder = stages(stage, key(name), work)
        scores = load_file(folder / "scores.safetensors")["components"].double().numpy()
        if not np.isfinite(scores).all():  # an older version kept them
            raise UserError(f"{folder} holds scores that are NaN or infinite: delete it, and they are computed again")
        return scores

    return components


@dataclass(frozen=True)
class Scored:
    """Calibrated scores of one attack; `after` is None if there is only one model.

    `original` are the scores after with the base model's captions: after Textual Inversion or DreamBooth, captions
    have a token in place of the name. None if nothing was replaced. `fitted` and `frozen` are what calibration data
    adds to the record.
    """

    before: Pair
    after: Pair | None
    original: Pair | None
    fitted: Combination | None
    frozen: dict | None


def score_attacks(
    before: Subject,
    after: Subject | None,
    domain: Domain,
    config: AuditConfig,
    stages: Stages,
    people: Callable[[], Sequence[Domain]],
) -> dict[str, Scored]:
    """{attack: its scores} on one model or two. Calibration never uses the images under test.

    `people` returns the calibration people, for attacks that must be fitted (CLiD). If the domain's split sets a part
    aside for calibration, that part is used instead.
    """
    models = {"before": before} | ({"after": after} if after is not None else {})
    test = {when: scorer(model, domain, config, stages, when) for when, model in models.items()}
    if after is not None and any(after.caption(c) != before.caption(c) for c in domain.membership.all().captions):
        original = replace(after, caption=before.caption)
        test["original"] = scorer(original, domain, config, stages, "after", "original captions")
    part = domain.calibration()
    on_part = {w: scorer(m, part, config, stages, w, "calibration part") for w, m in models.items()} if part else {}
    scored = {}
    for name in config.attacks:
        fitted = None
        if attacks.get_attack(name).components:
            if part is not None:
                fitted_on = [_pair(on_part["before"](name), part)]
            else:
                fitted_on = [calibration_pair(name, before, person, config, stages) for person in people()]
            fitted = Combination.fit(fitted_on) if fitted_on else Combination.uncalibrated()
        score = fitted or (lambda components: components[:, 0])
        pairs = {when: _pair(score(components(name)), domain) for when, components in test.items()}
        held_out = {w: _pair(score(components(name)), part)[1] for w, components in on_part.items() if part is not None}
        frozen = {when: _frozen(held_out[when], pairs[when], config.confidence) for when in held_out}
        scored[name] = Scored(pairs["before"], pairs.get("after"), pairs.get("original"), fitted, frozen or None)
    return scored


def _frozen(calibration_nonmembers: np.ndarray, test: Pair, confidence: float) -> list[dict]:
    """TPR and FPR of the test part at thresholds frozen on the calibration part, one per FPR."""
    members, nonmembers = test
    points = (frozen_tpr(calibration_nonmembers, [members], [nonmembers], fpr, confidence) for fpr in FPRS)
    return [asdict(point) for point in points]


def _pair(scores: np.ndarray, domain: Domain) -> Pair:
    n_members = len(domain.membership.members)
    return scores[:n_members], scores[n_members:]


def control_record(domain: Domain) -> dict:
    """The part "control" of a record: the blind control and, where the split is not a lab's own, the finest scale."""
    record = asdict(blind_control(domain.membership))
    return record if domain.role else record | {"fine": asdict(fine_control(domain.membership))}


def calibration_pair(name: str, base: Subject, person: Domain, config: AuditConfig, stages: Stages) -> Pair:
    """(N, K) and (M, K) components of one attack on a calibration person, under the model before fine-tuning."""
    alone = config.model_copy(update={"attacks": (name,)})
    return _pair(scorer(base, person, alone, stages, "before", person.name)(name), person)


def attack_record(name: str, config: AuditConfig, scored: Scored, unshaken: bool = False) -> dict:
    """One entry of "attacks" in result.json and in what `attack` writes.

    With an un-shaken model there is no "shake_reference": its weight was frozen for fine-tuned models.
    """
    fitted = scored.fitted and scored.fitted.model_dump(mode="json")
    if scored.after is None:
        m, n = scored.before
        return describe_attack(name, config) | {
            "before": asdict(metrics.summary(m, n, FPRS, config.confidence)),
            "scores": {"before": {"members": m.tolist(), "nonmembers": n.tolist()}},
            "calibration": fitted,
        }
    record = compare_attack(name, config, scored.before, scored.after, with_reference=not unshaken)
    record["original_captions"] = None
    if scored.original is not None:
        (m0, n0), (m1, n1) = scored.before, scored.original
        record["original_captions"] = {
            "after": asdict(metrics.summary(m1, n1, FPRS, config.confidence)),
            "difference": asdict(intervals.paired_auc_difference(m0, n0, m1, n1, config.confidence)),
        }
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


def compare_attack(name: str, config: AuditConfig, before: Pair, after: Pair, with_reference: bool = True) -> dict:
    """One attack before and after, on the same images with the same noise.

    Besides the attack on each model it evaluates the *change* of the score, which needs both models
    (shake-calibrated, with the base model as the reference). If scores are distances, also the relative change, and
    the attack on the base model with the fine-tuned one as the reference (`with_reference`).
    """
    (m0, n0), (m1, n1), confidence = before, after, config.confidence
    relative = reference = None
    if are_distances(m0, n0, m1, n1):
        m, n = (shake_calibrated(*pair, "log_ratio") for pair in ((m0, m1), (n0, n1)))
        relative = asdict(metrics.summary(m, n, FPRS, confidence))
        if with_reference:
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
