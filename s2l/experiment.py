"""run(config) -> Result: the whole path, stage by stage, each one cached by what it depends on.

    target -> SP set -> fine-tuning -> { scores, generations } before and after -> comparison

The key of a stage is the sha256 of its settings, the keys of its inputs and its STAGE_VERSION. A
new attack therefore reuses the same fine-tuned weights, and a killed run resumes where it stopped.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from s2l import attacks, finetune, sp_set
from s2l.attacks.registry import STAGE_VERSION as ATTACK_VERSION
from s2l.audit import compare_attack, compare_extraction
from s2l.config import LAB, SCHEMA_VERSION, DomainConfig, FineTuneConfig, RunConfig, UserError, key_of
from s2l.control import blind_control
from s2l.domain import Domain, ImageSet, folder_domain, lab_domain
from s2l.finetune import dreambooth
from s2l.model import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent
from s2l.store import Store, read_json, write_json

STAGE_VERSION = 1
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "scikit-learn", "scipy")
SAMPLE_ROUNDS = 5  # how often a training draws its four sample pictures


@dataclass(frozen=True)
class Result:
    """A finished run. `record` is result.json (docs/result-schema.md); `store` holds its pictures."""

    record: dict
    store: Store

    @property
    def key(self) -> str:
        return self.record["key"]

    def images(self, what: str) -> ImageSet:
        """ "sp_set", "before", "after" (generations), "members" or "nonmembers"."""
        return sp_set.load_images(self.store.root / self.record["folders"][what])

    def scores(self, attack: str, when: str) -> tuple[np.ndarray, np.ndarray]:
        """(member scores, non-member scores) of an attack, `when` = "before" or "after"."""
        scores = self.record["attacks"][attack]["scores"][when]
        return np.array(scores["members"]), np.array(scores["nonmembers"])


def load_domain(config: DomainConfig, model: str, resolution: int) -> Domain:
    """The domain of a run: a celebrity for the lab's model, folders for any other."""
    if config.members is None and config.nonmembers is None and model == LAB:
        return lab_domain(config)
    return folder_domain(config, resolution)


