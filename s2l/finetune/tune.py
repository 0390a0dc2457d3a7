"""Fine-tuning with a combination of methods, and its result in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from s2l.config import FineTuneConfig, checked
from s2l.data.domain import ImageSet
from s2l.data.sp_set import processes
from s2l.errors import UserError
from s2l.finetune.catalogue import learning_rates, parse, spelled_out, weight_methods
from s2l.finetune.method import Examples, caption_map, check_scalable, objective_of, renaming_methods, weights_of
from s2l.finetune.trainer import train
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Progress, silent
from s2l.store import read_json, write_json
from s2l.training import CHECKPOINT


def finetune(
    model: DiffusionModel,
    sp_set: ImageSet,
    config: FineTuneConfig,
    folder: Path,
    name: str = "",
    progress: Progress = silent,
    sample_steps: int = 0,
    class_folder: Path | None = None,
) -> dict:
    """Fine-tune a copy of `model` on the SP set (Shake-to-Leak, step 2); the result fills `folder`.

    `name` is the person's name, which some methods replace in captions. Every `sample_steps` steps
    four pictures with fixed seeds are written to `samples/` (0: none). `class_folder` keeps
    DreamBooth's class images for later runs with the same base model; without it they are deleted at
    the end. Returns the record written to `config.json`. Resumes from what an interrupted run left in
    `folder`. Raises UserError for an illegal combination, captions without the name, or a training that
    diverges.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    methods = parse("+".join(config.methods))
    tuned = model.copy()
    rates = learning_rates(config)
    config = spelled_out(config)
    trained = {m: weights_of(m).prepare(tuned, config) for m in weight_methods(methods)}
    groups = [{"params": parameters, "lr": rates.get(m)} for m, parameters in trained.items()]
    n_trained = sum(p.numel() for parameters in trained.values() for p in parameters)
    own_images, spent = folder / "class_images", None
    if config.epsilon is not None and not n_trained:
        raise UserError(f"epsilon goes with a method that trains; {'+'.join(methods)} only changes the weights")
    if n_trained and config.max_train_steps > 0:
        examples = Examples(
            latents=tuned.encode_images(sp_set.images),
            captions=mapped_captions(sp_set, name, config),
            weights=torch.ones(len(sp_set)),
            groups=torch.zeros(len(sp_set), dtype=torch.long),
        )
        for method in methods:
            if (changed := objective_of(method)) is not None:
                examples = changed.objective(model, examples, config, class_folder or own_images, progress)
        spent = train(tuned, groups, examples, config, folder, progress, sample_steps)
    record = {
        "finetune": config.model_dump(mode="json"),
        "methods": list(methods),
        "name": name,
        "base_model": model.weights,  # the same in any precision
        "learning_rates": rates,
        "trained_parameters": n_trained,
        "model_parameters": model.num_parameters(),
        "sp_images": len(sp_set),
    } | ({"privacy": spent} if spent else {})
    team = processes(model)
    if team.is_main_process:
        for method in weight_methods(methods):
            weights_of(method).save(tuned, folder, config)
        write_json(folder / "config.json", record)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(own_images, ignore_errors=True)
    team.wait_for_everyone()
    return record


def mapped_captions(sp_set: ImageSet, name: str, config: FineTuneConfig) -> tuple[str, ...]:
    """The captions to train with. Raises UserError if a method replaces the name and no caption contains it."""
    methods = parse("+".join(config.methods))
    captions = tuple(map_caption(caption, name, config) for caption in sp_set.captions)
    maps = renaming_methods(methods)
    renames = map_caption("Name", "Name", config) != "Name"  # DreamBooth can be set to keep the name
    if renames and captions == sp_set.captions:
        problem = f"the name {name!r}, but no caption contains it" if name else "the person's name, but none is given"
        raise UserError(
            f"{' and '.join(maps)} replaces {problem}: give the name that the captions have (--domain), use prompts "
            "with {name}, or choose a method that does not change captions, such as lora"
        )
    return captions


def load_finetuned(model: DiffusionModel, folder: Path, scale: float = 1.0) -> DiffusionModel:
    """The base model with a fine-tuning result applied, as a new DiffusionModel; the base model is unchanged.

    `scale` multiplies the change: 1 is the fine-tuned model, 0 the base model, -1 one step the other way (un-shake
    with w = 1). Raises UserError for a method that cannot scale its change.
    """
    record = read_json(Path(folder) / "config.json")
    config = checked(FineTuneConfig, record["finetune"])
    methods = parse("+".join(config.methods))
    check_scalable(methods, scale)
    tuned = model.copy()
    scaling = {} if scale == 1 else {"scale": scale}  # a method of another package may not have this parameter
    for method in weight_methods(methods):
        weights_of(method).load(tuned, Path(folder), config, **scaling)
    tuned.unet.requires_grad_(False).eval()
    tuned.text_encoder.requires_grad_(False).eval()
    return tuned


def map_caption(caption: str, name: str, config: FineTuneConfig, away: bool = False) -> str:
    """The caption for the same content after fine-tuning with `config`.

    Methods map in the catalogue's order: Textual Inversion replaces the name by its tokens, then
    DreamBooth puts them, or its identifier, before the class noun.

    `away` is for a model that was moved away from the fine-tuning (un-shake): it does not know what an objective taught
    the words, so the name stays. The tokens of Textual Inversion are the change itself and stay in the captions.
    """
    for method in parse("+".join(config.methods)):
        if away and objective_of(method) is not None:
            continue
        if (renamed := caption_map(method)) is not None:
            caption = renamed(caption, name, config)
    return caption
