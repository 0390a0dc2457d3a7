"""DiffusionModel: the only file that knows the pipeline.

Everything above it sees images as (N, 3, H, W) float32 in [0, 1], latents as (N, 4, h, w) already
scaled to the UNet's range, and a noise prediction `eps` whatever the checkpoint predicts. The
lab's checkpoint and Stable Diffusion v1-1 go through the same code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

from s2l.config import LAB, SamplerConfig, UserError, file_hash
from s2l.domain import lab_folder

WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute. Changes speed, and results by no more than rounding."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1", ...
    dtype: str = "auto"  # "auto", "float32", "bfloat16", "float16"
    batch_size: int = 32  # images a forward pass, before guidance doubles them

    def torch_device(self) -> torch.device:
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def torch_dtype(self) -> torch.dtype:
        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return torch.float16 if self.torch_device().type == "cuda" else torch.float32


def resolve_checkpoint(model: str) -> Path:
    """The folder of a checkpoint: "lab", or a folder in diffusers layout. Raises UserError."""
    if model == LAB:
        folder = lab_folder()
        if not (folder / "model_index.json").exists():
            raise UserError(f"no lab model in {folder}: make one with `python -m s2l lab build`")
        return folder
    folder = Path(model)
    if not folder.is_dir():
        raise UserError(f"{model!r} is not a folder: give 'lab' or a checkpoint folder in diffusers layout")
    index = folder / "model_index.json"
    if not index.exists():
        raise UserError(f"{folder} is not a checkpoint: it has no model_index.json (diffusers layout)")
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is not a checkpoint: its model_index.json names no pipeline") from None
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{folder} holds a {kind}; supported: StableDiffusionPipeline (SD 1.x and 2.x)")
    return folder


class DiffusionModel:
    """A thin adapter around a StableDiffusionPipeline; makes every attack a formula.

    `key` names the weights in cache keys. Built by `DiffusionModel.load`.
    """

    def __init__(self, pipe: StableDiffusionPipeline, key: str, runtime: Runtime = Runtime()):
        self.key = key
        self.runtime = runtime
        self.device, self.dtype = runtime.torch_device(), runtime.torch_dtype()
        self.pipe = pipe.to(self.device)  # `load` has set the dtype
        self.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.prediction_type = pipe.scheduler.config.prediction_type
        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(False)
            module.eval()

    @classmethod
    def load(cls, model: str = LAB, runtime: Runtime = Runtime()) -> DiffusionModel:
        """Load a checkpoint folder, safetensors only: a pickle is never opened silently."""
        folder = resolve_checkpoint(model)
        weights = [path for pattern in WEIGHTS for path in folder.rglob(pattern)]
        try:
            pipe = StableDiffusionPipeline.from_pretrained(
                folder,
                dtype=runtime.torch_dtype(),
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
                local_files_only=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be loaded as a Stable Diffusion checkpoint: {error}") from error
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, file_hash(weights), runtime)

    def copy(self) -> DiffusionModel:
        """A second model with its own weights, for fine-tuning; the VAE is shared, nothing trains it."""
        pipe = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=copy.deepcopy(self.text_encoder),
            tokenizer=copy.deepcopy(self.tokenizer),
            unet=copy.deepcopy(self.unet),
            scheduler=self.pipe.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return DiffusionModel(pipe, self.key, self.runtime)

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

    def num_parameters(self) -> int:
        """Parameters of UNet and text encoder: what fine-tuning could change."""
        return sum(p.numel() for module in (self.unet, self.text_encoder) for p in module.parameters())

    # --- images, prompts, noise ---------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1] -> z0 (N, C, h, w) float32: the posterior's mode, scaled.

        The mode, not a sample: a score must not depend on the encoder's own noise.
        """
        if x.ndim != 4 or x.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(f"images must be (N, 3, {self.resolution}, {self.resolution}), not {tuple(x.shape)}")
        parts = []
        for batch in x.split(self.runtime.batch_size):
            batch = (batch.to(self.device, torch.float32) * 2 - 1).to(self.vae.dtype)
            parts.append(self.vae.encode(batch).latent_dist.mode().float())
        return torch.cat(parts) * self.vae.config.scaling_factor

    @torch.inference_mode()
    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """z (N, C, h, w) -> (N, 3, H, W) float32 in [0, 1]."""
        z = z / self.vae.config.scaling_factor
        parts = [self.vae.decode(b.to(self.device, self.vae.dtype)).sample for b in z.split(self.runtime.batch_size)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)

    def tokenize(self, prompts: Sequence[str]) -> torch.Tensor:
        """(N, L) token ids on the model's device, padded and cut to the encoder's length.

        A token of Textual Inversion with several vectors is written once and stands for all of them,
        as in diffusers' own pipelines.
        """
        return self.tokenizer(
            self.pipe.maybe_convert_prompt(list(prompts), self.tokenizer),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(self.device)

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(N, L, D) text embeddings; equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompts))
        parts = [self.text_encoder(self.tokenize(distinct[i : i + 64]))[0] for i in range(0, len(distinct), 64)]
        position = {prompt: i for i, prompt in enumerate(distinct)}
        return torch.cat(parts)[[position[p] for p in prompts]]

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
        return self.predict_noise(self.unet, zt, t, c)

    def predict_noise(self, unet, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """Like `eps`, with gradients and with the UNet given (a trainer wraps it)."""
        steps = torch.as_tensor(t, device=zt.device).reshape(-1).expand(len(zt))
        out = unet(zt.to(self.dtype), steps, c.to(self.dtype), return_dict=False)[0].float()
        if self.prediction_type == "v_prediction":
            # v = sqrt(a) eps - sqrt(1-a) z0, hence eps = sqrt(a) v + sqrt(1-a) z_t (Salimans & Ho 2022)
            a = self.alpha(t, len(zt))
            out = a.sqrt() * out + (1 - a).sqrt() * zt
        return out

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal (N, C, h, w), one seed an image: independent of batching and of the device."""
        rows = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        return torch.stack(rows).to(self.device)

    # --- sampling -----------------------------------------------------------------------------

    def _scheduler(self, sampler: SamplerConfig):
        config = dict(self.pipe.scheduler.config) | {"timestep_spacing": "trailing", "clip_sample": False}
        if sampler.scheduler == "ddim":
            scheduler = DDIMScheduler.from_config(config)
        else:
            scheduler = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
        scheduler.set_timesteps(sampler.num_inference_steps, device=self.device)
        return scheduler

    def first_timestep(self, sampler: SamplerConfig) -> int:
        """The noisiest timestep a sampler starts from."""
        return int(self._scheduler(sampler).timesteps[0])

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: SamplerConfig,
        predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        on_batch: Callable[[int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Generate one image a (prompt, seed): (N, 3, H, W) float32 in [0, 1].

        Image i depends on its prompt and seed only, never on the batch it is drawn in. `predict`
        replaces `eps` (for guidance of one's own). `on_batch(first, images)` sees finished batches.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one seed an image")
        predict = predict or self.eps
        # Guidance makes two predictions an image; the second one is pointless at scale 1.
        guided = sampler.guidance_scale != 1
        uncond = self.encode_prompts([sampler.negative_prompt]) if guided else None
        parts = []
        for first in range(0, len(prompts), self.runtime.batch_size):
            some = slice(first, first + self.runtime.batch_size)
            cond = self.encode_prompts(prompts[some])
            n = len(cond)
            scheduler = self._scheduler(sampler)
            z = self.noise(seeds[some]) * scheduler.init_noise_sigma
            context = torch.cat([uncond.expand(n, -1, -1), cond]) if guided else cond
            for t in scheduler.timesteps:
                if guided:
                    e_uncond, e_cond = predict(torch.cat([z, z]), t, context).chunk(2)
                    e = e_uncond + sampler.guidance_scale * (e_cond - e_uncond)
                else:
                    e = predict(z, t, context)
                z = scheduler.step(self._as_model_output(e, z, t), t, z).prev_sample
            images = self.decode_latents(z).cpu()
            parts.append(images)
            if on_batch is not None:
                on_batch(first, images)
        return torch.cat(parts)

    def _as_model_output(self, eps: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Back from `eps` to what the checkpoint's scheduler expects."""
        if self.prediction_type != "v_prediction":
            return eps
        a = self.alpha(t, len(z))
        return (eps - (1 - a).sqrt() * z) / a.sqrt()