def _save_images(images: ImageSet, folder: Path) -> None:
    """Write an image set as an imagefolder with metadata.jsonl."""
    import json

    rows = []
    for i, (picture, caption) in enumerate(zip(images.images, images.captions, strict=True)):
        name = f"{i:08d}.png"
        sp_set._write_png(picture.permute(1, 2, 0).numpy(), folder / name)
        rows.append(json.dumps({"file_name": name, "text": caption, "id": images.ids[i]}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")


class _Run:
    """The stages of one run, in order. Each method returns the stage's folder or its key."""

    def __init__(self, config: RunConfig, store: Store, runtime: Runtime, progress: Progress):
        self.config, self.store, self.progress = config, store, progress
        self.timings: dict[str, dict] = {}
        self.model = DiffusionModel.load(config.model, runtime)
        if sp_set.processes(self.model).num_processes > 1:
            # One process would hold a stage's lock while the others wait for it at a barrier.
            raise UserError("a whole run uses one process; `sp-gen` and `finetune` can use several")
        self.domain = load_domain(config.domain, config.model, self.model.resolution)
        self._tuned: DiffusionModel | None = None

    def stage(self, name: str, key: str, work, label: str | None = None) -> Path:
        started = time.monotonic()
        folder, cached = self.store.stage(name, key, work)
        seconds = time.monotonic() - started
        self.timings[label or name] = {"key": key, "seconds": round(seconds, 3), "cached": cached}
        self.progress(Event(label or name, 1, 1, {"cached": cached, "folder": str(folder)}))
        return folder

    def relative(self, folder: Path) -> str:
        return folder.relative_to(self.store.root).as_posix()

    # --- S2L steps 1 and 2 ---

    def make_sp_set(self) -> Path:
        self.sp_key = key_of("sp_set", sp_set.STAGE_VERSION, self.model.key, self.domain.name, self.config.sp_set)
        return self.stage(
            "sp_set",
            self.sp_key,
            lambda folder: sp_set.generate_sp_set(self.model, self.domain, self.config.sp_set, folder, self.progress),
        )

    def fine_tune(self, sp_folder: Path) -> Path:
        config = self.config.finetune
        self.tuned_key = key_of("finetune", finetune.STAGE_VERSION, self.sp_key, config, self.domain.name)

        class_folder = self.class_images(config)

        def work(folder: Path) -> None:
            images = sp_set.load_images(sp_folder)
            every = max(1, config.max_train_steps // SAMPLE_ROUNDS)
            finetune.finetune(self.model, images, config, folder, self.domain.name, self.progress, every, class_folder)

        self.tuned_folder = self.stage("finetune", self.tuned_key, work)
        return self.tuned_folder

    def class_images(self, config: FineTuneConfig) -> Path | None:
        """DreamBooth's class images: of the base model alone, so all people and combinations share them."""
        n = dreambooth.number_of_class_images(config, self.config.sp_set.set_size)
        if "dreambooth" not in finetune.parse("+".join(config.methods)) or n == 0 or config.max_train_steps == 0:
            return None
        settings = [config.class_noun, n, config.class_sampler]
        key = key_of("class_images", sp_set.STAGE_VERSION, self.model.key, *settings)
        return self.stage(
            "class_images", key, lambda folder: dreambooth.class_images(self.model, config, n, folder, self.progress)
        )

    @property
    def tuned(self) -> DiffusionModel:
        """The fine-tuned model, loaded when first needed: a warm run never needs it."""
        if self._tuned is None:
            self._tuned = finetune.load_finetuned(self.model, self.tuned_folder)
        return self._tuned

    def caption(self, text: str, when: str) -> str:
        """What the attacker writes: after some methods a token stands for the name."""
        if when == "before":
            return text
        return finetune.map_caption(text, self.domain.name, self.config.finetune)

    # --- S2L step 3 ---

    def scores(self, attack: str, when: str) -> Path:
        """scores.safetensors: {"scores": (members + non-members,)} of one attack on one model."""
        config, images = self.config.audit, self.domain.split.all()
        settings = attacks.attack_settings(attack, config)
        captions = [self.caption(c, when) for c in images.captions]
        model_key = self.model.key if when == "before" else self.tuned_key
        key = key_of("scores", ATTACK_VERSION, model_key, self.domain.key, attack, settings, config.seed, captions)

        def work(folder: Path) -> None:
            model = self.model if when == "before" else self.tuned
            query = attacks.make_query(model, images, config.seed, captions)
            scores = attacks.run_attack(attack, model, query, config, self.progress)
            save_file({"scores": scores}, folder / "scores.safetensors")

        return self.stage("scores", key, work, f"attack {attack} {when}")

    def generations(self, when: str) -> Path:
        """n pictures of one model, with the same prompts, seeds and sampler before and after."""
        config = self.config.extraction
        seeds = range(config.seed, config.seed + config.n_generations)
        prompts = [self.caption(sp_set.prompt_of(config.prompts, self.domain.name, "", s), when) for s in seeds]
        model_key = self.model.key if when == "before" else self.tuned_key
        key = key_of("generations", sp_set.STAGE_VERSION, model_key, prompts, config.sampler, config.seed)

        def work(folder: Path) -> None:
            model = self.model if when == "before" else self.tuned
            sp_set.generate_images(model, prompts, seeds, config.sampler, folder, f"generate {when}", self.progress)

        return self.stage("generations", key, work, f"generate {when}")

    def domain_folder(self, part: str) -> Path:
        images = getattr(self.domain.split, part)
        key = key_of("images", self.domain.key, part)
        return self.stage("images", key, lambda folder: _save_images(images, folder), part)


def run(
    config: RunConfig,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> Result:
    """Run the whole path, reusing every finished stage of the cache.

    Raises UserError for input that makes no sense, Cancelled when `progress` does; in both cases
    what was finished stays and the same call goes on from there.
    """
    store = store or Store()
    started = time.monotonic()
    torch.manual_seed(0)  # nothing below uses the global generator; libraries might
    this = _Run(config, store, runtime, progress)
    for name in config.audit.attacks:
        attacks.attack_settings(name, config.audit)  # a typo must not cost a training first
    finetune.parse("+".join(config.finetune.methods))
    sp_folder = this.make_sp_set()
    tuned_folder = this.fine_tune(sp_folder)
    tuned_record = read_json(tuned_folder / "config.json")
    folders = {"sp_set": this.relative(sp_folder), "finetune": this.relative(tuned_folder)}

    compared: dict[str, dict] = {}
    if this.domain.split is not None:
        folders |= {part: this.relative(this.domain_folder(part)) for part in ("members", "nonmembers")}
        n_members = len(this.domain.split.members)
        for name in config.audit.attacks:
            pair = [load_file(this.scores(name, w) / "scores.safetensors")["scores"] for w in ("before", "after")]
            before, after = (scores.double().numpy() for scores in pair)
            compared[name] = compare_attack(name, config.audit, n_members, before, after)
    generations = [this.generations(when) for when in ("before", "after")]
    folders |= {"before": this.relative(generations[0]), "after": this.relative(generations[1])}

    key = key_of("result", STAGE_VERSION, config, [t["key"] for t in this.timings.values()])

    def work(folder: Path) -> None:
        extraction = control = None
        if this.domain.split is not None:
            pictures = (sp_set.load_images(folder).images for folder in generations)
            extraction = compare_extraction(this.model, this.domain, *pictures, config.extraction)
            control = asdict(blind_control(this.domain.split))
        log = [row for row in _log_rows(tuned_folder) if row]
        write_json(
            folder / "result.json",
            {
                "schema_version": SCHEMA_VERSION,
                "key": key,
                "config": config.model_dump(mode="json"),
                "model": {"name": config.model, "key": this.model.key, "parameters": this.model.num_parameters()},
                "domain": _domain_record(this.domain),
                "finetune": tuned_record | {"log": log},
                "attacks": compared,
                "extraction": extraction,
                "control": control,
                "folders": folders,
                "stages": this.timings,
                "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
            },
        )

    folder = this.stage("result", key, work, "compare")
    record = read_json(folder / "result.json")
    # Seconds and cache hits are of this call; everything else is the cached comparison.
    this.timings["total"] = {"seconds": round(time.monotonic() - started, 3)}
    return Result(record | {"stages": this.timings}, store)


def _log_rows(tuned_folder: Path) -> list[dict]:
    import json

    log = tuned_folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _domain_record(domain: Domain) -> dict:
    split = domain.split
    return {
        "name": domain.name,
        "role": domain.role,
        "n_members": len(split.members) if split else 0,
        "n_nonmembers": len(split.nonmembers) if split else 0,
        "repeats": list(domain.repeats),
        "notes": list(domain.notes),
        "key": domain.key,
    }


def load_result(key: str, store: Store | None = None) -> Result:
    """A finished run from the cache. Raises KeyError when there is none of that key."""
    store = store or Store()
    path = store.path("result", key) / "result.json"
    if not path.exists():
        raise KeyError(key)
    return Result(read_json(path), store)
