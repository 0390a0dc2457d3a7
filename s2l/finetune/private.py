"""Fine-tuning under differential privacy: the unit is one picture of the training set (s2l/privacy.py).

It is the wrong defence against a shake, and is there to show it: it protects the pictures that a model is fine-tuned
on. In a shake, those are the model's own drawings; the photos at stake were learnt before.
"""

from __future__ import annotations

import torch

from s2l.budget import Budget
from s2l.config import FineTuneConfig
from s2l.errors import UserError
from s2l.finetune.method import Examples
from s2l.model.diffusion import DiffusionModel
from s2l.privacy import PrivateBatches
from s2l.training import Batch, poisson_index

CLIP = 0.01  # below the norm of nearly every gradient, so that each picture weighs about the same
DELTA_SHARE = 0.1  # delta, as a share of one over the number of pictures


class PrivatePictures(PrivateBatches):
    """Batches of pictures that are sampled by Poisson, with seeded noise and timesteps.

    Raises UserError for a training that is not on one set of pictures alone, and for batches as large as the set.
    """

    def __init__(self, model: DiffusionModel, examples: Examples, config: FineTuneConfig):
        assert config.epsilon is not None
        n, expected = len(examples.captions), config.train_batch_size * config.gradient_accumulation_steps
        if len(examples.groups.unique()) > 1:
            raise UserError(
                "epsilon goes with a training on one set of pictures: DreamBooth's class images are another "
                "(prior_loss_weight 0 leaves them out)"
            )
        if expected > n:
            raise UserError(f"epsilon needs batches smaller than the set: {expected} of {n} pictures were asked for")
        budget = Budget(config.epsilon, delta=DELTA_SHARE / n, clip=CLIP)
        super().__init__(budget, expected / n, config.max_train_steps, expected)
        self.n, self.seed = n, config.seed
        self.shape, self.n_timesteps = model.latent_shape, len(model.alphas_cumprod)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; drawing it is counted as spending."""
        seed = self.seed * 1_000_003 + 700_000_001 + step
        generator = torch.Generator().manual_seed(seed)
        index = poisson_index(self.n, self.rate, generator)
        noise = torch.randn((len(index), *self.shape), generator=generator)
        t = torch.randint(self.n_timesteps, (len(index),), generator=generator)
        self.spend(index, int(torch.randint(2**62, (1,), generator=generator)))
        return Batch(index, noise, t, expected=self.expected)
