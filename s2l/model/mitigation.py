"""Defences at sampling time: a sampler that keeps away from what the model has memorised.

Notation
    e_c, e_u   noise predictions with the prompt and with the negative (usually empty) one
    D(z)       e_c - e_u at latent z: what the text changes. It is large at once where a prompt was memorised

late_guidance
    Guidance towards a memorised picture takes hold early. Each picture is sampled without guidance until ||D|| has had
    its first local minimum, and with it from there on (Jain et al. 2025, "Classifier-Free Guidance Inside the
    Attraction Basin May Cause Memorization", arXiv 2411.16738, the dynamic transition point).

flat_start
    The initial noise is moved to where the text changes little around it: `FLAT_STEPS` steps of Adam on
        ||D(z + D(z) / ||D(z)||)|| + 0.05 ||z||
    (Jeon et al. 2025, "Understanding and Mitigating Memorization in Generative Models via Sharpness of Probability
    Landscapes", arXiv 2412.04140: SAIL). They draw new noise until a threshold is met; here the number of steps is
    fixed, so that every picture keeps its seed.

Both work on each picture by itself. Neither protects anything from somebody who has the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from s2l.config import SamplerConfig

if TYPE_CHECKING:
    from s2l.model.diffusion import DiffusionModel

FLAT_STEPS, FLAT_RATE, FLAT_NORM = 10, 0.05, 0.05
# One step of Adam: two pairs of predictions, and a backward pass, which costs as much as two forward passes.
FLAT_EVALUATIONS = FLAT_STEPS * 4 * 3


def evaluations(sampler: SamplerConfig) -> int:
    """UNet evaluations that the mitigation adds to each picture; a backward pass counts as two."""
    return FLAT_EVALUATIONS if sampler.mitigation == "flat_start" else 0


class Guidance:
    """The guidance scale of each picture of a batch, step by step."""

    def __init__(self, sampler: SamplerConfig):
        self.scale, self.late = sampler.guidance_scale, sampler.mitigation == "late_guidance"
        self.norms: list[torch.Tensor] = []  # ||D|| of the steps so far, (N,) each
        self.started = torch.tensor(False)

    def __call__(self, unconditional: torch.Tensor, conditional: torch.Tensor) -> torch.Tensor:
        """The guided prediction (N, C, h, w) of the next step."""
        change = conditional - unconditional
        if not self.late:
            return unconditional + self.scale * change
        self.norms.append(change.flatten(1).norm(dim=1))
        if len(self.norms) > 2:
            before, middle, now = self.norms[-3:]
            self.started = self.started.to(now.device) | ((middle < before) & (middle < now))
        scale = torch.where(self.started.to(change.device), self.scale, 1.0).expand(len(change))
        return unconditional + scale.view(-1, 1, 1, 1) * change


def flat_start(model: DiffusionModel, t: torch.Tensor, both: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The initial noise z (N, C, h, w), moved to where D changes little; see above.

    t is the first timestep; `both` (2N, L, D) are the contexts without the text, then with it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        t, both = t.clone(), both.clone()  # what was made in inference mode takes no part in gradients

        def change(z: torch.Tensor) -> torch.Tensor:
            with model.autocast():
                unconditional, conditional = model.predict(torch.cat([z, z]), t, both).chunk(2)
            return conditional - unconditional

        z = z.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([z], lr=FLAT_RATE)
        for _ in range(FLAT_STEPS):
            here = change(z)
            near = change(z + here / _norm(here).view(-1, 1, 1, 1))
            (z.grad,) = torch.autograd.grad((_norm(near) + FLAT_NORM * _norm(z)).sum(), z)
            optimizer.step()
        return z.detach()


def _norm(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1).clamp(min=1e-12)
