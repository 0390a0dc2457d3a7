"""Make a lab: `python -m s2l lab build --recipe NAME --out DIR` (resumable, deterministic in its seeds).

1. The public crowd's photos are drawn once: drawing them again in every epoch would be slow.
2. The autoencoder is trained on *public* photos only, or taken over from a shipped lab.
3. UNet and text encoder are trained together, as in latent diffusion, phase by phase, on latents computed once.

Every random choice of step i comes from a generator seeded with (seed, i), so a build that was killed and resumed
trains on the same batches with the same noise as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from s2l.config import LAB
from s2l.damage import damage
from s2l.errors import UserError
from s2l.labs import Lab, find_lab, is_there
from s2l.model.diffusion import DiffusionModel, Runtime, cpu_computes_bfloat16
from s2l.pretrain.autoencoder import take_over, train_decoder, train_vae
from s2l.pretrain.data import Mixture, images_of, public_pool, scaled, shown, training_set
from s2l.pretrain.networks import build_pipeline
from s2l.pretrain.private_batches import PoissonMixture, owners
from s2l.pretrain.recipe import MODULES, Phase, Recipe
from s2l.privacy import PrivateTraining
from s2l.progress import Event, Progress, silent
from s2l.store import read_json, write_json
from s2l.training import TrainingSet, averaged, fit, new_state
from s2l.worlds.people import Members, held_out_photos, lab_people, manifest


def _start_from(pipe: StableDiffusionPipeline, lab: Lab) -> None:
    """Copy the weights of a lab's UNet and text encoder into the pipeline."""
    other = StableDiffusionPipeline.from_pretrained(
        lab.folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    for part in MODULES:
        getattr(pipe, part).load_state_dict(getattr(other, part).state_dict())


def _lab_before(recipe: Recipe) -> Lab | None:
    """The lab that a recipe trains further, or None. Raises UserError if it is not here."""
    name = f"{LAB}:{recipe.starts_from}"
    if recipe.starts_from is None:
        return None
    if not is_there(name):
        raise UserError(
            f"the recipe {recipe.name!r} trains the lab {recipe.starts_from!r} further, which is not here: "
            f"python -m s2l lab build --recipe {recipe.starts_from}"
        )
    return find_lab(name)


def train_unet(
    pipe: StableDiffusionPipeline,
    pool: torch.Tensor,
    recipe: Recipe,
    work: Path,
    runtime: Runtime,
    progress: Progress = silent,
    keep: Iterable[int] = (),
) -> dict:
    """Train all phases of a recipe and leave the averaged weights (EMA) in `pipe`.

    `pool` has the public photos, (N, 3, H, W) uint8. After each step in `keep` the averaged model is also saved, as
    `work/step-NNNNNN`, to choose one later. Returns {"step", "private_seen", "seconds"}.
    """
    pipe.vae.to(runtime.torch_device())
    examples, repeats = training_set(pipe, pool, recipe, work)
    model = DiffusionModel(pipe, "in training", runtime)
    modules = {name: getattr(pipe, name).train() for name in MODULES}
    parameters = [p for module in modules.values() for p in module.parameters()]
    base = recipe.phases[0].learning_rate
    optimizer = torch.optim.AdamW(parameters, lr=base, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)

    def multiplier(step: int) -> float:
        phase, local = recipe.at(step)
        return phase.learning_rate / base * phase.rate_factor(local)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)

    for module in modules.values():
        module.requires_grad_(True)
    state = new_state(model, optimizer, schedule, recipe.phases[0].ema_decay)
    average = state.average
    assert average is not None  # every phase of a recipe has a decay
    plain = Mixture(recipe, examples, repeats, len(model.alphas_cumprod))
    private = _private(recipe, examples, plain)
    batches = private or plain
    state.resume(work, batches)
    timer = work / "seconds.json"
    earlier = read_json(timer) if timer.exists() and damage(timer) is None else 0.0
    started, saved_steps = time.monotonic(), set(keep)

    def counters() -> dict:
        seconds = earlier + time.monotonic() - started
        counted = {"step": state.step, "private_seen": batches.private_seen, "seconds": round(seconds, 1)}
        return counted | ({"privacy": private.record()} if private else {})

    def listen(event: Event) -> None:
        if state.step in saved_steps:
            with averaged(state):
                save_checkpoint(pipe, recipe, work / f"step-{state.step:06d}", counters())
        if state.step % 100 == 0:
            write_json(timer, counters()["seconds"])
        progress(event)

    for phase, _, end in recipe.spans():
        if state.step >= end:
            continue
        _set_trained(modules, phase)
        average.decay = phase.ema_decay
        privacy = PrivateTraining(private, ghost=True) if private and phase is recipe.private_phase else None
        with privacy.hooked() if privacy else nullcontext():
            fit(
                model, state, examples, batches, end, work, distinct=False, privacy=privacy,
                capture=model.device.type == "cuda" and privacy is None,  # private batches differ in size
                checkpoint_seconds=120, listen=listen, stage="pretrain", total=recipe.steps,
            )  # fmt: skip
    state.save(work, batches)
    average.copy_to(parameters)
    for module in modules.values():
        module.eval()
    return counters()


def _private(recipe: Recipe, examples: TrainingSet, plain: Mixture) -> PoissonMixture | None:
    """The batches of a recipe that has a private phase."""
    phase = recipe.private_phase
    return PoissonMixture(recipe, plain, owners(examples, shown(recipe), phase.budget)) if phase else None


