"""Measure a lab's baseline, which its model card shows.

`python -m s2l lab measure` measures the shipped float16 weights and writes results/lab.json; `--model` names others.
To choose among checkpoints, use the calibration people only (`roles=("calibration",)`).
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from s2l import attacks
from s2l.config import LAB, AuditConfig, DomainConfig, ExtractionConfig
from s2l.data import sp_set
from s2l.data.lab_domain import lab_domain
from s2l.errors import UserError
from s2l.keys import file_hash
from s2l.labs import Lab, find_lab
from s2l.measure.control import blind_control
from s2l.measure.distances import paired_l2, pairwise_l2
from s2l.measure.extraction import extract
from s2l.measure.intervals import auc
from s2l.measure.over_people import hierarchical_mean
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent
from s2l.tables.batch_effect import batch_effect

DELTAS = (0.08, 0.1, 0.12, 0.15)
SAMPLED_ATTACKS = ("loss", "secmi", "pia", "sima")  # whose AUC is measured with a sampled posterior too
SECMI_TIMESTEPS = (60, 100, 140, 200)  # tried on the calibration people, to freeze one in `demo`


def _person(
    model: DiffusionModel, lab: Lab, name: str, config: AuditConfig, n_nonmembers: int, n_generations: int
) -> dict:
    """One person's baseline: AUC of each attack, blind control, VAE reconstruction error, and extracted photos."""
    domain = lab_domain(lab, DomainConfig(name=name, n_nonmembers=n_nonmembers))
    query = attacks.make_query(model, domain.membership.all(), config.seed)
    n = len(domain.membership.members)
    row: dict = {"name": name, "role": domain.role, "auc": {}, "auc_by_repeats": {}, "scores": {}}
    repeats = np.array(domain.repeats)
    for attack in config.attacks:
        scores = attacks.run_attack(attack, model, query, config).double().numpy()
        row["scores"][attack] = (scores[:n], scores[n:])
        row["auc"][attack] = auc(scores[:n], scores[n:])
        row["auc_by_repeats"][attack] = {
            str(r): auc(scores[:n][repeats == r], scores[n:]) for r in np.unique(repeats).tolist()
        }
    row["blind"] = asdict(blind_control(domain.membership))
    held_out = domain.membership.nonmembers.floats()
    row["floor"] = float(paired_l2(held_out, model.decode_latents(query.latents[n:]).cpu()).mean())
    if n_generations:
        settings = ExtractionConfig(n_generations=n_generations)
        seeds = range(settings.seed, settings.seed + n_generations)
        prompts = [sp_set.prompt_of(settings.prompts, name, "", seed) for seed in seeds]
        images = (model.generate(prompts, seeds, settings.sampler) * 255).round().byte()
        extraction = extract(
            images, domain.membership.members.images, domain.membership.nonmembers.images[:n], domain.repeats,
            device=model.device,
        )  # fmt: skip
        row["extraction"] = {
            "n_generations": n_generations,
            "members": {str(d): int((np.array(extraction.members.distances) <= d).sum()) for d in DELTAS},
            "nonmembers": {str(d): int((np.array(extraction.nonmembers.distances) <= d).sum()) for d in DELTAS},
            "repeats_of_extracted": sorted(m.repeats for m in extraction.matches),
        }
    return row


def secmi_timesteps(
    model: DiffusionModel, lab: Lab, n_nonmembers: int = 60, progress: Progress = silent
) -> dict[str, float]:
    """{t: mean AUC of SecMI over the calibration people} at k = 10, from which the `demo` preset's t was chosen."""
    names = lab.names("calibration")
    aucs: dict[int, list[float]] = {t: [] for t in SECMI_TIMESTEPS}
    for i, name in enumerate(names):
        domain = lab_domain(lab, DomainConfig(name=name, n_nonmembers=n_nonmembers))
        query, n = attacks.make_query(model, domain.membership.all(), 0), len(domain.membership.members)
        for t in SECMI_TIMESTEPS:
            config = AuditConfig(attacks=("secmi",), settings={"secmi": {"t": t}})
            scores = attacks.run_attack("secmi", model, query, config).double().numpy()
            aucs[t].append(auc(scores[:n], scores[n:]))
        progress(Event("timesteps", i + 1, len(names), {"name": name}))
    return {str(t): float(np.mean(values)) for t, values in aucs.items()}


def photos_apart(lab: Lab) -> dict:
    """The l2 between two different member photos of one person, over all pairs and people: how many, mean, smallest."""
    pairs = []
    for person in lab.people:
        photos = lab_domain(lab, DomainConfig(name=person.name)).membership.members.images
        above = np.triu_indices(len(photos), 1)
        pairs.append(pairwise_l2(photos, photos)[above])
    distances = np.concatenate(pairs)
    return {"pairs": len(distances), "mean": float(distances.mean()), "smallest": float(distances.min())}


