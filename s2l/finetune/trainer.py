"""The one training loop: noise prediction on latents, whatever the method trains.

    z_t = sqrt(a_t) z0 + sqrt(1 - a_t) e
    L   = sum over groups of the mean of  w ||e - eps(z_t, t, c)||^2  over the group's images

A checkpoint that predicts v trains on v = sqrt(a_t) e - sqrt(1 - a_t) z0 in the place of e.

    z0, e, z_t  latent, noise and their mixture, (N, C, h, w)
    c, w        the caption's embeddings and the loss weight of an example; t uniform in [0, T)

Every random choice of step i comes from a generator seeded with (seed, i) and is drawn for the
whole batch of all processes and accumulation steps, so that a resumed run, a run on two processes
and one that accumulates gradients train on the same numbers as a plain one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from s2l.config import FineTuneConfig, SamplerConfig
from s2l.data.sp_set import _write_png, processes
from s2l.errors import UserError
from s2l.finetune.registry import Examples
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Cancelled, Event, Progress, silent

STAGE_VERSION = 2  # raise it when the same settings would give other weights
CHECKPOINT = "training.pt"  # deleted when training is complete
LOG = "log.jsonl"  # one line a step: step, loss, lr, images_per_s
SAMPLES = "samples"  # {step:06d}_{i}.png
SAMPLE_SEEDS = range(80_000_000, 80_000_004)  # far from every other seed
SAMPLER = SamplerConfig(num_inference_steps=15)
FEW_TOKENS = 256  # up to here attention's matrix is small enough to be stored


class _Denoiser(nn.Module):
    """UNet and text encoder as one module, so that one wrapper serves several processes."""

    def __init__(self, model: DiffusionModel):
        super().__init__()
        self.model = (model,)  # in a tuple: not a submodule
        self.unet, self.text_encoder = model.unet, model.text_encoder

    def forward(self, zt, t, text, tokens, context):
        """`text` (N,) numbers the captions; their `context` is given, or comes from their `tokens`."""
        if context is None:
            used, text = text.unique(return_inverse=True)  # every caption is encoded once
            context = self.text_encoder(tokens[used])[0]
        return self.model[0].unet_output(self.unet, zt, t, context[text])


def batch_indices(examples: Examples, config: FineTuneConfig, step: int) -> torch.Tensor:
    """Indices of step `step`: an endless walk through shuffled epochs of each group."""
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


def check_loss(loss: float, first: float, step: int, rates: list[float], idle: float, low_precision: bool) -> None:
    """Stop a training that went wrong, and say why. `idle` is the loss of a model that predicts no noise."""
    rate = " and ".join(f"{rate:g}" for rate in rates)
    if not math.isfinite(loss):
        also = ", or half precision overflowed (try dtype float32 or bfloat16)" if low_precision else ""
        raise UserError(
            f"the loss became {loss} at step {step}: the learning rate {rate} is probably too high, "
            f"try a tenth of it{also}"
        )
    if loss > 10 * max(first, idle):
        raise UserError(
            f"the loss exploded from {first:.3g} to {loss:.3g} at step {step}: the learning rate {rate} "
            "is too high, try a tenth of it"
        )


@contextmanager
def _holding(parameters: list[nn.Parameter], values: list[torch.Tensor] | None) -> Iterator[None]:
    """`parameters` take `values` inside the block."""
    if values is None:
        yield
        return
    kept = [p.detach().clone() for p in parameters]
    _assign(parameters, values)
    try:
        yield
    finally:
        _assign(parameters, kept)


@torch.no_grad()
def _assign(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _draw_samples(model: DiffusionModel, examples: Examples, folder: Path, step: int) -> list[str]:
    """Four pictures with the first captions and fixed seeds; returns their names."""
    (folder / SAMPLES).mkdir(exist_ok=True)
    prompts = [examples.captions[i % len(examples.captions)] for i in range(len(SAMPLE_SEEDS))]
    pictures = model.generate(prompts, SAMPLE_SEEDS, SAMPLER)
    names = [f"{SAMPLES}/{step:06d}_{i}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        _write_png((picture.permute(1, 2, 0).numpy() * 255).round().astype("uint8"), folder / name)
    return names


def train(
    model: DiffusionModel,
    groups: list[dict],
    examples: Examples,
    config: FineTuneConfig,
    folder: Path,
    progress: Progress = silent,
    sample_steps: int = 0,
    checkpoint_seconds: float = 30.0,
) -> None:
    """Train `model` in place; resumes from `folder`.

    `groups` are the optimizer's, [{"params": [...], "lr": 1e-4}, ...]: exactly these parameters
    change. Every `sample_steps` steps pictures go to `samples/` (0: none). Raises UserError when
    the loss explodes or becomes NaN. `progress` may raise Cancelled: the state is kept and the same
    call goes on from that step.
    """
    parameters = [p for group in groups for p in group["params"]]
    if not parameters:
        raise ValueError("nothing to train: the methods gave no parameters")
    processes(model)  # decides on CPU or GPU; the Accelerator joins it
    accelerator = Accelerator(mixed_precision="no")  # for the processes; half precision is below
    n_processes, rank = accelerator.num_processes, accelerator.process_index
    n_groups, accumulated = len(examples.groups.unique()), config.gradient_accumulation_steps
    if n_groups * config.train_batch_size % n_processes:
        raise UserError(
            f"a batch of {n_groups * config.train_batch_size} images cannot be shared by {n_processes} processes: "
            "choose a train_batch_size that is a multiple of their number"
        )

    model.unet.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()  # half precision cannot hold small updates
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=max(1, config.max_train_steps),
    )
    if model.memory.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    low_precision = model.fast_dtype != torch.float32
    scaler = torch.amp.GradScaler(model.device.type, enabled=model.fast_dtype == torch.float16)
    average = [p.detach().clone() for p in parameters] if config.ema_decay else None
    start, state_file, log = 0, folder / CHECKPOINT, folder / LOG
    if state_file.exists():
        state = torch.load(state_file, map_location=model.device, weights_only=True)
        _assign(parameters, state["parameters"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        scaler.load_state_dict(state["scaler"])
        average, start = state["average"], state["step"]
    lines = log.read_text().splitlines(keepends=True)[:start] if log.exists() else []
    first_loss = json.loads(lines[0])["loss"] if lines else None

    trained_text = any(p.requires_grad for p in model.text_encoder.parameters())
    distinct = list(dict.fromkeys(examples.captions))
    number = {caption: i for i, caption in enumerate(distinct)}
    text = torch.tensor([number[c] for c in examples.captions], device=model.device)
    tokens = model.tokenize(distinct)
    # Where nothing upstream of the UNet trains, the captions' embeddings are the same at every step.
    context = None if trained_text else model.encode_prompts(distinct).clone()
    latents, weights = examples.latents.to(model.device).clone(), examples.weights.to(model.device)
    idle = n_groups * float(examples.weights.max())

    denoiser = _Denoiser(model)
    if n_processes > 1:
        denoiser = accelerator.prepare(denoiser)

    def precision():
        return torch.autocast(model.device.type, model.fast_dtype, enabled=low_precision)

    # The backward pass of a CPU's fused attention costs ten times its forward pass; the plain products do not. On a
    # GPU, and for large images, whose attention matrix would fill the memory, the fused one stays.
    plain = low_precision and model.device.type == "cpu" and math.prod(model.latent_shape[1:]) <= FEW_TOKENS
    attention = partial(sdpa_kernel, SDPBackend.MATH) if plain else nullcontext

    def checkpoint(step: int) -> None:
        state = {
            "step": step,
            "parameters": [p.detach() for p in parameters],
            "average": average,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "scaler": scaler.state_dict(),
        }
        log.write_text("".join(lines))
        torch.save(state, state_file.with_suffix(".tmp"))
        os.replace(state_file.with_suffix(".tmp"), state_file)

    def report(step: int, row: dict) -> None:
        """Draw samples and tell the listener; all processes stop together when it says so."""
        stop = False
        if accelerator.is_main_process:
            if sample_steps and (step % sample_steps == 0 or step == config.max_train_steps):
                with precision(), _holding(parameters, average):
                    row = row | {"samples": _draw_samples(model, examples, folder, step), "samples_in": str(folder)}
            try:
                progress(Event("finetune", step, config.max_train_steps, row))
            except Cancelled:
                checkpoint(step)
                stop = True
        if n_processes > 1:
            stop = bool(accelerator.gather(torch.tensor([float(stop)], device=model.device)).any())
        if stop:
            raise Cancelled

    if start == 0:
        report(0, {"trained_parameters": sum(p.numel() for p in parameters)})
    clock = saved = time.monotonic()
    write_seconds, seen = 0.0, 0
    for step in range(start, config.max_train_steps):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + 500_000_009 + step)
        index = batch_indices(examples, config, step)
        noise = torch.randn((len(index), *model.latent_shape), generator=generator)
        t = torch.randint(len(model.alphas_cumprod), (len(index),), generator=generator)
        shares = [part.chunk(n_processes)[rank] for part in (index, noise, t)]
        n = len(shares[0])
        # As many at once as was asked for, or as fit into memory: the sum of their gradients is the same.
        at_once = min(-(-n // accumulated), model.runtime.train_batch_size)
        micros = list(zip(*(share.split(at_once) for share in shares), strict=True))
        loss_sum = torch.zeros(1, device=model.device)
        for micro, (i, e, t) in enumerate(micros, 1):
            i, e, t = i.to(model.device), e.to(model.device), t.to(model.device)
            zt = model.add_noise(latents[i], e, t)
            last = micro == len(micros)
            with nullcontext() if last else accelerator.no_sync(denoiser):
                with precision(), attention():
                    predicted = denoiser(zt, t, text[i], tokens, context)
                error = (predicted - model.training_target(latents[i], e, t)).square().mean(dim=(1, 2, 3))
                loss = (error * weights[i]).sum() * n_groups / n
                scaler.scale(loss).backward()
            loss_sum += loss.detach()
        total = accelerator.gather(loss_sum).mean().item()
        first_loss = total if first_loss is None else first_loss
        check_loss(total, first_loss, step + 1, schedule.get_last_lr(), idle, low_precision)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        rate = schedule.get_last_lr()[0]
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            # A short memory at first: early steps must not be dominated by the start.
            share = 1 - min(config.ema_decay, (1 + step) / (10 + step))
            for mean, parameter in zip(average, parameters, strict=True):
                mean.lerp_(parameter.detach(), share)
        seen += len(index)
        speed = seen / max(time.monotonic() - clock, 1e-9)
        row = {"step": step + 1, "loss": total, "lr": rate, "images_per_s": speed}
        lines.append(json.dumps(row) + "\n")
        now = time.monotonic()
        # Large models take long to write: at most a twentieth of the time goes into it.
        if accelerator.is_main_process and now - saved >= max(checkpoint_seconds, 20 * write_seconds):
            checkpoint(step + 1)
            saved = time.monotonic()
            write_seconds = saved - now
        report(step + 1, row)
    if average is not None:
        _assign(parameters, average)
    if accelerator.is_main_process:
        log.write_text("".join(lines))
    accelerator.wait_for_everyone()
