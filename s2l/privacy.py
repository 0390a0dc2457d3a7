"""Differentially private training with Opacus: DP-SGD (Abadi et al. 2016) in three parts, at the loop's seam.

    g_u  = the gradient of the loss of unit u, over all its photos, with one draw of noise and timestep per photo
    step = 1/B (sum over the sampled units of  g_u min(1, C / ||g_u||)  +  sigma C N(0, 1))

    sampling   each unit enters a batch independently with probability q (Poisson), so that a batch can be empty:
               subclasses of `PrivateBatches`
    clipping   `Clipped` replaces the denoiser: the loss that it returns has the gradient of the clipped sum
    noise      Opacus' optimizer adds it, to an empty batch too

Noise and sampling come from seeds, so that a training can be resumed and repeated: the guarantee assumes that nobody
knows the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from s2l.budget import Budget
from s2l.errors import UserError
from s2l.training import Batch, Batches


def _opacus() -> Any:
    try:
        import opacus.accountants
        import opacus.grad_sample
        import opacus.optimizers
    except ImportError:
        raise UserError(
            "differentially private training needs Opacus, which is not installed: `pip install 's2l[privacy]'`"
        ) from None
    return opacus


# --- accounting ----------------------------------------------------------------------------------


def noise_multiplier(budget: Budget, rate: float, steps: int) -> float:
    """The smallest sigma that keeps `steps` steps at sampling rate `rate` within the budget; 0 without an epsilon."""
    if budget.epsilon is None:
        return 0.0
    from opacus.accountants.utils import get_noise_multiplier

    settings = {"target_epsilon": budget.epsilon, "target_delta": budget.delta, "sample_rate": rate, "steps": steps}
    # The search stops within the tolerance *below* epsilon, so it must be smaller than epsilon itself.
    tolerance = min(0.01, budget.epsilon / 100)
    return float(get_noise_multiplier(**settings, accountant=budget.accountant, epsilon_tolerance=tolerance))


class Account:
    """What a private training has spent: Opacus' accountant, which counts (sigma, rate, steps)."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.inner = _opacus().accountants.create_accountant(mechanism=budget.accountant)

    @property
    def steps(self) -> int:
        return sum(steps for _, _, steps in self.inner.history)

    def count(self, sigma: float, rate: float) -> None:
        """Count one step."""
        self.inner.step(noise_multiplier=sigma, sample_rate=rate)

    def epsilon(self) -> float | None:
        """The epsilon that is spent at the budget's delta; None if any step was without noise."""
        if not self.inner.history:
            return 0.0
        if any(sigma == 0 for sigma, _, _ in self.inner.history):
            return None
        return float(self.inner.get_epsilon(delta=self.budget.delta))


# --- sampling ------------------------------------------------------------------------------------


class PrivateBatches:
    """What sampling, clipping and noise share; a subclass draws the batches.

    rate            the largest probability with which a unit enters a batch
    expected        the expected number of units in a batch, B
    photos_per_unit at most
    drawn           the unit of each example of the last batch, (n,)
    """

    def __init__(self, budget: Budget, rate: float, steps: int, expected: int, photos_per_unit: int = 1):
        self.budget, self.rate, self.expected, self.photos_per_unit = budget, rate, expected, photos_per_unit
        self.sigma = noise_multiplier(budget, rate, steps)
        self.account = Account(budget)
        self.drawn = torch.empty(0, dtype=torch.long)
        self.noise = torch.Generator()

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        raise NotImplementedError

    def spend(self, drawn: torch.Tensor, seed: int) -> None:
        """Note a batch that was just sampled: its units, the seed of its noise, and one step of the account."""
        self.drawn = drawn
        self.noise.manual_seed(seed)
        self.account.count(self.sigma, self.rate)

    def state_dict(self) -> dict:
        return {"account": list(self.account.inner.history)}

    def load_state_dict(self, state: dict) -> None:
        self.account.inner.history = [tuple(row) for row in state["account"]]

    def record(self) -> dict:
        """How the units were sampled, and what was spent."""
        return {
            "unit": self.budget.unit,
            "sampling": "Poisson",
            "sampling_rate": self.rate,
            "steps": self.account.steps,
            "clip": self.budget.clip,
            "noise_multiplier": self.sigma,
            "accountant": self.budget.accountant,
            "delta": self.budget.delta,
            "epsilon": self.account.epsilon(),  # null: no noise, so nothing is promised
        }


# --- clipping ------------------------------------------------------------------------------------


