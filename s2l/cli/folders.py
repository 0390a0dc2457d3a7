"""The stages of a run one by one, on folders of the user's choice instead of the cache.

Everything resumes: pictures that exist are kept, a training goes on from its checkpoint, and the
scores of an attack are cached as soon as it is through.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from s2l import attacks, finetune, metrics, sp_set
from s2l.attacks.registry import STAGE_VERSION as ATTACK_VERSION
from s2l.audit import compare_attack
from s2l.config import (
    LAB,
    SCHEMA_VERSION,
    AuditConfig,
    DomainConfig,
    ExtractionConfig,
    FineTuneConfig,
    SPSetConfig,
    UserError,
    checked,
    file_hash,
    key_of,
)
from s2l.domain import Domain, ImageSet, folder_domain, lab_domain, lab_record, load_folder
from s2l.extraction import extract
from s2l.model import DiffusionModel
from s2l.progress import Event, Progress, silent
from s2l.store import Store, read_json, write_json

# What a folder is being filled with. Its pictures or checkpoint are only continued by the same command.
GENERATION, TRAINING = "generation.json", "training.json"


def load_domain(config: DomainConfig, model: str, resolution: int) -> Domain:
    """The domain with its photos. Raises UserError when members or non-members are not known."""
    lab = model == LAB and config.members is None and config.nonmembers is None
    domain = lab_domain(config) if lab else folder_domain(config, resolution)
    if domain.split is None:
        raise UserError("which photos was the model trained on? Give both folders, --members and --nonmembers")
    return domain


def _fits(images: ImageSet, resolution: int, folder: Path) -> ImageSet:
    height, width = images.images.shape[2:]
    if (height, width) != (resolution, resolution):
        raise UserError(f"the images in {folder} are {width} x {height} pixels; this model needs {resolution}")
    return images


def claim(folder: Path, name: str, request: dict) -> bool:
    """Write down what `folder` will hold; True when that was written there before. Raises UserError if it differs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.exists():
        if read_json(path) != request:
            raise UserError(f"{folder} holds work with other settings: choose another folder, or delete it")
        return True
    write_json(path, request)
    return False


# --- generation ------------------------------------------------------------------------------


def make_sp_set(model: DiffusionModel, name: str, config: SPSetConfig, folder: Path, progress: Progress) -> ImageSet:
    """The SP set of prompts in `folder`, resuming what is there."""
    claim(folder, GENERATION, {"model": model.key, "sampler": config.sampler.model_dump(mode="json")})
    return sp_set.generate_sp_set(model, Domain(name, None), config, folder, progress)


def make_generations(
    model: DiffusionModel, tuned: Tuned | None, name: str, config: ExtractionConfig, folder: Path, progress: Progress
) -> ImageSet:
    """The generations of an extraction in `folder`, resuming what is there."""
    key = model.key if tuned is None else tuned.key
    claim(folder, GENERATION, {"model": key, "sampler": config.sampler.model_dump(mode="json")})
    seeds = range(config.seed, config.seed + config.n_generations)
    prompts = [sp_set.prompt_of(config.prompts, name, "", seed) for seed in seeds]
    if tuned is not None:
        model, prompts = tuned.model, [tuned.caption(prompt) for prompt in prompts]
    return sp_set.generate_images(model, prompts, seeds, config.sampler, folder, "generate", progress)


# --- fine-tuning -----------------------------------------------------------------------------


def finetune_folder(
    model: DiffusionModel, sp_folder: Path, config: FineTuneConfig, logdir: Path, name: str, progress: Progress = silent
) -> tuple[dict, bool]:
    """Fine-tune on a folder of generated images into `logdir`; the record, and whether it was there already.

    Raises UserError when `logdir` holds another training.
    """
    images = _fits(sp_set.load_images(sp_folder), model.resolution, sp_folder)
    request = {
        "model": model.key,
        "sp_set": file_hash([sp_folder / image for image in images.ids]),
        "finetune": config.model_dump(mode="json"),
        "name": name,
    }
    record = logdir / "config.json"
    if claim(logdir, TRAINING, request) and record.exists():
        return read_json(record), True
    return finetune.finetune(model, images, config, logdir, name, progress), False


