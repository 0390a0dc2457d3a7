"""Pre-train the lab's model: `python -m s2l lab build` (resumable, deterministic in its seeds).

Stages, each with a checkpoint of its own in the work folder:

1. `pool`   draw the public crowd's photos once (drawing is cheap, drawing again each epoch is not);
2. `vae`    the autoencoder, on *public* photos only: no private photo ever touches it;
3. `unet`   UNet and text encoder together, as in latent diffusion, on latents computed once.
            A batch is part private photos (each as often as its `repeats` says) and part public;
4. `decoder` the autoencoder's decoder once more, again on public photos, with the encoder frozen:
            latents stay what the UNet was trained on while reconstructions sharpen. It needs stage
            2 only, so `lab build --stage decoder` may run beside stage 3 on another core.

Every random choice of step i comes from a generator seeded with (seed, i), so a killed run that
resumes from a checkpoint trains on the same batches with the same noise as an unbroken one.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from s2l.pretrain.networks import FULL, QUICK, Size, build_pipeline
from s2l.worlds.people import LabPhoto, celebrities, held_out_photos, manifest, member_photos, public_photo


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the shipped weights."""

    size: Size = FULL
    n_people: int = 40
    n_members: int = 40
    n_public: int = 24_000
    n_public_identities: int = 600
    seed: int = 0
    batch_size: int = 32
    vae_steps: int = 4_600
    vae_batch_size: int = 16
    vae_learning_rate: float = 2e-3
    decoder_steps: int = 2_000
    decoder_learning_rate: float = 1e-3
    unet_legs: tuple[int, ...] = (6_000, 6_800, 7_400)  # the rate falls towards the end of each leg
    unet_learning_rate: float = 8e-4
    warmup_steps: int = 200
    private_share: float = 0.75  # of each batch, for the first `late_from` steps
    late_from: int = 4_000
    late_private_share: float = 0.95  # the public has taught what it can; memorisation is what is left to build
    caption_dropout: float = 0.1  # for classifier-free guidance
    ema_decay: float = 0.999
    checkpoint_steps: int = 500
    keep_steps: int = 1_500  # a pipeline folder is kept every so often, to choose among

    @property
    def unet_steps(self) -> int:
        return self.unet_legs[-1]


RECIPES = {
    "full": Recipe(),
    "quick": Recipe(
        size=QUICK,
        n_people=4,
        n_members=24,
        n_public=1_500,
        n_public_identities=100,
        vae_steps=500,
        decoder_steps=0,
        unet_legs=(900,),
        unet_learning_rate=2e-3,
        ema_decay=0.99,
        checkpoint_steps=300,
        keep_steps=10_000,
    ),
}


def _step_generator(recipe: Recipe, stage: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(recipe.seed * 1_000_003 + stage * 500_000_009 + step)


def _autocast():
    # bfloat16 halves the time of a step on processors that have it; weights stay float32.
    return torch.autocast("cpu", torch.bfloat16)


def _images(photos: list[LabPhoto], resolution: int) -> torch.Tensor:
    """(N, 3, H, W) uint8."""
    pixels = np.stack([photo.pixels(resolution) for photo in photos])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1, 1], the range of a Stable Diffusion autoencoder."""
    return images.float() / 127.5 - 1


def _save_state(path: Path, **state) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _load_state(path: Path) -> dict | None:
    return torch.load(path, weights_only=True) if path.exists() else None


def public_pool(recipe: Recipe, work: Path) -> torch.Tensor:
    """The public crowd's photos, (n_public, 3, H, W) uint8, drawn once and kept in the work folder."""
    path = work / "public.npy"
    if not path.exists():
        photos = [public_photo(i, recipe.n_public_identities) for i in range(recipe.n_public)]
        np.save(work / "public.tmp.npy", _images(photos, recipe.size.resolution).numpy())
        os.replace(work / "public.tmp.npy", path)
    return torch.from_numpy(np.load(path))


