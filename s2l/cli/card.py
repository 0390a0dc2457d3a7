"""The command `card`: is this card as fast as it should be, and what would a study cost on it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB
from s2l.errors import UserError


@base.app.command(epilog=base.example("card", "card --budget 400 --out results/card.json"))
def card(
    out: Annotated[Path, typer.Option(help="JSON file to write, row by row.")] = Path("card.json"),
    budget: Annotated[float, typer.Option(help="Seconds for the stages together, without the run on the lab.")] = 150.0,
    study: Annotated[
        bool, typer.Option("--study", help="Measure nothing: calculate what a study costs on an assumed card.")
    ] = False,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
) -> None:
    """Tell whether this card is as fast as it should be, then measure what an audit's stages cost on it.

    Uses a model of Stable Diffusion 1.x's size with random weights (2 GB in the cache; nothing is downloaded), then one
    run of the preset demo on the lab. The first sentence comes within a minute. The same command continues an
    interrupted measurement.
    """
    base.check_runtime(device, dtype, None)
    if not 1 <= budget <= 1e6:
        raise UserError(f"--budget: should be a number of seconds from 1 to 1,000,000 (given: {budget:g})")
    base.check_file(out, suffix=".json")
    from s2l.bench import table
    from s2l.bench.card import measure_card
    from s2l.bench.random_sd import random_sd
    from s2l.bench.study import calculated
    from s2l.store import Store, write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    if study:
        record = calculated()
        write_json(out, record)
        print(f"{record['study']['card_hours']:,.0f} card-hours, calculated; written: {out}")
        return
    runtime = base.make_runtime(device, dtype, None)
    if runtime.torch_device().type == "cpu":
        console.say("No GPU is used: on a CPU, a model of this size takes many minutes for each row.")
    base.quiet_libraries()
    with console.progress() as progress:
        sd = random_sd(Store().root / "random-sd", device=str(runtime.torch_device()))
        record = measure_card(out, str(sd), LAB, runtime, budget, progress=progress)
    print(table.machine(record["sd"]), end="\n\n")
    print(console.columns(table.rows(record["sd"])), end="\n\n")
    print(f"demo on the lab: {record['demo']['seconds']:.0f} s")
    print(f"a study of 40 people and 9 methods: {record['study']['card_hours']:,.0f} card-hours at these rates")
    print(f"written: {out}")
