"""The one training loop: its loss, resuming, precision, several processes, and how it fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from s2l import finetune as ft
from s2l import training
from s2l.config import FineTuneConfig, SamplerConfig
from s2l.data.domain import ImageSet
from s2l.data.sp_set import generate_images, load_images
from s2l.errors import UserError
from s2l.finetune import trainer
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Cancelled

NAME = "Mira Solwyn"
FAST = SamplerConfig(num_inference_steps=2, guidance_scale=1.0)
ROOT = Path(__file__).resolve().parents[1]


def settings(*methods, own: dict | None = None, **fields) -> FineTuneConfig:
    """A small fine-tuning; `own` overrides settings of single methods."""
    small = {"dreambooth": {"num_class_images": 3, "class_sampler": FAST.model_dump()}}
    of_methods = {name: small.get(name, {}) | (own or {}).get(name, {}) for name in methods}
    return FineTuneConfig(
        methods=methods, settings=of_methods, **{"max_train_steps": 6, "train_batch_size": 2} | fields
    )


@pytest.fixture(autouse=True)
def _quick_samples(monkeypatch):
    monkeypatch.setattr(trainer, "SAMPLER", FAST)


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    return DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype="float32", batch_size=2))


@pytest.fixture(scope="module")
def sp_set(base):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, base.resolution, base.resolution), dtype=torch.uint8, generator=generator)
    captions = tuple(f"a {kind} of {NAME}" for kind in ("photo", "face", "photo", "portrait", "photo"))
    return ImageSet(images, captions, tuple("abcde"))


def examples_of(model: DiffusionModel, sp_set: ImageSet) -> ft.Examples:
    n = len(sp_set)
    latents = model.encode_images(sp_set.floats())
    return ft.Examples(latents, sp_set.captions, torch.ones(n), torch.zeros(n, dtype=torch.long))


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a result folder."""
    return {f"{p.name}:{k}": t for p in sorted(folder.rglob("*.safetensors")) for k, t in load_file(p).items()}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Listener:
    """Keeps all events and stops the training at a step, as a cancelled job does."""

    def __init__(self, stop_at: int = -1, error: type[Exception] = Cancelled):
        self.events, self.stop_at, self.error = [], stop_at, error

    def __call__(self, event):
        self.events.append(event)
        if event.stage == "finetune" and event.step == self.stop_at:
            raise self.error


# --- the loss --------------------------------------------------------------------------------


def test_the_loop_against_a_naive_one(base, sp_set, tmp_path):
    """Three steps with a class group of weight 0.5, written out: the same losses, the same weights."""
    config = settings(
        "dreambooth",
        own={"dreambooth": {"prior_loss_weight": 0.5}},
        max_train_steps=3,
        weight_decay=0,
        learning_rate=1e-3,
    )
    ft.finetune(base, sp_set, config, tmp_path / "a", NAME, class_folder=tmp_path / "class")

    model, drawn = base.copy(), load_images(tmp_path / "class")
    instance, prior = base.encode_images(sp_set.floats()), base.encode_images(drawn.floats())
    z0 = torch.cat([instance, prior]).clone()
    captions = [c.replace(NAME, "sks person") for c in sp_set.captions] + ["a photo of a person"] * len(drawn)
    examples = ft.Examples(z0, tuple(captions), torch.ones(len(z0)), torch.tensor([0] * len(sp_set) + [1] * len(drawn)))
    parameters = list(model.unet.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0)
    losses = []
    for step in range(3):
        index = trainer.batch_indices(examples, config, step)
        assert examples.groups[index].tolist() == [0, 0, 1, 1]
        generator = torch.Generator().manual_seed(500_000_009 + step)
        noise = torch.randn((4, *base.latent_shape), generator=generator)
        t = torch.randint(1000, (4,), generator=generator)
        a = base.pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        zt = a.sqrt() * z0[index] + (1 - a).sqrt() * noise
        c = base.encode_prompts([captions[i] for i in index]).clone()
        error = (model.unet(zt, t, c).sample - noise) ** 2
        loss = error[:2].mean() + 0.5 * error[2:].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert [row["loss"] for row in log_of(tmp_path / "a")] == pytest.approx(losses, rel=1e-4)
    tuned = ft.load_finetuned(base, tmp_path / "a")
    for a, b in zip(tuned.unet.parameters(), parameters, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-3, atol=1e-4)


def test_batches_walk_through_whole_epochs(base, sp_set):
    examples, config = examples_of(base, sp_set), settings("lora")
    seen = torch.cat([trainer.batch_indices(examples, config, step) for step in range(5)]).tolist()
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))  # 5 steps of 2: two epochs of 5
    assert seen[:5] != seen[5:]