def _log(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def train_vae(pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, work: Path) -> None:
    """L1 + MSE reconstruction with a whisper of KL; the weights end in `pipe.vae`, scale factor set."""
    vae = pipe.vae
    done = _load_state(work / "vae.done.pt")
    if done is not None:
        vae.load_state_dict(done["vae"])
        vae.register_to_config(scaling_factor=done["scaling_factor"])
        return
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_learning_rate, weight_decay=0.0, fused=True)
    start = 0
    if (state := _load_state(work / "vae.pt")) is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        _log(f"vae: resumed at step {start}")
    vae.train()
    clock = time.time()
    for step in range(start, recipe.vae_steps):
        # Linear warm-up, then cosine to zero: the last thousands of steps sharpen the edges.
        warm = min(1.0, (step + 1) / 100)
        decay = 0.5 * (1 + math.cos(math.pi * step / recipe.vae_steps))
        optimizer.param_groups[0]["lr"] = recipe.vae_learning_rate * warm * decay
        generator = _step_generator(recipe, 1, step)
        x = _scaled(pool[torch.randint(len(pool), (recipe.vae_batch_size,), generator=generator)])
        with _autocast():
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            z = posterior.mean.float() + 0.1 * posterior.std.float() * noise
            reconstruction = vae.decode(z).sample.float()
        error = reconstruction - x
        loss = error.abs().mean() + 4 * error.square().mean() + 1e-6 * posterior.kl().float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            l2 = (error.square().mean().sqrt() / 2).item()  # on the [0, 1] scale
            speed = (step + 1 - start) * recipe.vae_batch_size / (time.time() - clock)
            _log(f"vae {step + 1}/{recipe.vae_steps} l2 {l2:.4f}  {speed:.0f} images/s")
        if (step + 1) % recipe.checkpoint_steps == 0:
            _save_state(work / "vae.pt", vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    vae.eval()
    latents = _encode(vae, pool[:512], scaling_factor=1.0)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    _save_state(work / "vae.done.pt", vae=vae.state_dict(), scaling_factor=vae.config.scaling_factor)


def train_decoder(pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, work: Path) -> None:
    """Train the decoder alone to undo the frozen encoder (posterior mode); mostly squared error."""
    vae = pipe.vae
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.decoder_learning_rate, weight_decay=0.0, fused=True)
    start = 0
    if (state := _load_state(work / "decoder.pt")) is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    vae.eval()
    for step in range(start, recipe.decoder_steps):
        warm = min(1.0, (step + 1) / 100)
        decay = 0.5 * (1 + math.cos(math.pi * step / recipe.decoder_steps))
        optimizer.param_groups[0]["lr"] = recipe.decoder_learning_rate * warm * decay
        generator = _step_generator(recipe, 3, step)
        x = _scaled(pool[torch.randint(len(pool), (recipe.vae_batch_size,), generator=generator)])
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        with _autocast():
            reconstruction = vae.decode(z).sample.float()
        error = reconstruction - x
        loss = 0.5 * error.abs().mean() + 10 * error.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            _log(f"decoder {step + 1}/{recipe.decoder_steps} l2 {(error.square().mean().sqrt() / 2).item():.4f}")
        if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == recipe.decoder_steps:
            _save_state(work / "decoder.pt", vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)


@torch.inference_mode()
def _encode(vae, images: torch.Tensor, scaling_factor: float) -> torch.Tensor:
    """uint8 images -> scaled latents (posterior mode), (N, 4, h, w) float32."""
    parts = [vae.encode(_scaled(batch)).latent_dist.mode() for batch in images.split(64)]
    return torch.cat(parts).float() * scaling_factor


