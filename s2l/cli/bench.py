"""The command `bench`: measure this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB
from s2l.errors import UserError, unknown


@base.app.command(
    epilog=base.example(
        "bench --out results/bench.json",
        "bench --dtype mixed --demo --quality 3 --growth",
        "bench --random-sd --device cuda --budget 120 --out bench-gpu.json",
        "bench --model CompVis/stable-diffusion-v1-1 --i-have-permission --device cuda",
    )
)
def bench(
    out: Annotated[Path, typer.Option(help="JSON file to write; a plot goes beside it.")] = Path("results/bench.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Measure very little, only to check that it runs.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Also time a whole run of the preset demo from an empty cache.")
    ] = False,
    quality: Annotated[
        int,
        typer.Option(
            help="Also compare the results of the fast settings with 50 sampler steps in float32, for this many people."
        ),
    ] = 0,
    growth: Annotated[bool, typer.Option("--growth", help="Also measure and plot how cost grows with size.")] = False,
    scale: Annotated[
        bool,
        typer.Option(
            "--scale",
            help="Measure only how scoring, extraction and the cache grow, drawn to 100,000 photos.",
        ),
    ] = False,
    only: Annotated[str, typer.Option(help="Measure only these stages, separated by commas.")] = "",
    budget: Annotated[
        float, typer.Option(help="Seconds for all stages together; less work is measured. 0: no limit.")
    ] = 0.0,
    random_sd: Annotated[
        bool,
        typer.Option(
            "--random-sd",
            help="Measure a model of SD 1.x's size with random weights (2 GB in the cache).",
        ),
    ] = False,
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Measure this machine: the speed of each stage, the share of the matmul peak, memory.

    Each stage is also compared with straightforward code for the same work, in alternating rounds (A B A B) of one
    process. Nothing else should run at the same time. Rows are kept as they are measured: the same command continues an
    interrupted measurement.
    """
    base.check_runtime(device, dtype, batch_size)
    if not (budget == 0 or 1 <= budget <= 1e6):
        raise UserError(f"--budget: should be a number of seconds from 1 to 1,000,000, or 0 (given: {budget:g})")
    if random_sd and (model != LAB or demo or quality or growth):
        raise UserError("--random-sd goes with no other model, and without --demo, --quality and --growth")
    if scale and (random_sd or demo or quality or growth or only or budget):
        raise UserError("--scale goes without --random-sd, --demo, --quality, --growth, --only and --budget")
    if quality < 0:
        raise UserError(f"--quality: should be 0 or a number of people (given: {quality})")
    if demo or quality:
        base.need_lab(model)  # they run its people
    base.check_permission(model, i_have_permission)
    base.check_file(out)
    base.quiet_libraries()
    from s2l.bench import FULL, QUICK, STAGES, run_bench, table, whole
    from s2l.bench import growth as growing
    from s2l.store import Store, read_json, write_json

    stages = [word for word in (part.strip() for part in only.split(",")) if word]
    for word in stages:
        if word not in STAGES:
            raise UserError(f"--only: {unknown('stage', word, STAGES)}")
    runtime, preset = base.make_runtime(device, dtype, batch_size), "quick" if quick else "demo"
    options = {f"--only {','.join(stages)}": bool(stages), f"--budget {budget:g}": budget > 0, "--random-sd": random_sd}
    options |= {"--quick": quick, "--demo": demo, f"--quality {quality}": quality > 0, "--growth": growth}
    command = ["python -m s2l bench", *([f"--dtype {dtype}"] if dtype != "auto" else [])]
    command += [option for option, wanted in options.items() if wanted]
    out.parent.mkdir(parents=True, exist_ok=True)
    if scale:
        _scale(out, model, device, dtype, 250 if quick else 1)
        return
    partial = out.with_suffix(".partial.json")  # the result of an earlier measurement stays until this one is whole

    def save(**part) -> None:
        """Save after each part: the long ones come last and may be interrupted."""
        record.update(part)
        write_json(out, record)

    with console.progress() as progress:
        if random_sd:
            from s2l.bench.random_sd import random_sd as make

            model = str(make(Store().root / "random-sd", device=str(runtime.torch_device())))
        begun = None
        with suppress(OSError, ValueError):
            begun = read_json(partial)
        record = run_bench(
            model, runtime, QUICK if quick else FULL, progress, stages or STAGES, budget or None, begun,
            lambda rows: write_json(partial, rows),
        )  # fmt: skip
        if random_sd:
            record["model"]["name"] = "Stable Diffusion 1.x, random weights"
        save(quick=quick, command=" ".join(command))
        partial.unlink(missing_ok=True)
        if demo:
            save(demo=whole.demo(model, runtime, preset, progress))
        if growth:
            sizes = (4, 8) if quick else growing.MEASURED
            save(growth=growing.growth(model, device, dtype, sizes, progress=progress))
            growing.figure(record["growth"], out.with_name("growth.png"))
        if quality:
            save(quality=whole.quality(model, quality, runtime, preset, progress=progress))
    print(table.machine(record), end="\n\n")
    print(console.columns(table.rows(record)), end="\n\n")
    if not quick:  # too little work to say anything about a target
        print(console.columns(table.target_rows(record)), end="\n\n")
    print(f"written: {out}")


def _scale(out: Path, model: str, device: str, dtype: str, shrink: int) -> None:
    """`bench --scale`: the file is written after each curve."""
    from s2l.bench import growth, machine_of
    from s2l.model.diffusion import DiffusionModel, Runtime
    from s2l.store import write_json

    loaded = DiffusionModel.load(model, Runtime(device, dtype))
    record = {
        "schema_version": 1,
        "command": f"python -m s2l bench --scale --out {out} --device {loaded.device.type} --dtype {loaded.precision}",
        "model": {"name": model, "key": loaded.key, "pixels": loaded.resolution},
        "runtime": {"device": str(loaded.device), "dtype": loaded.precision},
        "machine": machine_of(loaded.device),
    }
    with console.progress() as progress:
        curves = growth.scale(
            model, device, dtype, shrink, progress, lambda part: write_json(out, record | {"growth": part})
        )
    clock = "core_seconds" if loaded.device.type == "cpu" else "seconds"
    growth.figure(curves, out.with_suffix(".png"), 100_000, clock)
    print(console.columns(growth.scale_rows(record | {"growth": curves})))
    print(f"written: {out}")