def test_accumulated_gradients_equal_one_large_batch(base, sp_set, tmp_path):
    one = settings("lora", train_batch_size=4, max_train_steps=3)
    two = settings("lora", train_batch_size=2, gradient_accumulation_steps=2, max_train_steps=3)
    for name, config in (("one", one), ("two", two)):
        ft.finetune(base, sp_set, config, tmp_path / name, NAME)
    losses = [[row["loss"] for row in log_of(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    a, b = saved(tmp_path / "one"), saved(tmp_path / "two")
    # Where a gradient is nearly 0, Adam's first steps amplify its rounding, up to a fraction of the rate (1e-4).
    assert max((a[k] - b[k]).abs().max() for k in a) < 5e-5


@pytest.mark.parametrize("method, per_step", [("lora", 0), ("textual_inversion", 1)])
def test_captions_are_encoded_once_where_nothing_upstream_trains(method, per_step, base, sp_set, tmp_path):
    model, calls = base.copy(), []
    groups = [{"params": ft.weights_of(method).prepare(model, settings(method)), "lr": 1e-4}]
    model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    trainer.train(model, groups, examples_of(base, sp_set), settings(method, max_train_steps=3), tmp_path)
    assert len(calls) == (3 * per_step if per_step else 1)


# --- losses that are read later ------------------------------------------------------------------


def test_losses_read_together_are_those_read_one_by_one(base, sp_set, tmp_path, monkeypatch):
    """The same weights, losses and sample pictures; events in order, and a training stopped among them resumes."""
    config = settings("lora", ema_decay=0.9, max_train_steps=6)

    def run(name: str, listener: Listener) -> list[torch.Tensor]:
        model = base.copy()
        parameters = ft.weights_of("lora").prepare(model, config)
        (tmp_path / name).mkdir(exist_ok=True)
        groups = [{"params": parameters, "lr": 1e-3}]
        trainer.train(model, groups, examples_of(base, sp_set), config, tmp_path / name, listener, sample_steps=4)
        return parameters

    one_by_one = run("one", Listener())
    monkeypatch.setattr(trainer, "_read_every", lambda model, sample_steps: 4)
    together = Listener()
    for a, b in zip(one_by_one, run("four", together), strict=True):
        assert torch.equal(a, b)
    assert [e.step for e in together.events] == [0, 1, 2, 3, 4, 5, 6]
    losses = [[row["loss"] for row in log_of(tmp_path / name)] for name in ("one", "four")]
    assert losses[0] == losses[1]
    pictures = [sorted((tmp_path / name / "samples").glob("*.png")) for name in ("one", "four")]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]] and len(pictures[0]) == 12

    with pytest.raises(Cancelled):
        run("stopped", Listener(2))
    rest = Listener()
    for a, b in zip(one_by_one, run("stopped", rest), strict=True):
        assert torch.equal(a, b)
    steps = [e.step for e in rest.events]
    assert steps == [5, 6], "the four steps that were done are kept"
    assert [row["loss"] for row in log_of(tmp_path / "stopped")] == losses[0]


def test_a_gpu_reads_losses_at_steps_with_sample_pictures(base):
    assert trainer._read_every(base, 25) == 1

    class OnGpu:
        device = torch.device("cuda")

    assert [trainer._read_every(OnGpu(), every) for every in (0, 25, 20, 7)] == [10, 5, 10, 1]


# --- stop and resume -------------------------------------------------------------------------

RESUMED = [
    settings("lora", "dreambooth", ema_decay=0.9, lr_scheduler="cosine", lr_warmup_steps=2),
    settings("textual_inversion", gradient_accumulation_steps=2),
    settings("hypernetwork", "textual_inversion", train_text_encoder=True),
    settings("end_to_end", train_text_encoder=True, lr_scheduler="linear"),
]


@pytest.mark.parametrize("config", RESUMED, ids=lambda c: "+".join(c.methods))
def test_stop_and_resume_equals_an_unbroken_run(config, base, sp_set, tmp_path):
    ft.finetune(base, sp_set, config, tmp_path / "unbroken", NAME)
    with pytest.raises(Cancelled):
        ft.finetune(base, sp_set, config, tmp_path / "stopped", NAME, Listener(3))
    assert len(log_of(tmp_path / "stopped")) == 3
    rest = Listener()
    ft.finetune(base, sp_set, config, tmp_path / "stopped", NAME, rest)
    assert [e.step for e in rest.events if e.stage == "finetune"] == [4, 5, 6]
    a, b = saved(tmp_path / "unbroken"), saved(tmp_path / "stopped")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    losses = [[row["loss"] for row in log_of(tmp_path / name)] for name in ("unbroken", "stopped")]
    assert losses[0] == losses[1]
    assert not (tmp_path / "stopped" / training.CHECKPOINT).exists()


def test_a_killed_run_resumes_from_its_last_checkpoint(base, sp_set, tmp_path):
    config = settings("lora")

    def run(folder: str, listener: Listener) -> list[torch.Tensor]:
        model = base.copy()
        parameters = ft.weights_of("lora").prepare(model, config)
        (tmp_path / folder).mkdir(exist_ok=True)
        groups = [{"params": parameters, "lr": 1e-3}]
        trainer.train(
            model, groups, examples_of(base, sp_set), config, tmp_path / folder, listener, checkpoint_seconds=0
        )
        return parameters

    unbroken, rest = run("unbroken", Listener()), Listener()
    with pytest.raises(RuntimeError):  # no chance to save: the state of an earlier step is on disk
        run("killed", Listener(5, RuntimeError))
    os.truncate(tmp_path / "killed" / "log.jsonl", 50)  # killed while it was written
    resumed = run("killed", rest)
    assert 1 < rest.events[0].step <= 6
    assert all(torch.equal(a, b) for a, b in zip(unbroken, resumed, strict=True))
    assert [row["step"] for row in log_of(tmp_path / "killed")] == [1, 2, 3, 4, 5, 6]


def test_the_average_is_that_of_the_steps(base, sp_set, tmp_path):
    config = settings("lora", ema_decay=0.5, max_train_steps=4)
    model = base.copy()
    parameters = ft.weights_of("lora").prepare(model, config)
    mean = [p.detach().clone() for p in parameters]

    def follow(event):
        if event.step:
            # diffusers' EMAModel: the first step is taken whole, then a short memory that grows up to the decay.
            decay = min(0.5, event.step / (event.step + 9)) if event.step > 1 else 0
            for m, p in zip(mean, parameters, strict=True):
                m.lerp_(p.detach(), 1 - decay)

    trainer.train(
        model, [{"params": parameters, "lr": 1e-2}], examples_of(base, sp_set), config, tmp_path, follow, sample_steps=2
    )
    assert all(torch.allclose(m, p, rtol=1e-6, atol=1e-8) for m, p in zip(mean, parameters, strict=True))


# --- what a listener sees --------------------------------------------------------------------


def test_events_log_and_samples(base, sp_set, tmp_path):
    config, listener = settings("lora", max_train_steps=5), Listener()
    record = ft.finetune(base, sp_set, config, tmp_path / "a", NAME, listener, sample_steps=2)
    assert [e.step for e in listener.events] == [0, 1, 2, 3, 4, 5] and {e.total for e in listener.events} == {5}
    assert listener.events[0].info["trained_parameters"] == record["trained_parameters"]
    rows = log_of(tmp_path / "a")
    for event, row in zip(listener.events[1:], rows, strict=True):
        assert event.info["loss"] == row["loss"] > 0 and row["images_per_s"] > 0 and row["lr"] == 1e-3
    names = [f"samples/{step:06d}_{i}.png" for step in (0, 2, 4, 5) for i in range(4)]
    assert [n for e in listener.events for n in e.info.get("samples", [])] == names
    assert sorted(p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").glob("samples/*")) == names
    with Image.open(tmp_path / "a" / names[0]) as picture:
        assert picture.size == (base.resolution, base.resolution)
    # Watching changes nothing.
    ft.finetune(base, sp_set, config, tmp_path / "b", NAME)
    a, b = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a) and not (tmp_path / "b" / "samples").exists()


def test_the_schedule_is_followed(base, sp_set, tmp_path):
    config = settings("lora", lr_scheduler="linear", lr_warmup_steps=2, learning_rate=1e-3)
    ft.finetune(base, sp_set, config, tmp_path, NAME)
    rates = [row["lr"] for row in log_of(tmp_path)]
    assert rates == pytest.approx([0, 0.5e-3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


# --- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss, low_precision, words",
    [
        (float("nan"), False, "became nan at step 7: the learning rate 0.5 and 0.01"),
        (float("inf"), True, "half precision overflowed"),
        (25.0, False, "exploded from 0.3 to 25 at step 7"),
    ],
)
def test_a_bad_loss_names_its_likely_cause(loss, low_precision, words):
    with pytest.raises(UserError, match=words):
        training.check_loss(loss, 0.3, 7, [0.5, 0.01], 1.0, low_precision)
    training.check_loss(1.9, 0.3, 7, [0.5], 1.0, low_precision)  # a batch of early timesteps


def test_a_training_that_diverges_stops(base, sp_set, tmp_path):
    with pytest.raises(UserError, match="learning rate 1 "):
        ft.finetune(base, sp_set, settings("end_to_end", learning_rate=1.0, max_train_steps=60), tmp_path, NAME)


# --- precision and processes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, methods, steps",
    [
        ("bfloat16", ("lora", "hypernetwork", "textual_inversion"), 2),
        ("bfloat16", ("end_to_end",), 2),
        ("float16", ("lora", "textual_inversion"), 1),  # with gradient scaling; slow on a CPU
    ],
)
def test_half_precision_trains_full_precision_copies(dtype, methods, steps, tiny_checkpoint, sp_set, tmp_path):
    model = DiffusionModel.load(str(tiny_checkpoint), Runtime(device="cpu", dtype=dtype, batch_size=4))
    samples = steps if dtype == "bfloat16" else 0
    ft.finetune(model, sp_set, settings(*methods, max_train_steps=steps), tmp_path, NAME, sample_steps=samples)
    assert {t.dtype for t in saved(tmp_path).values()} == {torch.float32}
    tuned = ft.load_finetuned(model, tmp_path)
    assert {p.dtype for p in tuned.unet.parameters()} == {getattr(torch, dtype)}
    assert torch.isfinite(tuned.encode_prompts([ft.map_caption(f"a photo of {NAME}", NAME, settings(*methods))])).all()


TWO = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.test_trainer import FAST, NAME, Listener, settings
from s2l import finetune as ft
from s2l import training
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Cancelled
from s2l.data.sp_set import generate_images, processes

checkpoint, out = sys.argv[1], Path(sys.argv[2])
model = DiffusionModel.load(checkpoint, Runtime(device="cpu", dtype="float32", batch_size=2))
sp_set = generate_images(model, [f"a photo of {NAME}"] * 5, range(5), FAST, out / "sp")
config = settings("lora", "dreambooth", max_train_steps=4, gradient_accumulation_steps=2, learning_rate=1e-4)
try:
    ft.finetune(model, sp_set, config, out / "tuned", NAME, Listener(2))
except Cancelled:
    rank, world = processes(model).process_index, processes(model).num_processes
    (out / f"stopped-{rank}-of-{world}").touch()  # a file each: two processes printing at once mix their words
ft.finetune(model, sp_set, config, out / "tuned", NAME)
ft.finetune(model, sp_set, settings("textual_inversion"), out / "text", NAME)
"""


def test_two_processes_agree_with_one(base, tiny_checkpoint, tmp_path):
    """`accelerate launch` with two processes: half the work each, the same pictures and weights.

    --multi_gpu makes it start two processes by torchrun, also where there is no GPU; with --cpu it
    would start one and ignore --num_processes.
    """
    script, two, one = tmp_path / "two.py", tmp_path / "two", tmp_path / "one"
    script.write_text(TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    done = subprocess.run(
        [*command, str(script), str(tiny_checkpoint), str(two)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in two.glob("stopped-*")) == ["stopped-0-of-2", "stopped-1-of-2"]

    alone = generate_images(base, [f"a photo of {NAME}"] * 5, range(5), FAST, one / "sp")
    shared = load_images(two / "sp")
    assert (alone.images.int() - shared.images.int()).abs().max() <= 2 and alone.captions == shared.captions
    config = settings("lora", "dreambooth", max_train_steps=4, gradient_accumulation_steps=2, learning_rate=1e-4)
    ft.finetune(base, shared, config, one / "tuned", NAME)
    ft.finetune(base, shared, settings("textual_inversion"), one / "text", NAME)
    for name in ("tuned", "text"):
        a, b = saved(one / name), saved(two / name)
        assert max((a[k] - b[k]).abs().max() for k in a) < 1e-5
        assert not (two / name / training.CHECKPOINT).exists() and (two / name / "config.json").exists()
    assert len(log_of(two / "tuned")) == 4


def test_a_batch_that_two_processes_cannot_share_is_an_error(base, sp_set, tmp_path, monkeypatch):
    team = SimpleNamespace(num_processes=2)
    monkeypatch.setattr(trainer, "processes", lambda model: team)
    with pytest.raises(UserError, match="cannot be shared by 2 processes"):
        ft.finetune(base, sp_set, settings("lora", train_batch_size=3), tmp_path, NAME)
