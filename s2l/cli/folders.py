"""The stages of a run one by one, in folders of the user's choice instead of the cache.

Everything resumes: existing pictures are kept, training continues from its checkpoint, and the scores of an
attack are cached as soon as they are computed.
"""

from __future__ import annotations

import hashlib
import posixpath
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from s2l import attacks, finetune
from s2l.config import (
    SCHEMA_VERSION,
    AuditConfig,
    DomainConfig,
    ExtractionConfig,
    FineTuneConfig,
    SPSetConfig,
    UnshakeConfig,
    check_prompt,
    checked,
)
from s2l.data import sp_set
from s2l.data.decode import Unreadable, header
from s2l.data.domain import Domain, ImageSet, load_folder
from s2l.data.listing import picture_files
from s2l.errors import UserError
from s2l.keys import file_hash, key_of
from s2l.labs import default_lab, find_lab
from s2l.measure.extraction import extract
from s2l.measure.extraction_summary import second_opinions
from s2l.model.diffusion import DiffusionModel
from s2l.model.memory import halving
from s2l.pipeline import guidance, membership
from s2l.pipeline.experiment import load_domain as any_domain
from s2l.pipeline.stages import Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.tuned import caption_notes
from s2l.pipeline.unshake import FineTuned, unshake_record, unshaken
from s2l.progress import Progress, silent
from s2l.store import Store, read_json, write_json
from s2l.training import REQUEST

# The files that record what a folder is for. Only the same request continues its pictures or its checkpoint.
GENERATION, TRAINING = "generation.json", REQUEST


def load_domain(config: DomainConfig, model: str, resolution: int) -> Domain:
    """The domain with its photos. Raises UserError when members or held-out photos are not known."""
    domain = any_domain(config, model, resolution)
    _ = domain.membership
    return domain


def _fits(images: ImageSet, resolution: int, folder: Path) -> ImageSet:
    height, width = images.images.shape[2:]
    if (height, width) != (resolution, resolution):
        raise UserError(f"the images in {folder} are {width} x {height} pixels; this model needs {resolution}")
    return images


def _upgraded(request: dict) -> dict:
    """A request in this version's form: older ones list the settings of all methods side by side."""
    if "finetune" not in request:
        return request
    config = finetune.spelled_out(checked(FineTuneConfig, request["finetune"]))
    return request | {"finetune": config.model_dump(mode="json")}


def claimed(folder: Path, name: str, request: dict) -> bool:
    """Whether `folder` holds work on exactly this request. Raises UserError when it holds other work."""
    if (folder / name).exists():
        if _upgraded(read_json(folder / name)) != request:
            raise UserError(f"{folder} holds results of other settings: choose another folder, or delete this one")
        return True
    return False


def claim(folder: Path, name: str, request: dict) -> bool:
    """Record what `folder` will hold. True if the same is on record; raises UserError if something else is."""
    ready = claimed(folder, name, request)
    if not ready:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, request)
    return ready


# --- generation ------------------------------------------------------------------------------


def make_sp_set(model: DiffusionModel, name: str, config: SPSetConfig, folder: Path, progress: Progress) -> ImageSet:
    """The SP set of the prompts in `folder`; resumes from what is there."""
    sp_set.check_disk(folder, range(config.seed, config.seed + config.set_size), model.resolution)
    claim(folder, GENERATION, {"model": model.key, "sampler": config.sampler.model_dump(mode="json")})
    return halving(lambda: sp_set.generate_sp_set(model, name, config, folder, progress), "SP set")


def make_generations(
    model: DiffusionModel, after: Subject | None, name: str, config: ExtractionConfig, folder: Path, progress: Progress
) -> ImageSet:
    """The generations of an extraction in `folder`, of `after` or the base model; resumes from what is there."""
    request: dict[str, object] = {
        "model": model.key if after is None else after.key,
        "sampler": config.sampler.model_dump(mode="json"),
    }
    if config.guidance_w is not None:
        request["guidance_w"] = config.guidance_w
    claimed(folder, GENERATION, request)
    draws = guidance.draws(model, config, name, progress)
    sp_set.check_disk(folder, draws.seeds, model.resolution)
    claim(folder, GENERATION, request)
    prompts: Sequence[str] = draws.prompts
    generate = model.generate
    if after is not None:
        mapped = [after.caption(prompt) for prompt in prompts]
        generate = guidance.after_generate(model, after.load(), config, prompts, mapped)
        model, prompts = after.load(), mapped

    def work() -> ImageSet:
        return sp_set.generate_images(
            model, prompts, draws.seeds, config.sampler, folder, "generate", progress, generate
        )

    return halving(work, "generations")


# --- fine-tuning -----------------------------------------------------------------------------


def training_images(source: Path, resolution: int, caption: str | None) -> tuple[ImageSet, str]:
    """The images to fine-tune on, and their hash: generated pictures, or photos of your own (a folder or a list).

    The paper's out-of-domain control trains on such photos. Photos without a caption get `caption`; without that, each
    must have its own. Raises UserError.
    """
    if caption is None and (source / "metadata.jsonl").exists():
        images = _fits(sp_set.load_images(source), resolution, source)
        return images, file_hash([source / image for image in images.ids])
    images, notes = load_folder(source, resolution, check_prompt(caption) if caption is not None else "")
    if bare := [name for name, text in zip(images.ids, images.captions, strict=True) if not text]:
        raise UserError(
            f"{len(bare)} of {len(images)} photos in {source} have no caption, such as {bare[0]}: give --caption for "
            "them (or, for an SP set, make one with `python -m s2l sp-gen`)"
        )
    for note in notes:
        print(note, file=sys.stderr)
    return images, key_of(hashlib.sha256(images.images.numpy().tobytes()).hexdigest(), images.captions)


