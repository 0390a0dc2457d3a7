"""The commands `warm`, which fills the cache before a lesson, and `matrix`, which makes the runs that ship with us."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB, RunConfig
from s2l.errors import UserError

if TYPE_CHECKING:
    from s2l.model.diffusion import Runtime
    from s2l.progress import Progress
    from s2l.store import Store

# Of the runs that ship with the program: four calibration and four reporting people, every method alone.
PEOPLE = "Mira Solwyn, Nell Ambrith, Taro Quillan, Omar Tilswick, Oona Brask, Petra Lunde, Felix Marrow, Jory Habberly"
METHODS = "lora, end_to_end, dreambooth, textual_inversion, hypernetwork"


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


@base.app.command(epilog=base.example("warm --preset demo --people 4", "warm --people all --cluster ray"))
def warm(
    people: Annotated[str, typer.Option(help="How many people, 'all', or names separated by commas.")] = "4",
    preset_name: base.Preset = "demo",
    method: base.Method = "lora",
    model: base.Lab = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    cluster: base.ClusterName = None,
    cores: base.Cores = None,
) -> None:
    """Fill the app's cache before a lesson.

    Does the runs that the app does when a visitor picks a person and changes no settings. The app then shows these
    results at once. Finished runs, and those that ship with the program, are skipped: the command can be repeated.
    """
    base.check_runtime(device, dtype, batch_size)
    names = chosen_people(people, model)
    from s2l.config import preset
    from s2l.finetune import parse
    from s2l.jobs import cached_result, shipped_result
    from s2l.store import Store
    from s2l.tables.cluster import Task

    configs = [preset(preset_name, name, model=model, finetune={"methods": parse(method)}) for name in names]
    store = Store()
    base.quiet_libraries()
    with base.joined(cluster, cores, device) as pool, console.progress() as progress:
        runtime = base.cluster_runtime(pool, device, dtype, batch_size)
        missing = [each for each in configs if not (cached_result(each, store) or shipped_result(each))]
        for config in (each for each in configs if each not in missing):
            print(f"ready: {config.domain.name}", flush=True)
        if pool is None:
            filled = (_fill(config, runtime, store, progress) for config in missing)
        else:
            tasks = [Task(config.domain.name, _fill, (config, runtime), bring=True) for config in missing]
            filled = (name for _, name in pool.map(tasks, progress))
        for name in filled:
            print(f"ready: {name}", flush=True)
    print(f"{len(configs)} runs ship with the program or are in the cache {store.root}")


def _fill(config: RunConfig, runtime: Runtime, store: Store, progress: Progress) -> str:
    from s2l.pipeline import experiment

    return experiment.run(config, store, runtime, progress).record["domain"]["name"]


@base.app.command(epilog=base.example("matrix --people 4 --methods lora,end_to_end"))
def matrix(
    people: Annotated[str, typer.Option(help="How many people, 'all', or names separated by commas.")] = PEOPLE,
    methods: Annotated[str, typer.Option(help="Methods or combinations (lora+dreambooth), separated by commas.")] = (
        METHODS
    ),
    preset_name: base.Preset = "demo",
    model: base.Lab = LAB,
    out: Annotated[Path, typer.Option(help="Folder to write: one file per person, and the index.")] = Path(
        "s2l/assets/matrix"
    ),
    device: base.Device = "auto",
) -> None:
    """Make the finished runs that ship with the program, so that the page answers a choice at once.

    Each run is in float32 and is kept in the cache, so a stopped command continues where it was.
    """
    base.check_runtime(device, "float32", None)
    names = chosen_people(people, model)
    from s2l.config import preset
    from s2l.finetune import parse
    from s2l.pipeline import experiment
    from s2l.report import shipped
    from s2l.tables.cells import slug

    combinations = [parse(text.strip()) for text in methods.split(",")]
    runtime = base.make_runtime(device, "float32", None)
    base.quiet_libraries()
    for name in names:
        with console.progress() as progress:
            results = [
                experiment.run(
                    preset(preset_name, name, model=model, finetune={"methods": m}), runtime=runtime, progress=progress
                )
                for m in combinations
            ]
        size = shipped.export(results, out, slug(name))
        print(f"written: {name}, {len(results)} runs, {size / 1e6:.1f} MB", flush=True)