def _set_trained(modules: dict[str, torch.nn.Module], phase: Phase) -> None:
    """Let the weights change that a phase trains, and no others."""
    for name, module in modules.items():
        module.requires_grad_(name in phase.trains)
    if "cross_attention" in phase.trains:
        for name, parameter in modules["unet"].named_parameters():
            if ".attn2." in name:
                parameter.requires_grad_(True)


def save_checkpoint(pipe: StableDiffusionPipeline, recipe: Recipe, folder: Path, counters: dict) -> None:
    """Write the pipeline in float16, with `lab.json`, in files below 10 MB."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    half = build_pipeline(recipe.size)
    for name in ("vae", "unet", "text_encoder"):
        trained = getattr(pipe, name)
        target = getattr(half, name)
        target.load_state_dict(trained.state_dict())
        target.to(torch.float16)
        if name == "vae":
            target.register_to_config(scaling_factor=trained.config.scaling_factor)
        target.save_pretrained(folder / name, max_shard_size="9MB")
    # Without a precision from the caller, transformers takes the config's and diffusers float32: make them agree.
    config = folder / "text_encoder" / "config.json"
    write_json(config, read_json(config) | {"dtype": "float32"})
    half.tokenizer.save_pretrained(folder / "tokenizer")
    half.scheduler.save_pretrained(folder / "scheduler")
    half.save_config(folder)
    privacy = {"privacy": counters["privacy"]} if "privacy" in counters else {}
    record = {
        "schema_version": 1,
        "title": recipe.title,
        "purpose": recipe.purpose,
        "recipe": recipe.settings(),
        "counters": {name: value for name, value in counters.items() if name != "privacy"},
        "machine": {"platform": platform.platform(), "torch": torch.__version__, "cores": os.cpu_count()},
        **privacy,
    } | _manifest(recipe.n_people, recipe.n_members, recipe.size.resolution, recipe.members, recipe.repeated)
    (folder / "lab.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


@cache
def _manifest(n_people: int, n_members: int, resolution: int, members: Members, repeated: bool) -> dict:
    """Cached in the process, because every private photo is drawn and hashed for it."""
    return manifest(lab_people(n_people), n_members, resolution, members, repeated)


@torch.inference_mode()
def reconstruction_l2(pipe: StableDiffusionPipeline, recipe: Recipe, number: int = 200) -> float:
    """Mean l2 between held-out photos and their reconstructions by the autoencoder: no copy can be much closer."""
    people, device = lab_people(recipe.n_people), next(pipe.vae.parameters()).device
    each = max(1, number // len(people))
    held_out = [p for who in people for p in held_out_photos(who, each, recipe.n_members, recipe.members)]
    x = scaled(images_of(held_out, recipe.size.resolution)).to(device)
    y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return ((y - x) / 2).square().mean(dim=(1, 2, 3)).sqrt().mean().item()


def training_dtype(device: str = "cpu", dtype: str = "auto") -> str:
    """The precision in which a lab is trained: "float32", or "mixed", with float32 weights and bfloat16 autocast.

    "auto" is mixed on a GPU and on a CPU that computes bfloat16 itself; any other CPU is three times faster in float32.
    Raises UserError for any other precision.
    """
    if dtype not in ("auto", "mixed", "float32"):
        raise UserError(f"a lab trains in auto, mixed or float32 (given: {dtype!r})", field="dtype")
    if dtype != "auto":
        return dtype
    slow = Runtime(device).torch_device().type == "cpu" and not cpu_computes_bfloat16()
    return "float32" if slow else "mixed"


def build(
    out: Path,
    work: Path,
    recipe: Recipe,
    runtime: Runtime | None = None,
    progress: Progress = silent,
    keep: Iterable[int] = (),
) -> dict:
    """Make the checkpoint folder `out`; `work` holds everything that resuming needs, and the models after steps `keep`.

    The precision of `runtime` is one that `training_dtype` returns; without a runtime, the CPU is used in the one that
    suits it. Returns the counters of the training. Raises UserError when `work` belongs to another recipe or precision,
    and when the lab that the recipe trains further is not here.
    """
    out, work, runtime = Path(out), Path(work), runtime or Runtime("cpu", training_dtype())
    before = _lab_before(recipe)
    work.mkdir(parents=True, exist_ok=True)
    marker, settings = work / "recipe.json", json.loads(json.dumps(recipe.settings())) | {"precision": runtime.dtype}
    if marker.exists() and {"precision": runtime.dtype} | read_json(marker) != settings:  # old files have no precision
        raise UserError(
            f"--work: {work} holds the training of another recipe or in another precision: choose another folder or "
            "delete it"
        )
    write_json(marker, settings)
    pipe = build_pipeline(recipe.size, recipe.seed)
    pool = public_pool(recipe, work)
    if isinstance(recipe.autoencoder, str):
        take_over(pipe, recipe.autoencoder)
    else:
        train_vae(pipe, pool, recipe, recipe.autoencoder, work)
        train_decoder(pipe, pool, recipe, recipe.autoencoder, work)
    if before is not None:
        _start_from(pipe, before)
    largest = max(phase.batch_size for phase in recipe.phases)
    counters = train_unet(pipe, pool, recipe, work, _whole_batches(runtime, largest), progress, keep)
    counters |= {"precision": runtime.dtype, "vae_reconstruction_l2": reconstruction_l2(pipe, recipe)}
    save_checkpoint(pipe, recipe, out, counters)
    return counters


def _whole_batches(runtime: Runtime, largest: int) -> Runtime:
    """`runtime` with whole batches: a batch that is split to save memory is summed, hence rounded, in another order."""
    return Runtime(runtime.device, runtime.dtype, runtime.batch_size, largest)
