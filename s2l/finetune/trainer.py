"""Fine-tuning through the training loop: the examples, the batches and the sample pictures."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler

from s2l.config import FineTuneConfig, SamplerConfig
from s2l.data.sp_set import processes, write_png
from s2l.errors import UserError
from s2l.finetune.method import Examples
from s2l.finetune.private import PrivatePictures
from s2l.model.diffusion import DiffusionModel
from s2l.privacy import PrivateTraining
from s2l.progress import Event, Progress, silent
from s2l.training import Batch, TrainingSet, averaged, fit, new_state

SAMPLES = "samples"  # {step:06d}_{i}.png
SAMPLE_SEEDS = range(80_000_000, 80_000_004)  # far from every other seed
SAMPLER = SamplerConfig(num_inference_steps=15)
READ_EVERY = 10  # steps whose losses a GPU gives back together


def batch_indices(examples: Examples, config: FineTuneConfig, step: int) -> torch.Tensor:
    """Indices of step `step`: endless passes over each group, shuffled anew in each epoch."""
    parts, size = [], config.train_batch_size * config.gradient_accumulation_steps
    for group in examples.groups.unique().tolist():
        members = (examples.groups == group).nonzero().flatten()
        n, first, wanted = len(members), step * size, size
        while wanted > 0:
            epoch, offset = divmod(first, n)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch * 7 + int(group))
            part = members[torch.randperm(n, generator=generator)[offset : offset + wanted]]
            parts.append(part)
            first, wanted = first + len(part), wanted - len(part)
    return torch.cat(parts)


class _Walk:
    """The batches of a fine-tuning: equally many examples per group in every step, with seeded noise and timesteps."""

    def __init__(self, model: DiffusionModel, examples: Examples, config: FineTuneConfig):
        self.shape, self.n_timesteps = model.latent_shape, len(model.alphas_cumprod)
        self.examples, self.config = examples, config

    def __call__(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + 500_000_009 + step)
        index = batch_indices(self.examples, self.config, step)
        noise = torch.randn((len(index), *self.shape), generator=generator)
        return Batch(index, noise, torch.randint(self.n_timesteps, (len(index),), generator=generator))

    def state_dict(self) -> dict:
        """Nothing: a batch depends on its step alone."""
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def _training_set(model: DiffusionModel, examples: Examples) -> TrainingSet:
    distinct = list(dict.fromkeys(examples.captions))
    number = {caption: i for i, caption in enumerate(distinct)}
    return TrainingSet(
        latents=examples.latents,
        tokens=model.tokenize(distinct),
        captions=torch.tensor([number[caption] for caption in examples.captions]),
        weights=examples.weights,
        n_groups=len(examples.groups.unique()),
    )


def _draw_samples(model: DiffusionModel, examples: Examples, folder: Path, step: int) -> list[str]:
    """Four pictures with the first captions and fixed seeds; returns their names."""
    (folder / SAMPLES).mkdir(exist_ok=True)
    prompts = [examples.captions[i % len(examples.captions)] for i in range(len(SAMPLE_SEEDS))]
    pictures = model.generate(prompts, SAMPLE_SEEDS, SAMPLER)
    names = [f"{SAMPLES}/{step:06d}_{i}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        write_png((picture.permute(1, 2, 0).numpy() * 255).round().astype("uint8"), folder / name)
    return names


def _capturable(model: DiffusionModel, config: FineTuneConfig, batch_size: int, n_processes: int) -> bool:
    """Whether every step is the same passes on one GPU: then they are launched as one CUDA graph."""
    whole = config.gradient_accumulation_steps == 1 and batch_size <= model.runtime.train_batch_size
    text = any(p.requires_grad for p in model.text_encoder.parameters())  # distinct captions: their number varies
    checkpointing = model.memory.gradient_checkpointing
    half = model.fast_dtype == torch.float16  # the gradients' scale changes from step to step
    return model.device.type == "cuda" and n_processes == 1 and whole and not (text or checkpointing or half)


def _read_every(model: DiffusionModel, sample_steps: int) -> int:
    """After how many steps losses are read: sample pictures, drawn in their event, need the weights of that step."""
    return 1 if model.device.type == "cpu" else math.gcd(READ_EVERY, sample_steps)


def train(
    model: DiffusionModel,
    groups: list[dict],
    examples: Examples,
    config: FineTuneConfig,
    folder: Path,
    progress: Progress = silent,
    sample_steps: int = 0,
    checkpoint_seconds: float = 30.0,
) -> dict | None:
    """Train `model` in place; resumes from `folder`. Returns what was spent under differential privacy, else None.

    `groups` are the optimizer's, [{"params": [...], "lr": 1e-4}, ...]: exactly these parameters change. Every
    `sample_steps` steps pictures are written to `samples/` (0: none). Raises UserError when the loss explodes or
    becomes NaN. `progress` may raise Cancelled: the state is saved and the same call resumes from that step.
    """
    parameters = [p for group in groups for p in group["params"]]
    if not parameters:
        raise ValueError("nothing to train: the methods gave no parameters")
    team, wanted = processes(model), len(examples.groups.unique()) * config.train_batch_size
    if config.epsilon is not None and team.num_processes > 1:
        raise UserError("fine-tuning under differential privacy runs in one process: start it without a launcher")
    if wanted % team.num_processes:
        raise UserError(
            f"a batch of {wanted} images cannot be shared by {team.num_processes} processes: "
            "choose a train_batch_size that is a multiple of their number"
        )
    model.unet.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()  # half precision cannot hold small updates

    def schedule(optimizer: torch.optim.Optimizer):
        warm_up, steps = config.lr_warmup_steps, max(1, config.max_train_steps)
        return get_scheduler(config.lr_scheduler, optimizer, num_warmup_steps=warm_up, num_training_steps=steps)

    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    state = new_state(model, optimizer, schedule, config.ema_decay)
    private = PrivatePictures(model, examples, config) if config.epsilon is not None else None
    batches = private or _Walk(model, examples, config)
    state.resume(folder, batches)

    def listen(event: Event) -> None:
        """Generate sample pictures before the step is reported."""
        last = event.step == config.max_train_steps
        if sample_steps and (event.step % sample_steps == 0 or last):
            with averaged(state), model.training_precision():
                names = _draw_samples(model, examples, folder, event.step)
            event = replace(event, info=event.info | {"samples": names, "samples_in": str(folder)})
        progress(event)

    privacy = PrivateTraining(private, ghost=False) if private else None
    with privacy.hooked() if privacy else nullcontext():
        fit(
            model, state, _training_set(model, examples), batches, config.max_train_steps, folder,
            max_grad_norm=config.max_grad_norm, accumulation=config.gradient_accumulation_steps, plain_attention=True,
            capture=not private and _capturable(model, config, wanted, team.num_processes), privacy=privacy,
            read_every=_read_every(model, sample_steps),
            checkpoint_seconds=checkpoint_seconds, listen=listen, stage="finetune",
        )  # fmt: skip
    if state.average is not None:
        state.average.copy_to(parameters)
    return private.record() if private else None
