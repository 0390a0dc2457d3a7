"""What a comparison of two models says: every attack and the extraction, with controls and intervals.

`audit(before, after, domain, config)` computes and compares; `experiment.run` does the same on cached
scores and generations through the two `compare_*` functions below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from s2l import attacks, intervals, metrics, sp_set
from s2l.attacks.calibration import shake_calibrated
from s2l.config import SCHEMA_VERSION, AuditConfig, ExtractionConfig, UserError
from s2l.control import blind_control
from s2l.distances import Images
from s2l.domain import Domain
from s2l.extraction import extract, paired_extraction, reconstruction_floor
from s2l.model import DiffusionModel
from s2l.progress import Event, Progress, silent

TOP_EXPOSED = 10


@dataclass(frozen=True)
class AuditResult:
    """`record` has the parts "attacks", "extraction" and "control" of result.json (docs/result-schema.md)."""

    record: dict


def compare_attack(name: str, config: AuditConfig, n_members: int, before: np.ndarray, after: np.ndarray) -> dict:
    """One attack before and after: (N,) scores each, members first, of the same images with the same noise.

    Besides the attack on each model it judges the *change* of the score (shake-calibrated: the base
    model as its own reference), which needs both models.
    """
    m0, n0, m1, n1 = before[:n_members], before[n_members:], after[:n_members], after[n_members:]
    change = shake_calibrated(before, after)
    attack, settings = attacks.get_attack(name), attacks.attack_settings(name, config)
    confidence = config.confidence
    return {
        "title": attack.title,
        "source": attack.source,
        "settings": settings.model_dump(mode="json"),
        "unet_evaluations": attack.evaluations(settings),
        "before": asdict(metrics.summary(m0, n0, confidence=confidence)),
        "after": asdict(metrics.summary(m1, n1, confidence=confidence)),
        "difference": asdict(intervals.paired_auc_difference(m0, n0, m1, n1, confidence)),
        "shake": asdict(metrics.summary(change[:n_members], change[n_members:], confidence=confidence)),
        "set_evidence": {"before": asdict(metrics.set_evidence(m0, n0)), "after": asdict(metrics.set_evidence(m1, n1))},
        "most_exposed": [asdict(x) for x in metrics.most_exposed(m0, m1, n0, n1, TOP_EXPOSED)],
        "scores": {
            "before": {"members": m0.tolist(), "nonmembers": n0.tolist()},
            "after": {"members": m1.tolist(), "nonmembers": n1.tolist()},
        },
    }


def compare_extraction(
    model: DiffusionModel, domain: Domain, before: Images, after: Images, config: ExtractionConfig
) -> dict:
    """Both models' generations against the members and, as the control, the held-out photos.

    `before` and `after` are (N, 3, H, W) uint8 of the same prompts, seeds and sampler. `model` gives
    the VAE, whose reconstruction error is the floor of every distance.
    """
    split = domain.split
    repeats = domain.repeats or (1,) * len(split.members)
    found = [
        extract(images, split.members.images, split.nonmembers.images, repeats, delta=config.delta, k=config.k)
        for images in (before, after)
    ]
    held_out = split.nonmembers.floats()
    decoded = model.decode_latents(model.encode_images(held_out)).cpu()
    return {
        "before": asdict(found[0]),
        "after": asdict(found[1]),
        "difference": asdict(paired_extraction(found[0], found[1])),
        "floor": asdict(reconstruction_floor(held_out, decoded)),
    }


def audit(
    before: DiffusionModel,
    after: DiffusionModel,
    domain: Domain,
    config: AuditConfig = AuditConfig(),
    extraction: ExtractionConfig | None = ExtractionConfig(),
    map_caption=lambda caption: caption,
    progress: Progress = silent,
) -> AuditResult:
    """Compare two models on one domain: every attack of `config`, extraction, and the blind control.

    `map_caption` gives the caption that addresses the domain in the tuned model (a Textual Inversion
    token, say); None for `extraction` leaves the generations out. Raises UserError when the domain
    has no split: then there is nothing to judge an attack by.
    """
    if domain.split is None:
        raise UserError("without member and non-member images there is no ROC: give both folders")
    images, n_members = domain.split.all(), len(domain.split.members)
    scores = {}
    for when, model, mapped in (("before", before, images.captions), ("after", after, None)):
        captions = mapped or [map_caption(c) for c in images.captions]
        query = attacks.make_query(model, images, config.seed, captions)
        for name in config.attacks:
            found = attacks.run_attack(name, model, query, config, progress)
            scores[name, when] = found.double().numpy()
    compared = {
        name: compare_attack(name, config, n_members, scores[name, "before"], scores[name, "after"])
        for name in config.attacks
    }
    extracted = None
    if extraction is not None:
        seeds = range(extraction.seed, extraction.seed + extraction.n_generations)
        prompts = [sp_set.prompt_of(extraction.prompts, domain.name, "", seed) for seed in seeds]
        pictures = []
        for when, model in (("before", before), ("after", after)):
            written = prompts if when == "before" else [map_caption(p) for p in prompts]
            floats = model.generate(written, seeds, extraction.sampler)
            pictures.append((floats * 255).round().byte())
            progress(Event(f"generate {when}", len(seeds), len(seeds)))
        extracted = compare_extraction(before, domain, *pictures, extraction)
    return AuditResult(
        {
            "schema_version": SCHEMA_VERSION,
            "attacks": compared,
            "extraction": extracted,
            "control": asdict(blind_control(domain.split)),
        }
    )
