"""The one training loop: noise prediction on latents, whatever the method trains.

Every random choice of step i comes from a generator seeded with (seed, i) and is drawn for the
whole global batch, so that a resumed run and a run on two processes train on the same numbers as
an unbroken one on one process.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn

from s2l.config import FineTuneConfig, UserError
from s2l.finetune.registry import Examples
from s2l.model import DiffusionModel
from s2l.progress import Event, Progress, silent

STAGE_VERSION = 1  # raise it when the same settings would give other weights
CHECKPOINT = "training.pt"  # deleted when training is complete
LOG = "log.jsonl"  # one line a step: step, loss, lr, images_per_s


class _Denoiser(nn.Module):
    """UNet and text encoder as one module, so that one wrapper serves several processes."""

    def __init__(self, model: DiffusionModel):
        super().__init__()
        self.model = (model,)  # in a tuple: not a submodule
        self.unet, self.text_encoder = model.unet, model.text_encoder

    def forward(self, zt, t, tokens=None, context=None):
        if context is None:
            context = self.text_encoder(tokens)[0]
        return self.model[0].predict_noise(self.unet, zt, t, context)


def _batch_indices(examples: Examples, config: FineTuneConfig, step: int) -> torch.Tensor:
    """Indices of step `step`: an endless walk through shuffled epochs of each group."""
    parts = []
    for group in examples.groups.unique().tolist():
        members = (examples.groups == group).nonzero().flatten()
        n, first, wanted = len(members), step * config.train_batch_size, config.train_batch_size
        while wanted > 0:
            epoch, offset = divmod(first, n)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch * 7 + int(group))
            part = members[torch.randperm(n, generator=generator)[offset : offset + wanted]]
            parts.append(part)
            first, wanted = first + len(part), wanted - len(part)
    return torch.cat(parts)


def _mine(n: int, accelerator: Accelerator) -> slice:
    """The share of a global batch of n that this process works on."""
    if n % accelerator.num_processes:
        raise UserError(f"the batch of {n} does not divide among {accelerator.num_processes} processes")
    share = n // accelerator.num_processes
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def _check_loss(loss: float, first: float | None, step: int, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss became {loss} at step {step}: the learning rate {learning_rate:g} is probably too high "
            "(try a tenth of it), or float16 overflowed (try bfloat16)"
        )
    if first is not None and loss > 20 * max(first, 0.05):
        raise UserError(
            f"the loss exploded from {first:.3g} to {loss:.3g} at step {step}: the learning rate "
            f"{learning_rate:g} is too high, try a tenth of it"
        )


def train(
    model: DiffusionModel,
    parameters: list[nn.Parameter],
    examples: Examples,
    config: FineTuneConfig,
    folder: Path,
    progress: Progress = silent,
    checkpoint_steps: int = 50,
) -> None:
    """Train `parameters` of `model` in place on the epsilon objective; resumes from `folder`.

    Raises UserError when the loss explodes or becomes NaN. `progress` may raise Cancelled between
    two steps; the last checkpoint stays and the same call goes on from there.
    """
    if not parameters:
        raise ValueError("nothing to train: the methods gave no parameters")
    accelerator = Accelerator(
        cpu=model.device.type == "cpu", gradient_accumulation_steps=config.gradient_accumulation_steps
    )
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()  # half precision cannot hold small updates
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    try:
        schedule = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=max(1, config.max_train_steps),
        )
    except ValueError:
        raise UserError(
            f"unknown lr_scheduler {config.lr_scheduler!r}; allowed: constant, constant_with_warmup, "
            "linear, cosine, cosine_with_restarts, polynomial"
        ) from None
    average = [p.detach().clone() for p in parameters] if config.ema_decay else None
    start, state_file = 0, folder / CHECKPOINT
    if state_file.exists():
        state = torch.load(state_file, map_location=model.device, weights_only=True)
        with torch.no_grad():
            for parameter, saved in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        average, start = state["average"], state["step"]

    trained_text = any(p.requires_grad for p in model.text_encoder.parameters())
    tokens = model.tokenize(examples.captions)
    # Nothing upstream of the UNet trains: the captions' embeddings are the same at every step.
    context = None if trained_text else model.encode_prompts(examples.captions).clone()
    latents = examples.latents.to(model.device).clone()
    weights = examples.weights.to(model.device)

    denoiser = _Denoiser(model)
    if accelerator.num_processes > 1:
        denoiser = accelerator.prepare(denoiser)
    low_precision = model.dtype != torch.float32
    n_timesteps = len(model.alphas_cumprod)
    log = folder / LOG
    kept = log.read_text().splitlines()[:start] if log.exists() else []
    lines = [line + "\n" for line in kept]
    first_loss = json.loads(kept[0])["loss"] if kept else None

    def checkpoint(step: int) -> None:
        if not accelerator.is_main_process:
            return
        state = {
            "step": step,
            "parameters": [p.detach() for p in parameters],
            "average": average,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        torch.save(state, state_file.with_suffix(".tmp"))
        os.replace(state_file.with_suffix(".tmp"), state_file)
        log.write_text("".join(lines))

    clock, seen = time.monotonic(), 0
    for step in range(start, config.max_train_steps):
        total = 0.0
        for micro in range(config.gradient_accumulation_steps):
            number = step * config.gradient_accumulation_steps + micro
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + 500_000_009 + number)
            index = _batch_indices(examples, config, number)
            noise = torch.randn((len(index), *model.latent_shape), generator=generator).to(model.device)
            t = torch.randint(n_timesteps, (len(index),), generator=generator).to(model.device)
            some = _mine(len(index), accelerator)
            index, noise, t = index[some], noise[some], t[some]
            zt = model.add_noise(latents[index], noise, t)
            with torch.autocast(model.device.type, model.dtype, enabled=low_precision):
                predicted = denoiser(
                    zt, t, tokens=tokens[index] if trained_text else None,
                    context=None if trained_text else context[index],
                )  # fmt: skip
            loss = ((predicted - noise).square().mean(dim=(1, 2, 3)) * weights[index]).mean()
            accelerator.backward(loss / config.gradient_accumulation_steps)
            total += accelerator.gather(loss.detach()).mean().item() / config.gradient_accumulation_steps
            seen += len(index) * accelerator.num_processes
        _check_loss(total, first_loss, step + 1, config.learning_rate)
        first_loss = total if first_loss is None else first_loss
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            with torch.no_grad():
                # A short memory at first: early steps must not be dominated by the start.
                torch._foreach_lerp_(average, parameters, 1 - min(config.ema_decay, (1 + step) / (10 + step)))
        speed = seen / max(time.monotonic() - clock, 1e-9)
        row = {"step": step + 1, "loss": total, "lr": schedule.get_last_lr()[0], "images_per_s": speed}
        lines.append(json.dumps(row) + "\n")
        if (step + 1) % checkpoint_steps == 0 or step + 1 == config.max_train_steps:
            checkpoint(step + 1)
        progress(Event("finetune", step + 1, config.max_train_steps, row))
    if average is not None:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    if accelerator.is_main_process:
        log.write_text("".join(lines))
    accelerator.wait_for_everyone()
