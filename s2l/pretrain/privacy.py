"""Differentially private training of a recipe's private phase, with Opacus: DP-SGD (Abadi et al. 2016) in three parts.

    g_u  = the gradient of the loss of unit u, over all its photos, with one draw of noise and timestep per photo
    step = 1/B (sum over the sampled units of  g_u min(1, C / ||g_u||)  +  sigma C N(0, 1))

    sampling   each unit enters a batch independently with probability q (Poisson), so that a batch can be empty
    clipping   `Clipped` replaces the denoiser: the loss that it returns has the gradient of the clipped sum
    noise      Opacus' optimizer adds it, to an empty batch too

A unit is one photo with all its copies, or a person with all their photos. The copies of a photo are one example here,
so they raise neither the chance that it is sampled nor its gradient. The text encoder does not train. Noise and
sampling come from seeds, so that a training can be resumed and repeated: the guarantee assumes that nobody knows the
seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from s2l.errors import UserError
from s2l.pretrain.data import Mixture, step_generator
from s2l.pretrain.recipe import Budget, Recipe
from s2l.training import Batch, Batches, TrainingSet, poisson_index


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


class PoissonMixture:
    """The batches of a recipe with a private phase: those of `plain` in every other phase.

    `owner` (M,) is the unit of each example. `drawn` is the unit of each example of the last batch.
    """

    def __init__(self, recipe: Recipe, plain: Mixture, owner: torch.Tensor):
        phase = recipe.private_phase
        assert phase is not None
        self.recipe, self.plain, self.phase, self.owner = recipe, plain, phase, owner
        self.rates = recipe.rates(phase)
        spans = {"private": slice(0, plain.n_private), "public": slice(plain.n_private, None)}
        self.units = {source: owner[spans[source]].unique() for source in self.rates}
        # Units that have fewer photos than others must not be scaled up, which would tell how many there are.
        used = torch.cat([owner[spans[source]] for source in self.rates])
        self.photos_per_unit = int(used.bincount().max())
        self.rate = max(self.rates.values())
        self.sigma = noise_multiplier(phase.budget, self.rate, phase.steps)
        self.account = Account(phase.budget)
        self.drawn = torch.empty(0, dtype=torch.long)
        self.noise = torch.Generator()

    @property
    def private_seen(self) -> int:
        return self.plain.private_seen

    def __call__(self, step: int) -> Batch:
        """The batch of a step; in the private phase, drawing it is counted as spending."""
        if self.recipe.at(step)[0] is not self.phase:
            return self.plain(step)
        generator = step_generator(self.recipe, 2, step)
        self.noise.manual_seed(step_generator(self.recipe, 4, step).initial_seed())
        chosen = [
            units[poisson_index(len(units), self.rates[source], generator)] for source, units in self.units.items()
        ]
        index = torch.isin(self.owner, torch.cat(chosen)).nonzero().flatten()
        self.drawn = self.owner[index]
        self.account.count(self.sigma, self.rate)
        self.plain.private_seen += int((index < self.plain.n_private).sum())
        examples = self.plain.examples
        captions = examples.captions[index].clone()
        captions[torch.rand(len(index), generator=generator) < self.recipe.caption_dropout] = self.plain.empty
        noise = torch.randn((len(index), *examples.latents.shape[1:]), generator=generator)
        t = torch.randint(self.plain.n_timesteps, (len(index),), generator=generator)
        return Batch(index, noise, t, captions, expected=self.phase.batch_size)

    def state_dict(self) -> dict:
        return self.plain.state_dict() | {"account": list(self.account.inner.history)}

    def load_state_dict(self, state: dict) -> None:
        self.plain.load_state_dict(state)
        self.account.inner.history = [tuple(row) for row in state["account"]]


# --- clipping ------------------------------------------------------------------------------------


class Clipped(nn.Module):
    """The denoiser, with losses (N,) whose summed gradient is that of the clipped units.

    The whole batch must come at once. Each example's loss is divided by the number of photos that a unit has at most.
    """

    def __init__(self, denoiser: nn.Module, batches: PoissonMixture):
        super().__init__()
        self.denoiser, self.batches, self.clip = denoiser, batches, batches.phase.budget.clip
        self.trained = [p for p in denoiser.parameters() if p.requires_grad]
        self.norms = torch.empty(0)  # of the units of the last batch, before clipping
        self.hooks: Any = None
        if batches.photos_per_unit == 1:  # Opacus computes all norms in one backward pass, without the gradients
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
            gradients = torch.autograd.grad(losses[place == unit].sum(), self.trained, retain_graph=True)
            norms.append(torch.stack([g.norm() for g in gradients]).norm())
        return torch.stack(norms)


# --- noise, and all three together ---------------------------------------------------------------


def noisy(optimizer: torch.optim.Optimizer, batches: PoissonMixture) -> torch.optim.Optimizer:
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

    phase = batches.phase
    batches.noise = torch.Generator(optimizer.param_groups[0]["params"][0].device)
    return Noisy(
        optimizer, noise_multiplier=batches.sigma, max_grad_norm=phase.budget.clip / phase.batch_size,
        expected_batch_size=phase.batch_size, loss_reduction="sum", generator=batches.noise,
    )  # fmt: skip


class PrivateTraining:
    """The loop's `Privacy` for a recipe's private phase. `batches` also serves the recipe's other phases."""

    def __init__(self, recipe: Recipe, plain: Mixture, owner: torch.Tensor):
        _opacus()
        self.batches = PoissonMixture(recipe, plain, owner)
        self.clipped: Clipped | None = None

    def __call__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches
    ) -> tuple[nn.Module, torch.optim.Optimizer, Batches]:
        self.clipped = Clipped(module, self.batches)
        return self.clipped, noisy(optimizer, self.batches), self.batches

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """After the block, the UNet no longer has Opacus' hooks."""
        try:
            yield
        finally:
            if self.clipped is not None and self.clipped.hooks is not None:
                self.clipped.hooks.remove_hooks()

    def record(self) -> dict:
        """What `lab.json` says of the privacy: the unit, how it was sampled, and what was spent."""
        batches, budget = self.batches, self.batches.phase.budget
        return {
            "unit": budget.unit,
            "n_units": {source: len(units) for source, units in batches.units.items()},
            "sampling": "Poisson",
            "sampling_rate": batches.rate,
            "steps": batches.account.steps,
            "clip": budget.clip,
            "noise_multiplier": batches.sigma,
            "accountant": budget.accountant,
            "delta": budget.delta,
            "epsilon": batches.account.epsilon(),  # null: no noise, so nothing is promised
        }


def owners(examples: TrainingSet, people: list[int], budget: Budget) -> torch.Tensor:
    """The privacy unit of each example, (M,): its own, or that of its person. `people` (M,) says who it shows."""
    if budget.unit == "photo":
        return torch.arange(len(examples.latents))
    return torch.tensor(people).unique(return_inverse=True)[1]
