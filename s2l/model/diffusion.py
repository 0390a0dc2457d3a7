"""DiffusionModel: the only file that knows the pipeline.

Everything above it sees images as (N, 3, H, W) float32 in [0, 1], latents as (N, 4, h, w) already
scaled to the UNet's range, and a noise prediction `eps` whatever the checkpoint predicts. The
lab's checkpoint and Stable Diffusion v1-1 go through the same code.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from diffusers import StableDiffusionPipeline

from s2l.config import LAB, SamplerConfig
from s2l.keys import key_of
from s2l.labs import is_lab
from s2l.model import mitigation
from s2l.model.batches import SMALL_MAP, Batched
from s2l.model.checkpoints import Checkpoint, configuration_key, locate, weights_key
from s2l.model.finite import finite
from s2l.model.loading import load_pipeline
from s2l.model.memory import device_memory, fitted, preset_for, watch
from s2l.model.samplers import make_sampler
from s2l.model.schedule import read_schedule

SAMPLERS = 2  # in keys of checkpoints other than labs: version 1 let their own sampler settings through


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without them it is slower than float32."""
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.8 does not have it
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. The batch sizes change speed and memory, and results by no more than rounding.

    The precision changes numbers: it is part of a model's `key`, hence of every cached result. "mixed" keeps float32
    where scores are computed, and samples and trains in bfloat16 (autocast). "auto" is float16 on a GPU, whose 11 bits
    of mantissa serve membership scores better than bfloat16's 8, mixed on a CPU that computes bfloat16 itself, and
    float32 on any other.
    """

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", ...
    dtype: str = "auto"  # "auto", "float32", "bfloat16", "float16", "mixed"
    batch_size: int | None = None  # images per forward pass, before guidance doubles them; None: what fits
    train_batch_size: int | None = None  # images of a training step in memory together; None: what fits

    def torch_device(self) -> torch.device:
        """The device; "auto" and "cuda" are a GPU of its own for each process of `accelerate launch`."""
        if self.device not in ("auto", "cuda"):
            return torch.device(self.device)
        if self.device == "auto" and not torch.cuda.is_available():
            return torch.device("cpu")
        rank = int(os.environ.get("LOCAL_RANK", -1))  # -1: one process alone
        # accelerate counts like this too, and joins the process to that GPU.
        return torch.device("cuda" if rank < 0 else f"cuda:{rank % max(1, torch.cuda.device_count())}")

    def torch_dtype(self) -> torch.dtype:
        """Of the weights, and of every prediction that a score is made of."""
        if self.dtype == "mixed":
            return torch.float32
        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return torch.float16 if self.torch_device().type == "cuda" else torch.float32

    def fast_dtype(self) -> torch.dtype:
        """Of sampling and training."""
        auto_mixed = self.dtype == "auto" and self.torch_device().type == "cpu" and cpu_computes_bfloat16()
        return torch.bfloat16 if auto_mixed or self.dtype == "mixed" else self.torch_dtype()


@dataclass(frozen=True)
class FittedRuntime(Runtime):
    """A runtime with its batch sizes: those that were given, else what fits into the device's memory."""

    batch_size: int = 1
    train_batch_size: int = 1


def model_key(checkpoint: Checkpoint, runtime: Runtime) -> str:
    """The name of a model in cache keys: its weights, its configuration and whatever else changes its numbers.

    A lab is identified by its weights, because labs of one size differ in nothing else. In the reference case, float32
    and epsilon prediction, its key is the hash of the weights alone.
    """
    weights, dtypes = weights_key(checkpoint), [runtime.torch_dtype(), runtime.fast_dtype()]
    if not is_lab(checkpoint.path):
        weights = key_of("checkpoint", SAMPLERS, weights, configuration_key(checkpoint))
    if (*dtypes, checkpoint.predicts) == (torch.float32, torch.float32, "epsilon"):
        return weights
    return key_of("model", weights, *map(str, dtypes), checkpoint.predicts)