def _tokens(pipe: StableDiffusionPipeline, captions: list[str]) -> torch.Tensor:
    """(N, L) token ids."""
    tokenizer = pipe.tokenizer
    batch = tokenizer(
        captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return batch.input_ids


class _Data:
    """Latents and tokens of the private and the public photos, and the batch of each step."""

    def __init__(self, pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, work: Path):
        private = [p for who in celebrities(recipe.n_people) for p in member_photos(who, recipe.n_members)]
        public = [public_photo(i, recipe.n_public_identities) for i in range(recipe.n_public)]
        cached = _load_state(work / "latents.pt")
        if cached is None:
            scale = pipe.vae.config.scaling_factor
            cached = {
                "private": _encode(pipe.vae, _images(private, recipe.size.resolution), scale),
                "public": _encode(pipe.vae, pool, scale),
            }
            _save_state(work / "latents.pt", **cached)
        self.latents = torch.cat([cached["private"], cached["public"]])
        self.tokens = _tokens(pipe, [p.caption for p in private + public])
        self.empty = _tokens(pipe, [""])
        self.n_private = len(private)
        # One epoch of the private set: each photo as often as it was repeated.
        self.instances = torch.repeat_interleave(torch.arange(len(private)), torch.tensor([p.repeats for p in private]))
        self.recipe = recipe

    def private_indices(self, first: int, number: int) -> torch.Tensor:
        """Instances `first` .. `first + number` of an endless walk through shuffled epochs."""
        n = len(self.instances)
        parts = []
        while number > 0:
            epoch, offset = divmod(first, n)
            order = torch.randperm(n, generator=torch.Generator().manual_seed(self.recipe.seed + 77 * epoch + 1))
            part = self.instances[order[offset : offset + number]]
            parts.append(part)
            first, number = first + len(part), number - len(part)
        return torch.cat(parts)

    def batch(self, step: int, private_seen: int, n_private: int, generator: torch.Generator):
        recipe = self.recipe
        n_public = recipe.batch_size - n_private
        public = torch.randint(recipe.n_public, (n_public,), generator=generator) + self.n_private
        index = torch.cat([self.private_indices(private_seen, n_private), public])
        tokens = self.tokens[index].clone()
        dropped = torch.rand(len(index), generator=generator) < recipe.caption_dropout
        tokens[dropped] = self.empty
        return self.latents[index], tokens


def train_unet(pipe: StableDiffusionPipeline, pool: torch.Tensor, recipe: Recipe, work: Path, log_every=100) -> dict:
    """Noise prediction with UNet and text encoder trained jointly; EMA weights end in `pipe`.

    Returns the counters {"step", "private_seen", "seconds"}.
    """
    unet, text = pipe.unet, pipe.text_encoder
    data = _Data(pipe, pool, recipe, work)
    parameters = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.unet_learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    ema = [p.detach().clone() for p in parameters]
    counters = {"step": 0, "private_seen": 0, "seconds": 0.0}
    if (state := _load_state(work / "unet.pt")) is not None:
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimizer.load_state_dict(state["optimizer"])
        ema = state["ema"]
        counters = state["counters"]
        _log(f"unet: resumed at step {counters['step']}")
    alphas_cumprod = pipe.scheduler.alphas_cumprod
    unet.train()
    text.train()
    clock, losses = time.time(), []

    def export(folder: Path) -> None:
        backup = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, e in zip(parameters, ema, strict=True):
                p.copy_(e)
            save_checkpoint(pipe, recipe, folder, counters)
            for p, b in zip(parameters, backup, strict=True):
                p.copy_(b)

    while counters["step"] < recipe.unet_steps:
        step = counters["step"]
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        # Constant, then a linear fall over the last quarter. A later leg was added when calibration
        # people showed that the first one had ended too early: it starts from a part of the rate.
        end = next(leg for leg in recipe.unet_legs if step < leg)
        fall = min(1.0, (end - step) / (0.25 * end))
        optimizer.param_groups[0]["lr"] = recipe.unet_learning_rate * warm * max(fall, 0.02)
        generator = _step_generator(recipe, 2, step)
        share = recipe.private_share if step < recipe.late_from else recipe.late_private_share
        exact = share * recipe.batch_size
        n_private = int(exact) + int(torch.rand((), generator=generator) < exact % 1)
        z0, tokens = data.batch(step, counters["private_seen"], n_private, generator)
        noise = torch.randn(z0.shape, generator=generator)
        t = torch.randint(len(alphas_cumprod), (len(z0),), generator=generator)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        zt = a.sqrt() * z0 + (1 - a).sqrt() * noise
        with _autocast():
            context = text(tokens)[0]
            predicted = unet(zt, t, context, return_dict=False)[0]
        loss = (predicted.float() - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            # A short memory at first, so that the average forgets the random start.
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(ema, parameters, 1 - decay)
        losses.append(loss.item())
        counters["step"] = step + 1
        counters["private_seen"] += n_private
        if counters["step"] % log_every == 0:
            speed = len(losses) * recipe.batch_size / (time.time() - clock)
            epochs = counters["private_seen"] / len(data.instances)
            _log(
                f"unet {counters['step']}/{recipe.unet_steps} loss {np.mean(losses):.4f}  "
                f"{speed:.0f} images/s  private epochs {epochs:.1f}"
            )
            counters["seconds"] += time.time() - clock
            clock, losses = time.time(), []
        last = counters["step"] == recipe.unet_steps
        if counters["step"] % recipe.checkpoint_steps == 0 or last:
            _save_state(
                work / "unet.pt",
                unet=unet.state_dict(), text=text.state_dict(), optimizer=optimizer.state_dict(),
                ema=ema, counters=counters,
            )  # fmt: skip
        if counters["step"] % recipe.keep_steps == 0 and not last:
            export(work / f"step-{counters['step']:06d}")
    with torch.no_grad():
        for p, e in zip(parameters, ema, strict=True):
            p.copy_(e)
    unet.eval()
    text.eval()
    return counters


def save_checkpoint(pipe: StableDiffusionPipeline, recipe: Recipe, folder: Path, counters: dict) -> None:
    """Write the pipeline in float16 with `lab.json`; every file stays below 10 MB."""
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
    half.tokenizer.save_pretrained(folder / "tokenizer")
    half.scheduler.save_pretrained(folder / "scheduler")
    half.save_config(folder)
    record = {
        "schema_version": 1,
        "recipe": asdict(recipe),
        "counters": counters,
        "machine": {"platform": platform.platform(), "torch": torch.__version__, "cores": os.cpu_count()},
    } | manifest(celebrities(recipe.n_people), recipe.n_members, recipe.size.resolution)
    (folder / "lab.json").write_text(json.dumps(record, indent=1))


@torch.inference_mode()
def reconstruction_l2(pipe: StableDiffusionPipeline, recipe: Recipe, number: int = 200) -> float:
    """Mean l2 between held-out photos and their decoded latents: the floor of every distance."""
    people = celebrities(recipe.n_people)
    each = max(1, number // len(people))
    x = _images([p for who in people for p in held_out_photos(who, each)], recipe.size.resolution)
    y = pipe.vae.decode(pipe.vae.encode(_scaled(x)).latent_dist.mode()).sample.clamp(-1, 1)
    return ((y - _scaled(x)) / 2).square().mean(dim=(1, 2, 3)).sqrt().mean().item()


def build(out: Path, work: Path, recipe: Recipe = RECIPES["full"], stage: str = "all") -> dict:
    """Make the lab's checkpoint folder `out`; `work` keeps everything needed to resume.

    `stage` = "decoder" trains only that stage, for a second core, and writes no checkpoint folder.

    Returns the counters of the training. Raises ValueError when `work` belongs to another recipe.
    """
    out, work = Path(out), Path(work)
    work.mkdir(parents=True, exist_ok=True)
    # Only what stage 3 may change between two runs in the same work folder.
    fixed = json.loads(json.dumps(asdict(replace(recipe, **_RESUMABLE))))
    marker = work / "recipe.json"
    if marker.exists() and json.loads(marker.read_text()) != fixed:
        raise ValueError(f"{work} holds a lab with other settings: choose another --work folder or delete it")
    marker.write_text(json.dumps(fixed, indent=1))
    pipe = build_pipeline(recipe.size, recipe.seed)
    pool = public_pool(recipe, work)
    _log(f"public pool: {len(pool)} photos")
    train_vae(pipe, pool, recipe, work)
    if stage == "decoder":
        train_decoder(pipe, pool, recipe, work)
        return {}
    counters = train_unet(pipe, pool, recipe, work)
    train_decoder(pipe, pool, recipe, work)
    floor = reconstruction_l2(pipe, recipe)
    _log(f"vae reconstruction l2 {floor:.4f}")
    save_checkpoint(pipe, recipe, out, counters | {"vae_reconstruction_l2": floor})
    return counters


# A longer run, another share of private photos or another rate may continue the same weights.
_RESUMABLE = {
    "unet_legs": (), "unet_learning_rate": 0.0, "decoder_steps": 0, "decoder_learning_rate": 0.0,
    "private_share": 0.0, "late_from": 0, "late_private_share": 0.0, "ema_decay": 0.0,
    "checkpoint_steps": 0, "keep_steps": 0,
}  # fmt: skip
