"""Fine-tuning methods, one file each, through one trainer. To add one, see CONTRIBUTING.md."""

from __future__ import annotations

from pathlib import Path

import torch

from s2l.config import FineTuneConfig, checked
from s2l.domain import ImageSet
from s2l.finetune import lora  # noqa: F401  (importing registers it)
from s2l.finetune.registry import ALIASES, FINETUNERS, Examples, Finetuner, legal_combinations, parse
from s2l.finetune.trainer import CHECKPOINT, STAGE_VERSION, train
from s2l.model import DiffusionModel
from s2l.progress import Progress, silent
from s2l.store import read_json, write_json

__all__ = [
    "ALIASES", "FINETUNERS", "STAGE_VERSION", "Examples", "Finetuner", "finetune", "legal_combinations",
    "load_finetuned", "map_caption", "parse",
]  # fmt: skip


def finetune(
    model: DiffusionModel,
    sp_set: ImageSet,
    config: FineTuneConfig,
    folder: Path,
    name: str = "",
    progress: Progress = silent,
) -> dict:
    """Fine-tune a copy of `model` on the SP set (Shake-to-Leak, step 2); the result fills `folder`.

    `name` is the domain's name, which some methods replace in captions. Returns the record written
    to `config.json`: settings, parameter counts, base model. Resumes what an interrupted run left.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    methods = [FINETUNERS[m] for m in parse("+".join(config.methods))]
    tuned = model.copy()
    parameters = [p for m in methods if m.prepare is not None for p in m.prepare(tuned, config)]
    captions = tuple(map_caption(caption, name, config) for caption in sp_set.captions)
    examples = Examples(
        latents=tuned.encode_images(sp_set.floats()),
        captions=captions,
        weights=torch.ones(len(sp_set)),
        groups=torch.zeros(len(sp_set), dtype=torch.long),
    )
    for method in methods:
        if method.objective is not None:
            examples = method.objective(model, examples, name, config, folder)
    if parameters and config.max_train_steps > 0:
        train(tuned, parameters, examples, config, folder, progress)
    for method in methods:
        if method.save is not None:
            method.save(tuned, folder, config)
    record = {
        "finetune": config.model_dump(mode="json"),
        "name": name,
        "base_model": model.key,
        "trained_parameters": sum(p.numel() for p in parameters),
        "model_parameters": model.num_parameters(),
        "sp_images": len(sp_set),
    }
    write_json(folder / "config.json", record)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return record


def load_finetuned(model: DiffusionModel, folder: Path) -> DiffusionModel:
    """The base model with a fine-tuning result applied: a new DiffusionModel, the base untouched."""
    record = read_json(Path(folder) / "config.json")
    config = checked(FineTuneConfig, record["finetune"])
    tuned = model.copy()
    for method in parse("+".join(config.methods)):
        if FINETUNERS[method].load is not None:
            FINETUNERS[method].load(tuned, Path(folder), config)
    tuned.unet.requires_grad_(False).eval()
    tuned.text_encoder.requires_grad_(False).eval()
    return tuned


def map_caption(caption: str, name: str, config: FineTuneConfig) -> str:
    """The caption that addresses the same content after fine-tuning with `config`."""
    for method in parse("+".join(config.methods)):
        caption = FINETUNERS[method].map_caption(caption, name, config)
    return caption