class Tuned:
    """A fine-tuning result in a folder: its model, its key, and how captions change."""

    def __init__(self, base: DiffusionModel, folder: Path):
        path = folder / "config.json"
        if not path.exists():
            raise UserError(f"{folder} is not a fine-tuned model: it has no config.json (is the training finished?)")
        self.record = read_json(path)
        if self.record.get("base_model") != base.key:
            raise UserError(f"{folder} was fine-tuned from another model than the one given with --model")
        self.config = checked(FineTuneConfig, self.record["finetune"])
        self.model = finetune.load_finetuned(base, folder)
        self.key = key_of("tuned", base.key, self.record["finetune"], file_hash(list(folder.rglob("*.safetensors"))))

    def caption(self, text: str) -> str:
        return finetune.map_caption(text, self.record["name"], self.config)


# --- attacks ---------------------------------------------------------------------------------


def attack_record(
    model: DiffusionModel,
    tuned: Tuned | None,
    domain: Domain,
    config: AuditConfig,
    store: Store,
    progress: Progress = silent,
) -> dict:
    """Every attack on the base model and, if given, on the tuned one; docs/result-schema.md, "attack"."""
    images, n_members = domain.split.all(), len(domain.split.members)

    def scores(name: str, when: str) -> np.ndarray:
        target, model_key = (model, model.key) if when == "before" else (tuned.model, tuned.key)
        captions = [c if when == "before" else tuned.caption(c) for c in images.captions]
        settings = attacks.attack_settings(name, config)
        key = key_of("scores", ATTACK_VERSION, model_key, domain.key, name, settings, config.seed, captions)

        def work(folder: Path) -> None:
            query = attacks.make_query(target, images, config.seed, captions)
            save_file(
                {"scores": attacks.run_attack(name, target, query, config, progress)}, folder / "scores.safetensors"
            )

        folder, cached = store.stage("scores", key, work)
        progress(Event(f"attack {name} {when}", 1, 1, {"cached": cached}))
        return load_file(folder / "scores.safetensors")["scores"].double().numpy()

    found = {}
    for name in config.attacks:
        before = scores(name, "before")
        if tuned is not None:
            found[name] = compare_attack(name, config, n_members, before, scores(name, "after"))
            continue
        attack, settings = attacks.get_attack(name), attacks.attack_settings(name, config)
        m, n = before[:n_members], before[n_members:]
        found[name] = {
            "title": attack.title,
            "source": attack.source,
            "settings": settings.model_dump(mode="json"),
            "unet_evaluations": attack.evaluations(settings),
            "before": asdict(metrics.summary(m, n, confidence=config.confidence)),
            "scores": {"before": {"members": m.tolist(), "nonmembers": n.tolist()}},
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "attack",
        "model": model.key,
        "tuned": tuned.key if tuned is not None else None,
        "audit": config.model_dump(mode="json"),
        "domain": _domain_record(domain),
        "attacks": found,
    }


def _domain_record(domain: Domain) -> dict:
    return {
        "name": domain.name,
        "n_members": len(domain.split.members),
        "n_nonmembers": len(domain.split.nonmembers),
        "notes": list(domain.notes),
        "key": domain.key,
    }


# --- extraction ------------------------------------------------------------------------------


def generations_resolution(folder: Path) -> int:
    """The side in pixels at which a folder of generations is compared."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images")
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            return min(image.size)
    return lab_record()["resolution"]  # other formats, or none: loading them says so


def read_generations(folder: Path, resolution: int) -> tuple[ImageSet, list[str]]:
    """Generations of `generate_images`, or any folder of images (one without metadata.jsonl)."""
    if (folder / "metadata.jsonl").exists():
        return _fits(sp_set.load_images(folder), resolution, folder), []
    return load_folder(folder, resolution, "")


def extraction_record(generations: ImageSet, domain: Domain, config: ExtractionConfig, model: dict) -> dict:
    """Compare generations with members and the control; docs/result-schema.md, "extract"."""
    split = domain.split
    side, other = generations.images.shape[-1], split.members.images.shape[-1]
    if side != other:
        raise UserError(f"the generations are {side} pixels wide and the photos {other}: resize one of them")
    repeats = domain.repeats or (1,) * len(split.members)
    found = extract(
        generations.images, split.members.images, split.nonmembers.images, repeats, delta=config.delta, k=config.k
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "extract",
        "model": model,
        "domain": _domain_record(domain) | {"repeats": list(domain.repeats)},
        "extraction": asdict(found),
    }
