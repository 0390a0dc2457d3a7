"""The one training loop: noise prediction on latents, for pre-training and for every fine-tuning method.

    z_t = sqrt(a_t) z0 + sqrt(1 - a_t) e
    L   = sum over groups of the mean of  w ||e - eps(z_t, t, c)||^2  over the group's examples

A checkpoint that predicts v trains on v = sqrt(a_t) e - sqrt(1 - a_t) z0 instead of e.

    z0, e, z_t  latent, noise and their mixture, (N, C, h, w)
    c, w        the caption's embeddings and the loss weight of an example; t uniform in [0, T)

The caller decides what trains (the optimizer's groups), on what (`TrainingSet`) and what each step sees (`Batches`).
Every random choice of a step comes from a generator seeded with the step and is drawn for the whole batch of all
processes and accumulation steps. A resumed run, a run on two processes and one that accumulates gradients therefore
train on the same numbers as a plain run.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LRScheduler

from s2l.errors import UserError
from s2l.model.captured import CapturedGradients, upload
from s2l.model.diffusion import DiffusionModel
from s2l.model.saved import load_state
from s2l.progress import Cancelled, Event

REQUEST = "training.json"  # what a folder's training is for, written before it starts
CHECKPOINT = "training.pt"  # the caller of the loop deletes it when the result is saved
LOG = "log.jsonl"  # one line per step: step, loss, lr, images_per_s
FEW_TOKENS = 256  # up to this many tokens, the attention matrix is small enough to be stored


# --- what it trains on ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSet:
    """All the data of a training.

    latents   z0, (M, C, h, w)
    tokens    the distinct captions' token ids, (V, L)
    captions  (M,) the index of each latent's caption
    weights   (M,) loss weight of each example
    n_groups  groups whose mean losses are added up (2 with DreamBooth's class images)
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    captions: torch.Tensor
    weights: torch.Tensor
    n_groups: int = 1


@dataclass(frozen=True)
class Batch:
    """What one step sees, on the CPU: `index` (N,) into the examples, `noise` (N, C, h, w), `t` (N,).

    `captions` (N,), if given, replace the examples' own (caption dropout). A Poisson sampler may give a batch without
    examples; `expected` is then what the loss is divided by.
    """

    index: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    captions: torch.Tensor | None = None
    expected: int | None = None


class Unread(NamedTuple):
    """A step whose loss is still on the device: its number, the loss (), the learning rates, and its examples."""

    step: int
    loss: torch.Tensor
    rates: list[float]
    n: int


class Batches(Protocol):
    """The batch of each step. Its counters are in its state, so that a resumed run continues them."""

    def __call__(self, step: int) -> Batch: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...


def poisson_index(n: int, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Indices of one Poisson-sampled batch: each of n examples enters independently with probability `rate`.

    The size varies and can be 0. It is the sampling that the privacy accountants of DP-SGD assume (Mironov et al.
    2019, arXiv 1908.10530).
    """
    return (torch.rand(n, generator=generator) < rate).nonzero().flatten()


class Privacy(Protocol):
    """Differentially private training replaces exactly three things, together: module, optimizer and batches.

    The module then keeps a gradient per example, the optimizer clips, sums and adds noise, and the batches are
    Poisson-sampled, which is what the accounting assumes.
    """

    def __call__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches
    ) -> tuple[nn.Module, torch.optim.Optimizer, Batches]: ...


# --- the state -----------------------------------------------------------------------------------


@dataclass
class State:
    """What a training keeps between steps; a checkpoint contains all of it."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    average: EMAModel | None
    step: int = 0
    first_loss: float | None = None
    log: list[str] = field(default_factory=list)

    def save(self, folder: Path, batches: Batches) -> None:
        """Write the checkpoint so that a killed process leaves the old one or the new one."""
        state = {
            "step": self.step,
            "first_loss": self.first_loss,
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": batches.state_dict(),
            "log": self.log,  # the file may have been cut while it was written
        }
        self.write_log(folder)
        path = folder / CHECKPOINT
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def resume(self, folder: Path, batches: Batches) -> None:
        """Resume from the folder's checkpoint, if there is one that can be read."""
        path, log = folder / CHECKPOINT, folder / LOG
        state = load_state(path, "the training starts again", self.parameters[0].device)
        if state is not None:
            if "batches" not in state:
                path.unlink(missing_ok=True)  # from a version before this loop, which cannot be resumed
                return
            assign(self.parameters, state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            batches.load_state_dict(state["batches"])
            self.step, self.first_loss = state["step"], state["first_loss"]
            rows = log.read_text().splitlines(keepends=True)[: self.step] if log.exists() else []
            self.log = state.get("log", rows)

    def write_log(self, folder: Path) -> None:
        if not self.log:  # an empty file would look like a damaged one
            return
        path = folder / LOG
        path.with_suffix(".tmp").write_text("".join(self.log))
        os.replace(path.with_suffix(".tmp"), path)


def new_state(
    model: DiffusionModel,
    optimizer: torch.optim.Optimizer,
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler],
    ema_decay: float,
) -> State:
    """The state before the first step. An `ema_decay` of 0 keeps no average."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average = EMAModel(parameters, decay=ema_decay, foreach=True) if ema_decay else None
    scaler = torch.amp.GradScaler(model.device.type, enabled=model.fast_dtype == torch.float16)
    return State(parameters, optimizer, scheduler(optimizer), scaler, average)


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """The parameters hold their moving average inside the block, if there is one."""
    if state.average is None:
        yield
        return
    raw = [p.detach().clone() for p in state.parameters]
    state.average.copy_to(state.parameters)
    try:
        yield
    finally:
        assign(state.parameters, raw)


def check_loss(loss: float, first: float, step: int, rates: list[float], idle: float, low_precision: bool) -> None:
    """Raise UserError if the training diverges. `idle` is the loss of a model that predicts no noise."""
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


# --- a step --------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that one wrapper (several processes, privacy) serves both."""

    def __init__(self, model: DiffusionModel, tokens: torch.Tensor, context: torch.Tensor | None, distinct: bool):
        """`context` (V, L, D) are the captions' embeddings if the text encoder does not train.

        With `distinct`, a caption that occurs several times in a batch is encoded once.
        """
        super().__init__()
        self.model = (model,)  # in a tuple: not a submodule
        self.unet, self.text_encoder = model.unet, model.text_encoder
        self.tokens, self.context, self.distinct = tokens, context, distinct

    def embed(self, captions: torch.Tensor) -> torch.Tensor:
        """Indices of captions (N,) -> their embeddings (N, L, D)."""
        if self.context is not None:
            return self.context[captions]
        if not self.distinct:
            return self.text_encoder(self.tokens[captions])[0]
        used, place = captions.unique(return_inverse=True)
        return self.text_encoder(self.tokens[used])[0][place]

    def forward(self, z0, noise, t, captions) -> torch.Tensor:
        """The loss of each example, (N,)."""
        return self.model[0].loss(z0, noise, t, self.embed(captions), self.unet)


def fit(
    model: DiffusionModel,
    state: State,
    examples: TrainingSet,
    batches: Batches,
    stop: int,
    folder: Path,
    *,
    max_grad_norm: float = 1.0,
    accumulation: int = 1,
    distinct: bool = True,
    plain_attention: bool = False,
    capture: bool = False,
    privacy: Privacy | None = None,
    read_every: int = 1,
    checkpoint_seconds: float = 30.0,
    listen: Callable[[Event], None],
    stage: str,
    total: int | None = None,
) -> None:
    """Train the state's parameters in place from `state.step` to `stop`; the average stays in the state.

    `listen` gets one Event per step in the main process and may raise Cancelled: the state is saved, and the same call
    resumes from that step. `capture` replays the passes of a step as a CUDA graph: batches of one size on one GPU.
    The losses of `read_every` steps are read from the device together, so that a GPU need not wait for the CPU, and
    their events come together too, at steps that `read_every` divides and at the last one.
    Raises UserError when the loss explodes or becomes NaN, or when processes cannot share a batch.
    """
    accelerator = Accelerator(mixed_precision="no")  # for the processes; half precision is below
    n_processes, rank, device = accelerator.num_processes, accelerator.process_index, model.device
    parameters, optimizer = state.parameters, state.optimizer
    low_precision = model.fast_dtype != torch.float32
    if model.memory.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()

    tokens = examples.tokens.to(device)
    trains_text = any(p.requires_grad for p in model.text_encoder.parameters())
    # If nothing before the UNet trains, the captions' embeddings are the same at every step.
    context = None if trains_text else model.encode_tokens(tokens).clone()
    latents, weights = examples.latents.to(device).clone(), examples.weights.to(device)
    captions = examples.captions.to(device)
    idle = examples.n_groups * float(examples.weights.max())

    denoiser: nn.Module = Denoiser(model, tokens, context, distinct)
    if privacy is not None:
        denoiser, optimizer, batches = privacy(denoiser, optimizer, batches)
    if n_processes > 1:
        denoiser = accelerator.prepare(denoiser)

    # On a CPU, the backward pass of fused attention costs ten times its forward pass; that of the plain products does
    # not. On a GPU, and for large images, whose attention matrix would fill the memory, attention stays fused.
    plain = (
        plain_attention and low_precision and device.type == "cpu" and math.prod(model.latent_shape[1:]) <= FEW_TOKENS
    )
    attention = partial(sdpa_kernel, SDPBackend.MATH) if plain else nullcontext

    def gradients(z0, noise, t, text, weight, expected: int) -> torch.Tensor:
        """Add the gradient of some examples' share in a batch of `expected`; returns that part of the loss, (1,)."""
        with model.training_precision(), attention():
            losses = denoiser(z0, noise, t, text)
        loss = (losses * weight).sum() * examples.n_groups / expected
        state.scaler.scale(loss).backward()
        return loss.detach().reshape(1)

    captured: CapturedGradients | None = None

    def checkpoint() -> None:
        state.save(folder, batches)

    def report(step: int, row: dict) -> None:
        """Report to the listener; all processes stop together if it raises Cancelled."""
        stopped = False
        if accelerator.is_main_process:
            try:
                listen(Event(stage, step, total or stop, row))
            except Cancelled:
                checkpoint()
                stopped = True
        if n_processes > 1:
            stopped = bool(accelerator.gather(torch.tensor([float(stopped)], device=device)).any())
        if stopped:
            raise Cancelled

    def read(unread: list[Unread]) -> list[dict]:
        """Check and log the losses of steps that are done; returns their rows."""
        rows = []
        losses = torch.stack([each.loss for each in unread]).tolist()
        speed = seen / max(time.monotonic() - clock, 1e-9)
        for each, loss in zip(unread, losses, strict=True):
            if each.n:
                state.first_loss = loss if state.first_loss is None else state.first_loss
                check_loss(loss, state.first_loss, each.step, each.rates, idle, low_precision)
            rows.append({"step": each.step, "loss": loss, "lr": each.rates[0], "images_per_s": speed})
            state.log.append(json.dumps(rows[-1]) + "\n")
        return rows

    unread: list[Unread] = []
    if state.step == 0:
        report(0, {"trained_parameters": sum(p.numel() for p in parameters)})
    clock = saved = time.monotonic()
    write_seconds, seen = 0.0, 0
    while state.step < stop:
        batch = batches(state.step)
        index = batch.index
        text = captions[index.to(device)] if batch.captions is None else batch.captions
        parts = [part.chunk(n_processes)[rank] for part in (index, batch.noise, batch.t, text)] if len(index) else []
        n = len(parts[0]) if parts else 0
        expected = batch.expected or max(n, 1)
        # As many at once as the caller wants, or as fit into memory: the sum of the gradients is the same. Clipping
        # needs all examples of a unit together.
        at_once = max(1, n if privacy else min(-(-n // accumulation), model.runtime.train_batch_size))
        micros = list(zip(*(part.split(at_once) for part in parts), strict=True)) if n else []
        loss_sum = torch.zeros(1, device=device)
        for micro, some in enumerate(micros, 1):
            i, noise, t, words = (upload(x, device) for x in some)
            inputs = (latents[i], noise, t, words, weights[i])
            if capture:
                captured = captured or CapturedGradients(partial(gradients, expected=expected), parameters, inputs)
                loss_sum += captured(*inputs)
                continue
            with nullcontext() if micro == len(micros) else accelerator.no_sync(denoiser):
                loss_sum += gradients(*inputs, expected)
        unread.append(Unread(state.step + 1, accelerator.gather(loss_sum).mean(), state.scheduler.get_last_lr(), n))
        state.scaler.unscale_(optimizer)
        if privacy is None:  # a private optimizer clips each example itself
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        state.scaler.step(optimizer)
        state.scaler.update()
        state.scheduler.step()
        if not capture:  # a replay overwrites its gradients
            optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.step(parameters)
        state.step += 1
        seen += len(index)
        if state.step % read_every and state.step < stop:
            continue
        rows = read(unread)
        unread.clear()
        now = time.monotonic()
        # Large models take long to write: spend at most a twentieth of the time on it.
        if accelerator.is_main_process and now - saved >= max(checkpoint_seconds, 20 * write_seconds):
            checkpoint()
            saved = time.monotonic()
            write_seconds = saved - now
        for row in rows:
            report(row["step"], row)
    if accelerator.is_main_process:
        state.write_log(folder)
    accelerator.wait_for_everyone()
