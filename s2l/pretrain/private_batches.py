"""The batches of a recipe with a private phase: units sampled by Poisson (s2l/privacy.py).

A unit is one photo with all its copies, or a person with all their photos. The copies of a photo are one example here,
so they raise neither the chance that it is sampled nor its gradient. The text encoder does not train.
"""

from __future__ import annotations

import torch

from s2l.budget import Budget
from s2l.pretrain.data import Mixture, step_generator
from s2l.pretrain.recipe import Recipe
from s2l.privacy import PrivateBatches
from s2l.training import Batch, TrainingSet, poisson_index


class PoissonMixture(PrivateBatches):
    """The batches of a recipe with a private phase: those of `plain` in every other phase.

    `owner` (M,) is the unit of each example.
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
        most = int(used.bincount().max())
        super().__init__(phase.budget, max(self.rates.values()), phase.steps, phase.batch_size, most)

    @property
    def private_seen(self) -> int:
        return self.plain.private_seen

    def __call__(self, step: int) -> Batch:
        """The batch of a step; in the private phase, drawing it is counted as spending."""
        if self.recipe.at(step)[0] is not self.phase:
            return self.plain(step)
        generator = step_generator(self.recipe, 2, step)
        chosen = [
            units[poisson_index(len(units), self.rates[source], generator)] for source, units in self.units.items()
        ]
        index = torch.isin(self.owner, torch.cat(chosen)).nonzero().flatten()
        self.spend(self.owner[index], step_generator(self.recipe, 4, step).initial_seed())
        self.plain.private_seen += int((index < self.plain.n_private).sum())
        examples = self.plain.examples
        captions = examples.captions[index].clone()
        captions[torch.rand(len(index), generator=generator) < self.recipe.caption_dropout] = self.plain.empty
        noise = torch.randn((len(index), *examples.latents.shape[1:]), generator=generator)
        t = torch.randint(self.plain.n_timesteps, (len(index),), generator=generator)
        return Batch(index, noise, t, captions, expected=self.expected)

    def state_dict(self) -> dict:
        return self.plain.state_dict() | super().state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.plain.load_state_dict(state)
        super().load_state_dict(state)

    def record(self) -> dict:
        """What `lab.json` says of the privacy: the units, how they were sampled, and what was spent."""
        return super().record() | {"n_units": {source: len(units) for source, units in self.units.items()}}


def owners(examples: TrainingSet, people: list[int], budget: Budget) -> torch.Tensor:
    """The privacy unit of each example, (M,): its own, or that of its person. `people` (M,) says who it shows."""
    if budget.unit == "photo":
        return torch.arange(len(examples.latents))
    return torch.tensor(people).unique(return_inverse=True)[1]
