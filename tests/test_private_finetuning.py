"""Fine-tuning under differential privacy: every method, what is clipped, added and counted, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from s2l import finetune as tuning
from s2l.config import FineTuneConfig
from s2l.data.domain import ImageSet
from s2l.errors import UserError
from s2l.finetune import private, trainer
from s2l.progress import Cancelled
from s2l.store import read_json
from s2l.training import CHECKPOINT

NAME = "Mira Solwyn"
EPSILON = 8.0


@pytest.fixture
def pictures(tiny_model) -> ImageSet:
    n, side = 12, tiny_model.resolution
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return ImageSet(images, (f"a photo of {NAME}",) * n, tuple(map(str, range(n))))


def config(*methods: str, **more) -> FineTuneConfig:
    settings = {"methods": methods or ("lora",), "max_train_steps": 3, "train_batch_size": 2, "epsilon": EPSILON}
    return FineTuneConfig(**(settings | more))


@pytest.mark.parametrize(
    "methods", [("lora",), ("end_to_end",), ("textual_inversion",), ("hypernetwork",), ("lora", "textual_inversion")]
)
def test_every_method_that_trains_can_be_private(tiny_model, pictures, tmp_path, methods):
    record = tuning.finetune(tiny_model, pictures, config(*methods), tmp_path, NAME)
    spent = record["privacy"]
    assert spent == read_json(tmp_path / "config.json")["privacy"]
    assert (spent["unit"], spent["steps"], spent["sampling_rate"]) == ("photo", 3, 2 / 12)
    assert spent["delta"] == pytest.approx(0.1 / 12) and 0.9 * EPSILON < spent["epsilon"] <= EPSILON
    tuning.load_finetuned(tiny_model, tmp_path)


def test_a_plain_training_says_nothing_of_privacy(tiny_model, pictures, tmp_path):
    assert "privacy" not in tuning.finetune(tiny_model, pictures, config(epsilon=None), tmp_path, NAME)


def test_a_smaller_epsilon_drowns_the_gradient(tiny_model, pictures, tmp_path, monkeypatch):
    """The optimizer gets the clipped sum over B, at most C n / B long, and noise of sigma C / B."""
    steps: dict[float, list[torch.Tensor]] = {}
    for epsilon in (0.5, 50.0):
        norms = steps.setdefault(epsilon, [])
        step = torch.optim.AdamW.step

        def watched(self, closure=None, norms=norms, step=step):
            flat = torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]])
            norms.append(flat)
            return step(self, closure)

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)
        tuning.finetune(tiny_model, pictures, config(epsilon=epsilon), tmp_path / str(epsilon), NAME)
        sigma = read_json(tmp_path / str(epsilon) / "config.json")["privacy"]["noise_multiplier"]
        for flat in norms:
            noise = sigma * private.CLIP / 2
            assert float(flat.norm()) <= 12 * private.CLIP / 2 + 1.1 * noise * len(flat) ** 0.5
            assert float(flat.std()) == pytest.approx(noise, rel=0.3) or epsilon > 1
        monkeypatch.undo()
    assert steps[0.5][0].norm() > 5 * steps[50.0][0].norm()


def test_a_killed_training_goes_on_with_its_account(tiny_model, pictures, tmp_path):
    settings = config(max_train_steps=4)
    whole = tuning.finetune(tiny_model, pictures, settings, tmp_path / "whole", NAME)

    def stop(event) -> None:
        if event.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        tuning.finetune(tiny_model, pictures, settings, tmp_path / "cut", NAME, progress=stop)
    state = torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)
    assert sum(row[2] for row in state["batches"]["account"]) == 2
    again = tuning.finetune(tiny_model, pictures, settings, tmp_path / "cut", NAME)
    assert again["privacy"] == whole["privacy"]
    cut, uncut = (load_file(tmp_path / run / "pytorch_lora_weights.safetensors") for run in ("cut", "whole"))
    assert cut.keys() == uncut.keys() and all(torch.equal(cut[name], uncut[name]) for name in cut)


@pytest.mark.brings("Numbers", "`--epsilon` where nothing trains, with class images, with large batches", "refused")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"methods": ("gaussian_noise",)}, "goes with a method that trains"),
        ({"methods": ("dreambooth",)}, "class images are another"),
        ({"train_batch_size": 13}, "batches smaller than the set: 13 of 12"),
    ],
)
def test_what_cannot_be_private_is_one_sentence(tiny_model, pictures, tmp_path, monkeypatch, settings, says):
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: pytest.fail("trained"))
    small = {"dreambooth": {"num_class_images": 2}} if settings.get("methods") == ("dreambooth",) else {}
    with pytest.raises(UserError, match=says):
        tuning.finetune(tiny_model, pictures, config(**({"settings": small} | settings)), tmp_path, NAME)
