"""The seam for private training: module, optimizer and batches are replaced together."""

from __future__ import annotations

import pytest
import torch

from s2l import training
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.training import Batch, TrainingSet


@pytest.fixture
def model(tiny_checkpoint):
    return DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=4))


class Poisson:
    """Batches in which each example enters with probability `rate`; some are empty."""

    def __init__(self, model: DiffusionModel, n: int, rate: float):
        self.shape, self.n, self.rate = model.latent_shape, n, rate

    def __call__(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        index = training.poisson_index(self.n, self.rate, generator)
        noise = torch.randn((len(index), *self.shape), generator=generator)
        t = torch.randint(1000, (len(index),), generator=generator)
        return Batch(index, noise, t, expected=max(1, round(self.n * self.rate)))

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def fitted(model, tmp_path, batches, steps: int, privacy=None) -> tuple[torch.nn.Parameter, list]:
    """One layer of the UNet after some steps of plain SGD, and the events."""
    tmp_path.mkdir()
    events: list = []
    model.unet.requires_grad_(False)
    layer = model.unet.conv_out.weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(9)
    examples = TrainingSet(
        latents=torch.randn((6, *model.latent_shape), generator=generator),
        tokens=model.tokenize(["a photo", "a face"]),
        captions=torch.tensor([0, 1, 0, 1, 0, 1]),
        weights=torch.ones(6),
    )
    optimizer = torch.optim.SGD([layer], lr=0.1)

    def constant(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    state = training.new_state(model, optimizer, constant, ema_decay=0)
    training.fit(
        model, state, examples, batches, steps, tmp_path, max_grad_norm=1e9, privacy=privacy, listen=events.append,
        stage="test",
    )  # fmt: skip
    return layer, events


def test_poisson_batches_vary_and_can_be_empty(model, tmp_path):
    batches = Poisson(model, 6, 0.2)
    sizes = [len(batches(step).index) for step in range(60)]
    assert min(sizes) == 0 and len(set(sizes)) > 2 and abs(sum(sizes) / 60 - 1.2) < 0.5
    empty = sizes.index(0)
    _, events = fitted(model, tmp_path / "run", batches, empty + 1)
    assert events[-1].step == empty + 1 and events[-1].info["loss"] == 0


def test_privacy_replaces_module_optimizer_and_batches_together(model, tiny_checkpoint, tmp_path):
    """A clipping that never binds, made of per-example gradients, ends where plain training ends."""
    seen = []

    class PerExample(torch.optim.SGD):
        """Adds up the gradients of single examples, each clipped; noise would be added here."""

        def __init__(self, inner, module):
            super().__init__(inner.param_groups)
            self.module = module

        def step(self, closure=None):
            (parameter,) = self.param_groups[0]["params"]
            if self.module.inputs is not None:
                losses = self.module.inner(*self.module.inputs)
                single = [torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in losses]
                parameter.grad = sum(g * min(1.0, 1e9 / float(g.norm())) for g in single) / 3
            return super().step()

    class Keeping(torch.nn.Module):
        """The denoiser; what it was last asked stays at hand for the optimizer."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.inputs = inner, None

        def forward(self, *inputs):
            self.inputs = inputs
            return self.inner(*inputs)

    def privacy(module, optimizer, batches):
        seen.append((module, optimizer, batches))
        keeping = Keeping(module)
        return keeping, PerExample(optimizer, keeping), Poisson(model, 6, 0.5)

    private, _ = fitted(model, tmp_path / "private", Poisson(model, 6, 0.9), 3, privacy)
    other = DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=4))
    plain, _ = fitted(other, tmp_path / "plain", Poisson(other, 6, 0.5), 3)
    assert len(seen) == 1 and torch.allclose(private, plain, atol=1e-6)
