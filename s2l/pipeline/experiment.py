"""run(config) -> Result: everything from the SP set to the result, in stages cached by what they depend on.

    person -> SP set -> fine-tuning -> { scores, generations } before and after -> comparison

A stage's key says what it depends on (see identity.py). A new attack therefore reuses the same fine-tuned weights, and
a killed run resumes where it stopped.
"""

from __future__ import annotations

import json
import operator
import platform
from collections.abc import Sequence
from functools import partial, reduce
from importlib.metadata import version
from pathlib import Path

import torch

from s2l import attacks, finetune
from s2l.config import SCHEMA_VERSION, AuditRunConfig, DomainConfig, FineTuneConfig, RunConfig
from s2l.data import sp_set
from s2l.data.domain import Domain, folder_domain
from s2l.data.lab_domain import calibration_domains, lab_domain
from s2l.errors import UserError
from s2l.finetune import dreambooth
from s2l.labs import find_lab
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.pipeline import identity, plan
from s2l.pipeline import stages as declared
from s2l.pipeline.audit import AuditResult, audit
from s2l.pipeline.captions import as_read
from s2l.pipeline.membership import check_split
from s2l.pipeline.stages import CLASS_IMAGES, FINETUNE, RESULT, SP_SET, Stages
from s2l.pipeline.subject import Subject
from s2l.pipeline.tuned import caption_notes, fine_tuned, is_result, read_tuned, say
from s2l.pipeline.unshake import FineTuned
from s2l.progress import Progress, silent
from s2l.record import Result, load_result  # noqa: F401  (load_result: for those who import it from here)
from s2l.store import Store, read_json, write_json

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "scikit-learn", "scipy")


def load_domain(config: DomainConfig, model: str, resolution: int) -> Domain:
    """The domain of a run: a person for a lab, folders for any other model."""
    lab = find_lab(model)
    if lab is not None and config.members is None and config.nonmembers is None:
        return lab_domain(lab, config)
    return folder_domain(config, resolution)


def calibration_people(config: DomainConfig, model: str) -> Sequence[Domain]:
    """The lab's calibration people except the one under test; none for folders and other models."""
    lab = find_lab(model)
    return () if lab is None or config.members is not None else calibration_domains(lab, config.name)


class _Run:
    """S2L's first two steps, in order. Each method returns the stage's folder."""

    def __init__(self, config: RunConfig, stages: Stages, runtime: Runtime):
        self.config, self.stage, self.progress = config, stages, stages.progress
        self.model = load_in_one_process(config.model, runtime)
        domain = load_domain(config.domain, config.model, self.model.resolution)
        self.domain = as_read(domain, self.model, config.sp_set)
        check_split(self.domain)

    # --- S2L steps 1 and 2 ---

    def make_sp_sets(self) -> list[Path]:
        """The folder of the SP set, then those of the people who are shaken together with this one."""
        config, model, progress = self.config.sp_set, self.model, self.progress
        lab, others = find_lab(self.config.model), config.together or ()
        if lab is not None and self.config.domain.members is None:
            others = tuple(lab.person(name).name for name in others)
        folders: dict[str, Path] = {}
        for name in (self.domain.name, *others):
            stage = declared.sp_set_of(name) if folders else SP_SET
            work = partial(sp_set.generate_sp_set, model, name, config, progress=progress)
            key = identity.sp_set(model.key, name, config)
            folders[key] = self.stage(stage, key, work)
        self.sp_key = identity.sp_sets(list(folders))
        self.training_sets = [folders[key] for key in sorted(folders)]  # in one order, whoever is under test
        return list(folders.values())

    def fine_tune(self) -> Path:
        config, several = self.config.finetune, len(self.training_sets) > 1
        name = "" if several else self.domain.name  # only methods that leave names alone train on several people
        self.tuned_key = identity.finetune(self.sp_key, config, finetune.learning_rates(config), name)

        class_folder = self.class_images(config)

        def work(folder: Path) -> None:
            images = reduce(operator.add, map(sp_set.load_images, self.training_sets))
            every = plan.sample_every(config)
            finetune.finetune(self.model, images, config, folder, name, self.progress, every, class_folder)

        self.tuned_folder = self.stage(FINETUNE, self.tuned_key, work)
        return self.tuned_folder

    def class_images(self, config: FineTuneConfig) -> Path | None:
        """The folder of DreamBooth's class images; None if the run needs none."""
        n = plan.class_images(self.config)
        if n == 0:
            return None
        own = dreambooth.own_settings(config)
        key = identity.class_images(self.model.key, own.class_noun, n, own.class_sampler)
        return self.stage(
            CLASS_IMAGES, key, lambda folder: dreambooth.class_images(self.model, config, n, folder, self.progress)
        )

    @property
    def tuned(self) -> FineTuned:
        return fine_tuned(self.model, self.tuned_folder, self.tuned_key, self.domain.name, self.config.finetune)


def shaken(config: RunConfig, stages: Stages, runtime: Runtime = Runtime()) -> tuple[DiffusionModel, FineTuned]:
    """The base model, and the one that a run's first two steps make of it: the same cached stages as in `run`."""
    this = _Run(config, stages, runtime)
    this.make_sp_sets()
    this.fine_tune()
    return this.model, this.tuned


