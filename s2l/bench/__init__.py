"""Measure this machine: what each stage costs, and how much faster it is than straightforward code.

`python -m s2l bench` writes results/bench.json, which docs/performance.md shows. Every ratio comes from alternating
rounds, A B A B, in one run, so that a busy machine slows down both.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from s2l import attacks, finetune
from s2l.attacks.secmi import SecMISettings
from s2l.bench import baselines
from s2l.bench.measure import Alternation, alternate, count_flops, matmul_peak, peak_memory, seconds
from s2l.config import LAB, AuditConfig, FineTuneConfig, SamplerConfig
from s2l.data.domain import ImageSet
from s2l.finetune.trainer import train
from s2l.measure.distances import pairwise_l2
from s2l.measure.pairs import all_pairs
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.progress import Event, Progress, silent

SCHEMA_VERSION = 1
PROMPT = "a photo of Mira Solwyn"
# What the documentation promises, by device type: how many times faster than its baseline a stage is, and the share of
# the machine's matmul peak that it reaches.
TARGETS = {
    "cpu": {"sp_set": 6.0, "secmi": 8.0, "finetune": 2.0, "distances": 100.0},
    "cuda": {"sp_set": 4.0, "secmi": 8.0},
}
SHARES = {"cpu": {"unet": 0.5}, "cuda": {"unet": 0.5, "finetune": 0.35}}
SECMI_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Size:
    """How much work is measured; less of it for the baselines, which are slow."""

    images: int = 64
    baseline_images: int = 2
    train_steps: int = 30
    baseline_train_steps: int = 6
    pairs: int = 2000  # images on each side of the comparison: 2,000 x 2,000 distances
    baseline_pairs: int = 60
    rounds: int = 3
    peak_seconds: float = 3.0


FULL = Size()
QUICK = Size(2, 1, 2, 1, 100, 10, 1, 0.1)  # for tests; too small for the numbers to mean anything
STAGES = ("unet", "decode", "sp_set", "finetune", "secmi", "distances", "search")


def _pictures(model: DiffusionModel, n: int) -> ImageSet:
    """n pictures of noise: the speed of a stage does not depend on what a picture shows."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, 3, model.resolution, model.resolution)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images, (PROMPT,) * n, tuple(map(str, range(n))))


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    unit      what is counted: `units` of them in one call of `ours`, `baseline_units` in one call of `baseline`
    flops     floating-point operations of one unit
    dtype     the precision whose matmul peak they are compared with
    """

    name: str
    title: str
    unit: str
    ours: Callable[[], object]
    units: float
    baseline: Callable[[], object] | None = None
    baseline_units: float = 0
    baseline_title: str = ""
    flops: float | None = None
    dtype: torch.dtype = torch.float32


class Bench:
    """The models and the work. The baselines use `plain`: on a CPU in float32, on a GPU in the precision of `model`."""

    def __init__(self, model: str, runtime: Runtime):
        self.model = DiffusionModel.load(model, runtime)
        gpu = self.model.device.type == "cuda"
        self.plain = self.model if gpu else DiffusionModel.load(model, Runtime(runtime.device, "float32"))
        self.sampler = SamplerConfig()
        self.forward_flops = self._forward_flops()
        batch = FineTuneConfig().train_batch_size
        self.step_flops = count_flops(self._train(2, batch)) - count_flops(self._train(1, batch))

    def _forward_flops(self) -> float:
        """Floating-point operations of one UNet evaluation of one image."""
        z, c = self.model.noise([0]), self.model.encode_prompts([PROMPT])
        return count_flops(lambda: self.model.eps(z, 500, c))

    def _train(self, steps: int, batch: int) -> Callable[[], object]:
        """LoRA training steps of the project's own loop on latents that are already encoded, as in a long training."""
        model, config = self.model, FineTuneConfig(max_train_steps=steps, train_batch_size=batch)
        pictures = _pictures(model, max(batch, 8))
        latents, n = model.encode_images(pictures.images), len(pictures)
        examples = finetune.Examples(latents, pictures.captions, torch.ones(n), torch.zeros(n, dtype=torch.long))

        def work() -> None:
            tuned = model.copy()
            groups = [{"params": finetune.weights_of("lora").prepare(tuned, config), "lr": 1e-4}]
            with tempfile.TemporaryDirectory() as folder:
                train(tuned, groups, examples, config, Path(folder), checkpoint_seconds=1e9)

        return work

    def stage(self, name: str, size: Size) -> Stage:
        """One row of STAGES, with that much work."""
        build: Callable[[Size], Stage] = getattr(self, f"_{name}")
        return build(size)

    def _unet(self, size: Size) -> Stage:
        model, n = self.model, size.images
        z, c = model.noise(range(n)), model.encode_prompts([PROMPT] * n)

        def evaluate() -> None:
            for group in model.batches(n):
                model.together(lambda some: model.eps(z[some], 500, c[some]), group)

        return Stage("unet", "UNet forward", "evaluation", evaluate, n, flops=self.forward_flops, dtype=model.dtype)

    def _decode(self, size: Size) -> Stage:
        z = self.model.noise(range(size.images))
        return Stage("decode", "autoencoder, decoding", "image", lambda: self.model.decode_latents(z), size.images)

    def _sp_set(self, size: Size) -> Stage:
        n, few, guidance = size.images, size.baseline_images, self.sampler.guidance_scale
        guided = 2 * self.sampler.num_inference_steps  # UNet evaluations per image
        return Stage(
            "sp_set", f"SP set, {self.sampler.num_inference_steps} steps of {self.sampler.scheduler}", "image",
            lambda: self.model.generate([PROMPT] * n, range(n), self.sampler), n,
            lambda: baselines.sample(self.plain, [PROMPT] * few, range(few), guidance), few,
            f"diffusers' pipeline image by image, {baselines.STEPS} steps",
            guided * self.forward_flops, self.model.fast_dtype,
        )  # fmt: skip

    def _finetune(self, size: Size) -> Stage:
        config, pictures = FineTuneConfig(), _pictures(self.plain, size.baseline_images)
        batch = config.train_batch_size
        return Stage(
            "finetune", f"fine-tuning, LoRA, {batch} images per step", "step",
            self._train(size.train_steps, batch), size.train_steps,
            lambda: baselines.train_steps(self.plain, pictures, config, size.baseline_train_steps),
            size.baseline_train_steps, "a plain float32 step that encodes images and captions",
            self.step_flops, self.model.fast_dtype,
        )  # fmt: skip

    def _secmi(self, size: Size) -> Stage:
        pictures, few = _pictures(self.model, size.images), _pictures(self.plain, size.baseline_images)
        settings = SecMISettings()

        def ours() -> torch.Tensor:
            return attacks.run_attack("secmi", self.model, attacks.make_query(self.model, pictures), AuditConfig())

        return Stage(
            "secmi", "SecMI", "image", ours, size.images,
            lambda: baselines.secmi(self.plain, few, settings), len(few),
            "image by image, 38 UNet evaluations and a decode",
            (settings.t // settings.k + 2) * self.forward_flops, self.model.dtype,
        )  # fmt: skip

    def _distances(self, size: Size) -> Stage:
        large, small = (_pictures(self.model, k).images.numpy() for k in (size.pairs, size.baseline_pairs))
        return Stage(
            "distances", "extraction distances", "pair", lambda: pairwise_l2(large, large), len(large) ** 2,
            lambda: baselines.distances(small, small), len(small) ** 2, "one pair after the other",
        )  # fmt: skip

    def _search(self, size: Size) -> Stage:
        """The whole search of an extraction, on the device: nearest on both sides, and all pairs within delta."""
        pictures, device = _pictures(self.model, size.pairs).images, self.model.device
        other = pictures.flip(-1)
        return Stage(
            "search", "extraction search, both sides", "pair",
            lambda: all_pairs(pictures, other, 0.1, device=device), len(pictures) ** 2, flops=2 * pictures[0].numel(),
        )  # fmt: skip


def _row(stage: Stage, bench: Bench, peaks: dict[str, float], rounds: int) -> dict:
    device = bench.model.device
    with peak_memory(device) as memory:
        if stage.baseline is None:
            stage.ours()
            times = [seconds(stage.ours, device) / stage.units for _ in range(rounds)]
            median, ratio = sorted(times)[len(times) // 2], None
        else:
            comparison: Alternation = alternate(
                stage.ours, stage.units, stage.baseline, stage.baseline_units, device, rounds
            )
            median, ratio = sorted(comparison.ours)[len(comparison.ours) // 2], asdict(comparison)
    rate = None if stage.flops is None else stage.flops / median
    return {
        "title": stage.title,
        "unit": stage.unit,
        "per_second": 1 / median,
        "flops": stage.flops,
        "dtype": str(stage.dtype).removeprefix("torch."),
        "share_of_peak": None if rate is None else rate / peaks[str(stage.dtype).removeprefix("torch.")],
        "peak_memory_bytes": memory["bytes"],
        "baseline": stage.baseline_title or None,
        "ratio": ratio,
    }


def fitting(bench: Bench, name: str, size: Size, budget_s: float) -> Size:
    """`size`, or as much less of it as a row takes in `budget_s` seconds, by one short try of its work.

    At least one unit of each is measured once, however long that takes.
    """
    few = Size(
        min(size.images, bench.model.runtime.batch_size or 1), 1, 2, 1, min(size.pairs, 200), 10, 1, size.peak_seconds
    )
    stage, device = bench.stage(name, few), bench.model.device
    stage.ours()  # the first call chooses kernels
    ours = seconds(stage.ours, device) / stage.units
    theirs = 0.0 if stage.baseline is None else seconds(stage.baseline, device) / stage.baseline_units
    whole = bench.stage(name, size)
    once = ours * whole.units + theirs * whole.baseline_units
    left = budget_s - ours * (2 * stage.units + whole.units) - theirs * stage.baseline_units
    if size.rounds * once <= left:
        return size
    share = max(left, 0.0) / (size.rounds * once)
    side = share**0.5  # of the pairs, whose number is a square
    return replace(
        size,
        images=max(few.images, int(share * size.images)),
        baseline_images=max(1, int(share * size.baseline_images)),
        train_steps=max(few.train_steps, int(share * size.train_steps)),
        baseline_train_steps=max(1, int(share * size.baseline_train_steps)),
        pairs=max(few.pairs, int(side * size.pairs)),
        baseline_pairs=max(few.baseline_pairs, int(side * size.baseline_pairs)),
        rounds=max(1, min(size.rounds, round(share * size.rounds * 2))),
    )


def secmi_difference(bench: Bench, n: int) -> float:
    """The largest relative difference between our SecMI scores and the baseline's, on the same n pictures."""
    pictures = _pictures(bench.plain, n)
    naive = baselines.secmi(bench.plain, pictures, SecMISettings()).cpu()
    ours = attacks.run_attack("secmi", bench.model, attacks.make_query(bench.model, pictures), AuditConfig())
    return float(((ours - naive) / naive).abs().max())


def machine_of(device: torch.device) -> dict:
    """What a measurement says about the machine."""
    return {
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def run_bench(
    model: str = LAB,
    runtime: Runtime = Runtime(),
    size: Size = FULL,
    progress: Progress = silent,
    only: Sequence[str] = STAGES,
    budget_s: float | None = None,
    begun: dict | None = None,
    save: Callable[[dict], object] = lambda record: None,
) -> dict:
    """The content of results/bench.json: each stage's rate, share of the matmul peak, peak memory and ratio.

    Args:
        only: names of the stages to measure, in this order
        budget_s: seconds for all of them together; the amount of work follows
        begun: the record of an interrupted measurement, whose rows are kept if it was the same one on this machine
        save: called with the record after each row
    """
    bench = Bench(model, runtime)
    device = bench.model.device
    record: dict = {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": model, "key": bench.model.key, "parameters": bench.model.num_parameters()},
        "runtime": asdict(bench.model.runtime) | {"device": str(device), "dtype": bench.model.precision},
        "machine": machine_of(device),
        "size": asdict(size),
    }
    if budget_s is not None:
        record["budget_s"] = budget_s
    if begun is not None and all(begun.get(part) == record[part] for part in record):
        record = begun
    else:
        dtypes = {bench.model.dtype, bench.model.fast_dtype, torch.float32}
        peak_s = size.peak_seconds if budget_s is None else min(size.peak_seconds, budget_s / 30)
        record["matmul_flops_per_s"] = {str(d).removeprefix("torch."): matmul_peak(device, d, peak_s) for d in dtypes}
        record |= {"unet_flops": bench.forward_flops, "stages": {}, "sizes": {}}
        save(record)
    wanted = [name for name in only if name not in record["stages"]]
    for i, name in enumerate(wanted):
        progress(Event("bench", i, len(wanted), {"stage": name}))
        used = size if budget_s is None else fitting(bench, name, size, budget_s / len(only))
        row = _row(bench.stage(name, used), bench, record["matmul_flops_per_s"], used.rounds)
        record["stages"][name] = row
        if used != size:
            record["sizes"][name] = asdict(used)
        save(record)
    record["stages"] = {name: record["stages"][name] for name in STAGES if name in record["stages"]}
    if "secmi" in only and "secmi_largest_relative_difference" not in record:
        n = 1 if budget_s is not None else max(2, size.baseline_images)
        record["secmi_largest_relative_difference"] = secmi_difference(bench, n)
    progress(Event("bench", len(wanted), len(wanted), {"cached": False}))
    if not record["sizes"]:
        del record["sizes"]
    record["targets"] = targets(device.type, record["stages"], record.get("secmi_largest_relative_difference"))
    return record


def targets(device: str, rows: dict, difference: float | None) -> list[dict]:
    """[{"what", "wanted", "measured", "kept"}]: each target, the measured value, and whether the target was met.

    Of the rows that were measured; `difference` is that of `secmi_difference`. Raises KeyError for a device type that
    has no targets.
    """
    entries = [
        {"what": f"{rows[name]['title']}: times faster", "wanted": wanted, "measured": rows[name]["ratio"]["ratio"]}
        for name, wanted in TARGETS[device].items()
        if name in rows
    ]
    entries += [
        {"what": f"{rows[name]['title']}: share of matmul peak", "wanted": wanted,
         "measured": rows[name]["share_of_peak"]}
        for name, wanted in SHARES[device].items()
        if name in rows
    ]  # fmt: skip
    verdicts = [row | {"kept": row["measured"] >= row["wanted"]} for row in entries]
    if difference is None:
        return verdicts
    what = {"what": "SecMI: largest relative difference", "wanted": SECMI_TOLERANCE, "measured": difference}
    return [*verdicts, what | {"kept": difference <= SECMI_TOLERANCE}]