def finetune_folder(
    model: DiffusionModel,
    images: ImageSet,
    fingerprint: str,
    config: FineTuneConfig,
    logdir: Path,
    name: str,
    progress: Progress = silent,
) -> tuple[dict, bool]:
    """Fine-tune on `images` into `logdir`. Returns the record, and whether it was already there.

    `fingerprint` is a hash of their pixels. Raises UserError when `logdir` holds another training.
    """
    request = {
        "model": model.key,
        "sp_set": fingerprint,
        "finetune": finetune.spelled_out(config).model_dump(mode="json"),
        "name": name,
    }
    finetune.mapped_captions(images, name, config)  # raises for a missing name, before the folder is claimed
    record = logdir / "config.json"
    if claim(logdir, TRAINING, request) and record.exists():
        return read_json(record), True
    return halving(lambda: finetune.finetune(model, images, config, logdir, name, progress), "fine-tuning"), False


# --- attacks ---------------------------------------------------------------------------------


def attack_record(
    model: DiffusionModel,
    tuned: FineTuned | None,
    domain: Domain,
    config: AuditConfig,
    store: Store,
    progress: Progress = silent,
    people: Callable[[], Sequence[Domain]] = tuple,
    unshake: UnshakeConfig | None = None,
) -> dict:
    """Every attack on the base model and, if given, on the fine-tuned one; docs/result-schema.md, "attack".

    With `unshake`, "after" is the un-shaken model instead of the fine-tuned one.

    The stages and calibrations are those of a run; `people` returns the calibration people.
    """
    membership.check_split(domain)
    base, stages = Subject.of(model), Stages(store, progress)
    after = unshaken(base, tuned, unshake) if tuned is not None else None
    scored = membership.score_attacks(base, after, domain, config, stages, people)
    unshaken_part = unshake_record(unshake, base, tuned, domain, config, stages) if tuned is not None else None
    notes = [*tuned.notes, *caption_notes(tuned, domain)] if tuned is not None else []
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "attack",
        "model": model.key,
        "tuned": after.key if after is not None else None,
        "audit": attacks.spelled_out(config).model_dump(mode="json"),
        "domain": _domain_record(domain),
        "attacks": {
            name: membership.attack_record(name, config, scored[name], unshake is not None) for name in config.attacks
        },
        "control": membership.control_record(domain),
        **({"model_notes": list(model.notes)} if model.notes else {}),
        **({"tuned_notes": notes} if notes else {}),
        **({"unshake": unshaken_part} if unshaken_part is not None else {}),
    }


def _domain_record(domain: Domain) -> dict:
    return {
        "name": domain.name,
        "n_members": len(domain.membership.members),
        "n_nonmembers": len(domain.membership.nonmembers),
        "notes": list(domain.notes),
        "key": domain.key,
        **({"report": domain.report.record()} if domain.report is not None else {}),
    }


# --- extraction ------------------------------------------------------------------------------


def generations_resolution(folder: Path, model: str) -> int:
    """The side in pixels at which a folder of a model's generations is compared."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of images")
    sides: dict[int, str] = {}
    for name in picture_files(folder):
        with suppress(Unreadable):  # reading the picture later reports why
            saved = header(folder / name)
            sides.setdefault(min(saved.width, saved.height), name)
    if len(sides) > 1:
        (a, first), (b, second) = list(sides.items())[:2]
        raise UserError(
            f"the generations in {folder} have different sizes ({first}: {a} pixels, {second}: {b}): they are "
            "compared at their own size, so give pictures of one size"
        )
    return next(iter(sides), (find_lab(model) or default_lab()).resolution)


def read_generations(folder: Path, resolution: int) -> tuple[ImageSet, list[str]]:
    """Generations of `generate_images`, or any folder of images (one without metadata.jsonl)."""
    if (folder / "metadata.jsonl").exists():
        images = _fits(sp_set.load_images(folder), resolution, folder)
        left = sorted(set(picture_files(folder)).difference(posixpath.normpath(name) for name in images.ids))
        said = f"{len(left)} pictures are not in metadata.jsonl and not searched, such as {left[0]}" if left else ""
        return images, [said] if said else []
    return load_folder(folder, resolution, "")


def extraction_record(
    generations: ImageSet, domain: Domain, config: ExtractionConfig, model: dict, device: torch.device
) -> dict:
    """Compare generations with members and the control, on `device`; docs/result-schema.md, "extract"."""
    split = domain.membership
    side, other = generations.images.shape[-1], split.members.images.shape[-1]
    if side != other:
        raise UserError(f"the generations are {side} pixels wide and the photos {other}: resize one of them")
    repeats = domain.repeats or (1,) * len(split.members)
    extraction = extract(
        generations.images, split.members.images, split.nonmembers.images, repeats, delta=config.delta, k=config.k,
        device=device,
    )  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "extract",
        "model": model,
        "domain": _domain_record(domain) | {"repeats": list(domain.repeats)},
        "extraction": asdict(extraction),
        "opinions": [asdict(x) for x in second_opinions(extraction, generations.images, split.members.images)],
    }