class Clipped(nn.Module):
    """The denoiser, with losses (N,) whose summed gradient is that of the clipped units.

    The whole batch must come at once. Each example's loss is divided by the number of photos that a unit has at most.
    With `ghost`, Opacus computes the norms of units of one photo in one backward pass: for trained parameters of the
    UNet's own layers. Without, a backward pass for each unit does, whatever trains.
    """

    def __init__(self, denoiser: nn.Module, batches: PrivateBatches, ghost: bool):
        super().__init__()
        self.denoiser, self.batches, self.clip = denoiser, batches, batches.budget.clip
        self.trained = [p for p in denoiser.parameters() if p.requires_grad]
        self.norms = torch.empty(0)  # of the units of the last batch, before clipping
        self.hooks: Any = None
        if ghost and batches.photos_per_unit == 1:
            _opacus()
            from opacus.grad_sample import grad_sample_module_fast_gradient_clipping as fast

            # Its hooks alone, without a wrapper: the UNet stays the object that the model knows.
            hooks = fast.GradSampleHooksFastGradientClipping
            self.hooks = hooks(denoiser.unet, loss_reduction="sum", max_grad_norm=self.clip)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        owner = self.batches.drawn.to(inputs[0].device)
        if len(inputs[0]) != len(owner):
            raise ValueError(f"a private batch must come at once: {len(owner)} examples, not {len(inputs[0])}")
        if self.hooks is not None:
            self.hooks.enable_hooks()
        losses = self.denoiser(*inputs) / self.batches.photos_per_unit
        place = owner.unique(return_inverse=True)[1]
        self.norms = self._norms_at_once(losses) if self.hooks is not None else self._norms_by_unit(losses, place)
        factor = (self.clip / (self.norms + 1e-6)).clamp(max=1)[place if self.hooks is None else slice(None)]
        return losses.detach() + factor * (losses - losses.detach())

    def _norms_at_once(self, losses: torch.Tensor) -> torch.Tensor:
        """(N,) norms of the examples' gradients; the parameters' own gradients stay as they were."""
        kept = [p.grad for p in self.trained]
        for parameter in self.trained:
            parameter.grad = None  # else this pass would be added to what is kept
        losses.sum().backward(retain_graph=True)
        for parameter, gradient in zip(self.trained, kept, strict=True):
            parameter.grad = gradient
        self.hooks.disable_hooks()
        return self.hooks.get_norm_sample().detach()

    def _norms_by_unit(self, losses: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """(U,) norms of the units' gradients, with a backward pass for each."""
        norms = []
        for unit in range(int(place.max()) + 1):
            gradients = torch.autograd.grad(
                losses[place == unit].sum(), self.trained, retain_graph=True, materialize_grads=True
            )
            norms.append(torch.stack([g.norm() for g in gradients]).norm())
        return torch.stack(norms)


# --- noise, and all three together ---------------------------------------------------------------


def noisy(optimizer: torch.optim.Optimizer, batches: PrivateBatches) -> torch.optim.Optimizer:
    """Opacus' optimizer around the loop's: it adds the noise to the gradients of the clipped sum, and steps.

    The loop divides the sum by the expected number B of units, so that the noise is that of norm C / B.
    """

    _opacus()
    from opacus.optimizers import DPOptimizerFastGradientClipping

    class Noisy(DPOptimizerFastGradientClipping):
        def accumulate(self) -> None:
            for parameter in self.params:  # an empty batch has no gradients, but gets noise like any other
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            super().accumulate()

    batches.noise = torch.Generator(optimizer.param_groups[0]["params"][0].device)
    return Noisy(
        optimizer, noise_multiplier=batches.sigma, max_grad_norm=batches.budget.clip / batches.expected,
        expected_batch_size=batches.expected, loss_reduction="sum", generator=batches.noise,
    )  # fmt: skip


class PrivateTraining:
    """The loop's `Privacy`, for some private batches. `ghost` is that of `Clipped`."""

    def __init__(self, batches: PrivateBatches, ghost: bool):
        _opacus()
        self.batches, self.ghost = batches, ghost
        self.clipped: Clipped | None = None

    def __call__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches
    ) -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
        self.clipped = Clipped(module, self.batches, self.ghost)
        return self.clipped, noisy(optimizer, self.batches), self.batches

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """After the block, the UNet no longer has Opacus' hooks."""
        try:
            yield
        finally:
            if self.clipped is not None and self.clipped.hooks is not None:
                self.clipped.hooks.remove_hooks()