class DiffusionModel(Batched):
    """A thin adapter around a StableDiffusionPipeline, so that an attack can be written as its formula.

    `key` names the model in cache keys, `weights` its weights whatever the precision, `revision` is the hub's commit
    (None for local files), `notes` say what had to be done to load it. Built by `DiffusionModel.load`.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        key: str,
        runtime: Runtime = Runtime(),
        weights: str = "",
        revision: str | None = None,
        notes: Sequence[str] = (),
    ):
        self.key, self.weights, self.revision, self.notes = key, weights or key, revision, tuple(notes)
        self.device, self.dtype, self.fast_dtype = runtime.torch_device(), runtime.torch_dtype(), runtime.fast_dtype()
        if self.dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions: 10 bits of mantissa, unasked
        self.pipe = pipe.to(self.device)  # `load` has set the dtype
        largest_map = self.unet.config.block_out_channels[0] * self.unet.config.sample_size**2
        self.memory = fitted(preset_for(device_memory(self.device)), largest_map, self.device)
        self.runtime = FittedRuntime(
            runtime.device,
            runtime.dtype,
            batch_size=runtime.batch_size or self.memory.batch_size,
            train_batch_size=runtime.train_batch_size or self.memory.train_batch_size,
        )
        self.one_core_per_batch = self.device.type == "cpu" and largest_map <= SMALL_MAP
        self.vae.to(memory_format=torch.channels_last)  # a third faster to decode; the UNet gains nothing from it
        if self.memory.vae_slicing:
            self.vae.enable_slicing()
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.schedule = read_schedule(pipe.scheduler.config, type(pipe.scheduler).__name__)
        self.prediction_type = pipe.scheduler.config.prediction_type
        self._tokenizing = threading.Lock()  # a tokenizer's padding is state
        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(False)
            module.eval()
        watch(self)

    @classmethod
    def load(cls, model: str = LAB, runtime: Runtime = Runtime(), aloud: bool = True) -> DiffusionModel:
        """Load "lab", a folder, a single file or a hub id (see checkpoints.py); safetensors only.

        Raises UserError for what is missing, out of reach or not supported. What had to be done to load it is printed
        to stderr if `aloud`.
        """
        checkpoint = locate(model)
        pipe, notes = load_pipeline(checkpoint, runtime.torch_dtype())
        for note in notes if aloud else ():
            print(f"{model}: {note}", file=sys.stderr, flush=True)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, model_key(checkpoint, runtime), runtime, weights_key(checkpoint), checkpoint.revision, notes)

    def halve_batches(self) -> bool:
        """Halve the number of images computed at once; False if it is already one."""
        old = self.runtime
        sizes = (old.batch_size, old.train_batch_size)
        self.runtime = replace(old, batch_size=max(1, sizes[0] // 2), train_batch_size=max(1, sizes[1] // 2))
        return sizes != (1, 1)

    def copy(self, **parts) -> DiffusionModel:
        """A second model with its own weights, for fine-tuning; the VAE is shared because it never trains.

        `parts` ("unet", "text_encoder", "vae", "scheduler") take the place of this model's own.
        """
        pipe = StableDiffusionPipeline(
            vae=parts.get("vae", self.vae),
            text_encoder=parts.get("text_encoder") or copy.deepcopy(self.text_encoder),
            tokenizer=copy.deepcopy(self.tokenizer),
            unet=parts.get("unet") or copy.deepcopy(self.unet),
            scheduler=parts.get("scheduler", self.pipe.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return DiffusionModel(pipe, self.key, self.runtime, self.weights, self.revision, self.notes)

    # --- parts, for the fine-tuning methods ---------------------------------------------------

    @property
    def unet(self):
        return self.pipe.unet

    @property
    def vae(self):
        return self.pipe.vae

    @property
    def text_encoder(self):
        return self.pipe.text_encoder

    @property
    def tokenizer(self):
        return self.pipe.tokenizer

    @property
    def resolution(self) -> int:
        """Side of an image in pixels."""
        return self.unet.config.sample_size * self.pipe.vae_scale_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        side = self.unet.config.sample_size
        return self.unet.config.in_channels, side, side

    @property
    def precision(self) -> str:
        """ "float32", "bfloat16", "float16" or "mixed"."""
        return "mixed" if self.fast_dtype != self.dtype else str(self.dtype).removeprefix("torch.")

    def num_parameters(self) -> int:
        """Parameters of UNet and text encoder: what fine-tuning could change."""
        return sum(p.numel() for module in (self.unet, self.text_encoder) for p in module.parameters())

    def autocast(self) -> AbstractContextManager:
        """The precision of sampling and training, where it is not that of the weights."""
        if self.fast_dtype == self.dtype:
            return nullcontext()  # a trainer's own autocast stays active
        return torch.autocast(self.device.type, self.fast_dtype)

    def _precision_here(self, dtype: torch.dtype) -> torch.dtype:
        """What a module of that precision computes in: autocast overrules it."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype

    def training_precision(self) -> AbstractContextManager:
        """The precision of training, whose weights are float32 whatever the model's are."""
        return torch.autocast(self.device.type, self.fast_dtype, enabled=self.fast_dtype != torch.float32)

    # --- images, prompts, noise ---------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 3, H, W), uint8 or in [0, 1] -> z0 (N, C, h, w) float32: the posterior's mode, scaled.

        With `noise`, standard normal (N, C, h, w), the sample mean + std noise. Thousands of images come as uint8: only
        a batch of them is ever held as floats.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(f"images must be (N, 3, {self.resolution}, {self.resolution}), not {tuple(x.shape)}")

        def encoded(some: slice) -> torch.Tensor:
            whole = 255 if x.dtype == torch.uint8 else 1
            batch = (x[some].to(self.device, torch.float32) / whole * 2 - 1).to(self.vae.dtype)
            posterior = self.vae.encode(batch).latent_dist
            z = posterior.mode().float()
            if noise is not None:
                z = z + posterior.std.float() * noise[some].to(self.device)
            return finite(z, "encoding pictures into latents", self.vae.dtype)

        parts = [part for group in self.batches(len(x)) for part in self.together(encoded, group)]
        return torch.cat(parts) * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """z (N, C, h, w) -> (N, 3, H, W) float32 in [0, 1]."""
        z = z / self.vae.config.scaling_factor
        parts = [self.vae.decode(b.to(self.device, self.vae.dtype)).sample for b in z.split(self.runtime.batch_size)]
        pictures = finite(
            torch.cat(parts).float(), "decoding latents into pictures", self._precision_here(self.vae.dtype)
        )
        return (pictures / 2 + 0.5).clamp(0, 1)

    def tokenize(self, prompts: Sequence[str]) -> torch.Tensor:
        """(N, L) token ids on the model's device, padded and cut to the encoder's length.

        A token of Textual Inversion with several vectors is written once and stands for all of them,
        as in diffusers' own pipelines.
        """
        fixed = {"padding": "max_length", "truncation": True, "max_length": self.tokenizer.model_max_length}
        return self._ids(prompts, return_tensors="pt", **fixed).to(self.device)

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Those prompts of which `tokenize` cuts off the end."""
        ids = self._ids(prompts, verbose=False) if prompts else []
        return [p for p, own in zip(prompts, ids, strict=True) if len(own) > self.tokenizer.model_max_length]

    def _ids(self, prompts: Sequence[str], **options):
        with self._tokenizing:
            return self.tokenizer(self.pipe.maybe_convert_prompt(list(prompts), self.tokenizer), **options).input_ids

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(N, L, D) text embeddings; equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompts))
        position = {prompt: i for i, prompt in enumerate(distinct)}
        return self.encode_tokens(self.tokenize(distinct))[[position[p] for p in prompts]]

    @torch.inference_mode()
    def encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (N, L) -> text embeddings (N, L, D)."""
        embeddings = torch.cat([self.text_encoder(some)[0] for some in tokens.split(64)])
        return finite(embeddings, "encoding captions", self._precision_here(self.text_encoder.dtype))

    def add_noise(self, z0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """z_t = sqrt(a_t) z0 + sqrt(1 - a_t) noise, with a = alphas_cumprod (Ho et al. 2020, eq. 4)."""
        a = self.alpha(t, len(z0))
        return a.sqrt() * z0 + (1 - a).sqrt() * noise

    def alpha(self, t: torch.Tensor | int, n: int) -> torch.Tensor:
        """alphas_cumprod at t as (n, 1, 1, 1), or (1, 1, 1, 1) for one timestep."""
        t = torch.as_tensor(t, device=self.device).reshape(-1)
        if len(t) not in (1, n):
            raise ValueError(f"{n} latents need 1 or {n} timesteps, not {len(t)}")
        return self.alphas_cumprod[t].view(-1, 1, 1, 1)

    @torch.inference_mode()
    def eps(self, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """Predicted noise (N, C, h, w) float32 for z_t (N, C, h, w), timesteps t and context c (N, L, D)."""
        return self.predict(zt, t, c)

    def predict(self, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """Like `eps`, with gradients."""
        return self.predict_noise(self.unet, zt, t, c)

    def predict_noise(self, unet, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """Like `eps`, with gradients and with the UNet given (a trainer wraps it)."""
        out = self.unet_output(unet, zt, t, c)
        if self.prediction_type == "v_prediction":
            # v = sqrt(a) eps - sqrt(1-a) z0, hence eps = sqrt(a) v + sqrt(1-a) z_t (Salimans & Ho 2022)
            a = self.alpha(t, len(zt))
            out = a.sqrt() * out + (1 - a).sqrt() * zt
        return out

    def unet_output(self, unet, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """What the checkpoint itself predicts, epsilon or v: (N, C, h, w) float32, with gradients."""
        steps = torch.as_tensor(t, device=zt.device).reshape(-1).expand(len(zt))
        return unet(zt.to(self.dtype), steps, c.to(self.dtype), return_dict=False)[0].float()

    def training_target(self, z0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """What `unet_output` should have been for z_t made of z0 and noise: epsilon or v, (N, C, h, w)."""
        if self.prediction_type != "v_prediction":
            return noise
        a = self.alpha(t, len(z0))
        return a.sqrt() * noise - (1 - a).sqrt() * z0

    def loss(self, z0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, c: torch.Tensor, unet=None) -> torch.Tensor:
        """The training loss of each example, (N,), with gradients: mean ||target - output||^2 of its latent.

        z0 and noise (N, C, h, w), t (N,), c (N, L, D). `unet` replaces the model's own (by a wrapped one).
        """
        output = self.unet_output(unet or self.unet, self.add_noise(z0, noise, t), t, c)
        return (output - self.training_target(z0, noise, t)).square().mean(dim=(1, 2, 3))

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal (N, C, h, w), one seed per image: independent of batching and of the device."""
        rows = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        return torch.stack(rows).to(self.device)

    # --- sampling -----------------------------------------------------------------------------

    def _scheduler(self, sampler: SamplerConfig):
        return make_sampler(self.schedule, self.prediction_type, sampler, self.device)

    def first_timestep(self, sampler: SamplerConfig) -> int:
        """The noisiest timestep a sampler starts from."""
        return int(self._scheduler(sampler).timesteps[0])

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig,
        on_batch: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Generate one image per (prompt, seed): (N, 3, H, W) float32 in [0, 1].

        Image i depends on its prompt and seed only, never on the batch it is generated in. With
        `on_batch(first, images)`, every finished batch is passed to it instead, and the result is empty.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one seed per image is needed")
        # Guidance makes two predictions per image; the second one is pointless at scale 1.
        guided = sampler.guidance_scale != 1
        flat = sampler.mitigation == "flat_start"
        uncond = self.encode_prompts([sampler.negative_prompt]) if guided or flat else None

        def draw(batch: tuple[slice, torch.Tensor]) -> torch.Tensor:
            some, cond = batch
            scheduler = self._scheduler(sampler)
            z = self.noise(seeds[some]) * scheduler.init_noise_sigma
            both = cond if uncond is None else torch.cat([uncond.expand(len(cond), -1, -1), cond])
            guide = mitigation.Guidance(sampler)
            if flat:
                z = mitigation.flat_start(self, scheduler.timesteps[0], both, z)
            for t in scheduler.timesteps:
                with self.autocast():
                    e = self.eps(torch.cat([z, z]), t, both) if guided else self.eps(z, t, cond)
                if guided:
                    e = guide(*e.chunk(2))
                z = scheduler.step(self._as_model_output(e, z, t), t, z).prev_sample
            finite(z, "sampling (a prediction of the UNet)", self.fast_dtype)
            with self.autocast():
                return self.decode_latents(z).cpu()

        parts = []
        for group in self.batches(len(prompts)):
            work = [(some, self.encode_prompts(prompts[some])) for some in group]
            for some, images in zip(group, self.together(draw, work), strict=True):
                if on_batch is None:
                    parts.append(images)
                else:
                    on_batch(some.start, images)
        return torch.cat(parts) if parts else torch.empty(0, 3, self.resolution, self.resolution)

    def _as_model_output(self, eps: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Back from `eps` to what the checkpoint's scheduler expects."""
        if self.prediction_type != "v_prediction":
            return eps
        a = self.alpha(t, len(z))
        return (eps - (1 - a).sqrt() * z) / a.sqrt()
