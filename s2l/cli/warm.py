"""The command `warm`: fill the cache before a lesson, so that the class gets its runs at once."""

from __future__ import annotations

from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB
from s2l.errors import UserError


def chosen_people(text: str, model: str) -> list[str]:
    """ "4", "all" or "Mira Solwyn, Taro Quillan" -> names as the lab spells them. Raises UserError."""
    lab = base.need_lab(model)
    everybody = lab.names()
    if text.strip() == "all":
        return everybody
    if text.strip().isdecimal():
        if not 1 <= int(text) <= len(everybody):
            raise UserError(f"--people: {text} is not between 1 and {len(everybody)}")
        return everybody[: int(text)]
    names = [part for part in (p.strip() for p in text.split(",")) if part]
    if not names:
        raise UserError("--people: give a number, 'all', or names separated by commas")
    return list(dict.fromkeys(lab.person(name).name for name in names))


@base.app.command(epilog=base.example("warm --preset demo --people 4", "warm --people 'Mira Solwyn' --method lora"))
def warm(
    people: Annotated[str, typer.Option(help="How many people, 'all', or names separated by commas.")] = "4",
    preset_name: base.Preset = "demo",
    method: base.Method = "lora",
    model: base.Lab = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
) -> None:
    """Fill the app's cache before a lesson.

    Does the runs that the app does when a visitor picks a person and changes no settings. The app then shows these
    results at once. Finished runs are skipped, so the command can be repeated.
    """
    base.check_runtime(device, dtype, batch_size)
    names = chosen_people(people, model)
    from s2l.config import preset
    from s2l.finetune import parse
    from s2l.jobs import cached_result
    from s2l.pipeline import experiment
    from s2l.store import Store

    configs = [preset(preset_name, name, model=model, finetune={"methods": parse(method)}) for name in names]
    runtime, store = base.make_runtime(device, dtype, batch_size), Store()
    base.quiet_libraries()
    with console.progress() as progress:
        for config in configs:
            if not cached_result(config, store):
                experiment.run(config, store, runtime, progress)
            print(f"ready: {config.domain.name}", flush=True)
    print(f"{len(configs)} runs are in the cache {store.root}")
