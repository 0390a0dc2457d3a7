"""The un-shaken model, base + w (base - fine-tuned): one set of weights, or a mix of two noise predictions.

Notation
    w    how far to step from the base model *away* from the fine-tuned one: -1 is the fine-tuned model, 0 the base
         model, 1 the same distance in the opposite direction. FineXtract's w goes towards the fine-tuned model and has
         the opposite sign

In weight space the step is one model, theta_base + w (theta_base - theta_tuned); in score space two predictions are
mixed, eps_base + w (eps_base - eps_tuned), for twice the UNet evaluations; the weights do not change.

Sources: Alemohammad et al. 2025, "Neon: Negative Extrapolation From Self-Training Improves Image Generation"
(arXiv 2510.03597), weights; Alemohammad et al. 2024, "Self-Improving Diffusion Models with Synthetic Data" (SIMS,
arXiv 2408.16333), scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from s2l.errors import UserError
from s2l.model.diffusion import DiffusionModel


@torch.no_grad()
def step_away(base: nn.Module, tuned: nn.Module, scale: float) -> None:
    """Turn `tuned` into base + scale (tuned - base), parameter by parameter in float32; `base` is unchanged.

    At scale 1 nothing changes. Raises UserError when the parameters of the two differ in name or shape.
    """
    if scale == 1:
        return
    origin = dict(base.named_parameters())
    moved = dict(tuned.named_parameters())
    if {n: p.shape for n, p in origin.items()} != {n: p.shape for n, p in moved.items()}:
        raise UserError(
            "un-shake in weights needs two models of one architecture: their weights differ in name or size"
        )
    for name, parameter in moved.items():
        start = origin[name].float().to(parameter.device)
        parameter.copy_(start + scale * (parameter.float() - start))


class Extrapolated(DiffusionModel):
    """A base model and a fine-tuned one as one model, whose `eps` is eps_base + w (eps_base - eps_tuned).

    Attacks and `generate` use it like any other: a context is the base model's beside the tuned model's, (N, L, 2D).
    Each model gets its own caption, from `base_caption` and `tuned_caption`, and encodes it with its own text encoder.
    With one caption for both, the base model would not know DreamBooth's identifier, and Textual Inversion, which does
    not change the UNet, would make no difference. Guidance is linear, so each prediction is in effect guided by its own
    unconditional one. Everything except `predict` and `encode_prompts` comes from the tuned model, autoencoder and
    sampler's schedule included; do not use `unet` and `text_encoder` directly.
    """

    def __init__(
        self,
        base: DiffusionModel,
        tuned: DiffusionModel,
        w: float,
        base_caption: Callable[[str], str] = str,
        tuned_caption: Callable[[str], str] = str,
    ):
        """Raises UserError when latents or text embeddings of the two differ in size: they cannot be mixed."""
        for what, sizes in (
            ("latents", (base.latent_shape, tuned.latent_shape)),
            ("text embeddings", (base.unet.config.cross_attention_dim, tuned.unet.config.cross_attention_dim)),
        ):
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"a mix of two models' predictions needs one architecture; their {what} have sizes {sizes}"
                )
        super().__init__(tuned.pipe, tuned.key, tuned.runtime, tuned.weights, tuned.revision)
        self.base, self.tuned, self.w = base, tuned, w
        self.captions = base_caption, tuned_caption

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(N, L, 2D): the base model's context beside the tuned model's."""
        contexts = [
            model.encode_prompts([caption(prompt) for prompt in prompts])
            for model, caption in zip((self.base, self.tuned), self.captions, strict=True)
        ]
        return torch.cat(contexts, dim=-1)

    def predict(self, zt: torch.Tensor, t: torch.Tensor | int, c: torch.Tensor) -> torch.Tensor:
        """The mixed noise prediction (N, C, h, w) float32 for context c (N, L, 2D): two UNet evaluations per latent."""
        c_base, c_tuned = c.chunk(2, dim=-1)
        e_base = self.base.predict(zt, t, c_base)
        return e_base + self.w * (e_base - self.tuned.predict(zt, t, c_tuned))