def load_in_one_process(model: str, runtime: Runtime) -> DiffusionModel:
    """The model, in a run of one process. Raises UserError if there are several processes."""
    loaded = DiffusionModel.load(model, runtime)
    if sp_set.processes(loaded).num_processes > 1:
        # One process would hold a stage's lock while the others wait for it at a barrier.
        raise UserError("`run` uses one process; `sp-gen` and `finetune` can use several")
    return loaded


def run(
    config: RunConfig,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> Result:
    """Run everything from the SP set to the result, reusing every finished stage of the cache.

    Raises UserError for invalid input, and Cancelled when `progress` does; in both cases finished work
    stays and the same call resumes from there.
    """
    stages = Stages(store, progress)
    torch.manual_seed(0)  # nothing below uses the global generator; libraries might
    for name in config.audit.attacks:
        attacks.attack_settings(name, config.audit)  # report a typo before training, not after it
    finetune.parse("+".join(config.finetune.methods))
    finetune.spelled_out(config.finetune)
    if config.unshake is not None and config.unshake.space == "weights":
        finetune.check_scalable(config.finetune.methods, -config.unshake.w)
    if config.sp_set.together and (renaming := finetune.renaming_methods(config.finetune.methods)):
        raise UserError(
            f"{' and '.join(renaming)} replaces one person's name in captions with a new word: shaking people together "
            "needs a method that leaves captions unchanged, such as lora",
            "sp_set.together",
        )
    this = _Run(config, stages, runtime)
    sp_folder = this.make_sp_sets()[0]
    tuned_folder = this.fine_tune()
    people = partial(calibration_people, config.domain, config.model)
    outcome = audit(
        Subject.of(this.model), this.tuned, this.domain, config.audit, config.extraction, stages, people, config.unshake
    )
    folders = {"sp_set": sp_folder, "finetune": tuned_folder}
    return _finish("run", config, this.model, this.domain, outcome, stages, folders, _training(tuned_folder))


def run_audit(
    config: AuditRunConfig,
    store: Store | None = None,
    runtime: Runtime = Runtime(),
    progress: Progress = silent,
) -> Result:
    """Audit a model that was fine-tuned elsewhere, whatever tool wrote it (see tuned.py).

    The same comparison as `run`, without its first two steps. Raises UserError for invalid input.
    """
    stages = Stages(store, progress)
    for name in config.audit.attacks:
        attacks.attack_settings(name, config.audit)
    model = load_in_one_process(config.model, runtime)
    domain = as_read(load_domain(config.domain, config.model, model.resolution), model)
    check_split(domain)
    tuned = read_tuned(model, Path(config.tuned), domain.name, config.unshake is not None)
    training = _training(Path(config.tuned)) if is_result(Path(config.tuned)) else None
    notes = [*tuned.notes, *say(caption_notes(tuned, domain))]
    people = partial(calibration_people, config.domain, config.model)
    outcome = audit(Subject.of(model), tuned, domain, config.audit, config.extraction, stages, people, config.unshake)
    if notes:
        outcome.record["tuned_notes"] = notes
    return _finish("audit", config, model, domain, outcome, stages, {}, training)


def _finish(
    kind: str,
    config: RunConfig | AuditRunConfig,
    model: DiffusionModel,
    domain: Domain,
    outcome: AuditResult,
    stages: Stages,
    folders: dict[str, Path],
    training: dict | None,
) -> Result:
    """Write result.json into the cache and read it back."""
    key = identity.result(kind, config, stages.keys())

    def work(folder: Path) -> None:
        record = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "key": key,
            "config": identity.spelled_out(config).model_dump(mode="json"),
            "model": model_record(config.model, model),
            "domain": _domain_record(domain),
            "finetune": training,
            **outcome.record,
            "folders": {name: stages.relative(path) for name, path in (folders | outcome.folders).items()},
            "stages": stages.timings,
            "versions": versions(),
        }
        write_json(folder / "result.json", record)

    folder = stages(RESULT, key, work)
    # Seconds, cache hits and what the folders hold are this call's; everything else is the cached comparison.
    now = {"stages": stages.total(), "domain": _domain_record(domain)}
    return Result(read_json(folder / "result.json") | now, stages.store)


def model_record(name: str, model: DiffusionModel) -> dict:
    """The part "model" of a result."""
    return {
        "name": name,
        "lab": lab.name if (lab := find_lab(name)) is not None else None,
        "revision": model.revision,
        "key": model.key,
        "precision": model.precision,
        "parameters": model.num_parameters(),
        "notes": list(model.notes),
    }


def versions() -> dict[str, str]:
    """The part "versions" of a result."""
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def _training(tuned_folder: Path) -> dict:
    """What a fine-tuning recorded, with the loss of each step."""
    log = tuned_folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return read_json(tuned_folder / "config.json") | {"log": [json.loads(line) for line in lines if line.strip()]}


def _domain_record(domain: Domain) -> dict:
    split = domain.split
    aside = split.calibration if split else None
    return {
        "name": domain.name,
        "role": domain.role,
        "n_members": len(split.members) if split else 0,
        "n_nonmembers": len(split.nonmembers) if split else 0,
        "n_calibration": [len(aside.members), len(aside.nonmembers)] if aside else [0, 0],
        "repeats": list(domain.repeats),
        "notes": list(domain.notes),
        "key": domain.key,
        **({"report": domain.report.record()} if domain.report is not None else {}),
    }