def posterior(model: DiffusionModel, lab: Lab, n_nonmembers: int = 40, progress: Progress = silent) -> dict:
    """The autoencoder's posterior on the calibration people's photos, and what sampling it does to attacks.

    std  mean standard deviation of a latent's entry, in units of the scaled latents, whose own is about 1
    auc  {attack: {"mode", "sample"}}, means over the people
    """
    names, stds = lab.names("calibration"), []
    aucs: dict[str, dict[str, list[float]]] = {a: {"mode": [], "sample": []} for a in SAMPLED_ATTACKS}
    for i, name in enumerate(names):
        domain = lab_domain(lab, DomainConfig(name=name, n_nonmembers=n_nonmembers))
        photos, n = domain.membership.all(), len(domain.membership.members)
        mode = model.encode_images(photos.images)
        stds.append(float((model.encode_images(photos.images, torch.ones_like(mode)) - mode).mean()))
        for latents in ("mode", "sample"):
            config = AuditConfig(attacks=SAMPLED_ATTACKS, latents=latents)
            query = attacks.query_of(model, photos, config, photos.captions)
            for attack, scores in attacks.run_suite(SAMPLED_ATTACKS, model, query, config).items():
                values = scores.double().numpy()
                aucs[attack][latents].append(auc(values[:n], values[n:]))
        progress(Event("posterior", i + 1, len(names), {"name": name}))
    means = {a: {latents: float(np.mean(values)) for latents, values in by.items()} for a, by in aucs.items()}
    return {"std": float(np.mean(stds)), "people": len(names), "auc": means}


def measure(
    model: DiffusionModel,
    lab: Lab,
    roles: tuple[str, ...] = ("calibration", "reporting"),
    n_nonmembers: int = 40,
    n_generations: int = 0,
    generation_roles: tuple[str, ...] = ("calibration",),
    attack_names: tuple[str, ...] = ("secmi", "loss"),
    progress: Progress = silent,
) -> dict:
    """The baseline of a lab's model over the people of `roles`; nothing is fine-tuned.

    Each person's members are compared with `n_nonmembers` held-out photos. Only people of `generation_roles` also get
    `n_generations` generations for the extraction attack, the expensive part.
    """
    started = time.monotonic()
    config = AuditConfig(attacks=attack_names)
    people = [person for person in lab.people if person.role in roles]
    rows = []
    for i, person in enumerate(people):
        n = n_generations if person.role in generation_roles else 0
        rows.append(_person(model, lab, person.name, config, n_nonmembers, n))
        progress(Event("measure", i + 1, len(people), {"name": person.name} | rows[-1]["auc"]))
    summary = {}
    for attack in attack_names:
        mean = hierarchical_mean([row["scores"][attack] for row in rows], n_resamples=1000)
        values = [row["auc"][attack] for row in rows]
        summary[attack] = {"mean": float(np.mean(values)), "low": mean.low, "high": mean.high,
                           "min": min(values), "max": max(values)}  # fmt: skip
        summary[attack]["by_repeats"] = {
            r: float(np.mean([row["auc_by_repeats"][attack][r] for row in rows]))
            for r in rows[0]["auc_by_repeats"][attack]
        }
    blind = np.array([row["blind"]["auc"] for row in rows])
    standard_error = float(blind.std(ddof=1) / np.sqrt(len(blind))) if len(blind) > 1 else None
    for row in rows:
        del row["scores"]
    weights = sorted(lab.folder.rglob("*.safetensors"))
    return {
        "protocol": {
            "command": "python -m s2l lab measure",
            "people": len(rows), "roles": list(roles), "n_nonmembers": n_nonmembers, "n_generations": n_generations,
            "attacks": {a: attacks.attack_settings(a, config).model_dump(mode="json") for a in attack_names},
            "sampler": ExtractionConfig().sampler.model_dump(mode="json"),
        },
        "model": {"key": model.weights, "counters": lab.record["counters"],
                  "hashes": {str(p.relative_to(lab.folder)): file_hash([p]) for p in weights}},
        "auc": summary,
        "blind": {"mean": float(blind.mean()), "standard_error": standard_error},
        "vae_floor": float(np.mean([row["floor"] for row in rows])),
        "people": rows,
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "torch": torch.__version__},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def write_measurement(path: Path, name: str = LAB, n_generations: int = 0, progress: Progress = silent) -> dict:
    """Measure a lab's weights and write `path` (results/lab.json). Raises UserError for a model that is not a lab."""
    lab = find_lab(name)
    if lab is None:
        raise UserError(
            f"{name!r} is not a lab: give 'lab', 'lab:NAME' (see `python -m s2l labs`) or the folder of one"
        )
    model = DiffusionModel.load(name, Runtime())
    measurement = measure(model, lab, n_generations=n_generations, progress=progress)
    measurement["protocol"]["command"] += "" if name == LAB else f" --model {name} --out {Path(path).as_posix()}"
    measurement["secmi_timesteps"] = secmi_timesteps(model, lab, progress=progress)
    measurement["photos_apart"] = photos_apart(lab)
    measurement["posterior"] = posterior(model, lab, progress=progress)
    measurement["batch_size"] = batch_effect(name, lab.people[0].name)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(measurement, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return measurement
