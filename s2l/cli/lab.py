"""The commands for labs, and those that reproduce the committed results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import console
from s2l.cli.base import (
    ClusterName,
    Cores,
    Device,
    DType,
    Lab,
    Preset,
    app,
    check_file,
    check_folder,
    check_runtime,
    cluster_runtime,
    example,
    joined,
    make_runtime,
    need_lab,
    quiet_libraries,
)
from s2l.config import LAB, RunConfig
from s2l.errors import UserError
from s2l.labs import find_lab, shipped_lab, shipped_labs

lab = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build, describe or measure a lab's model.")
app.add_typer(lab, name="lab")


@lab.command(epilog=example("lab build --recipe quick --out quick-lab", "lab build --recipe buried --out my-lab"))
def build(
    recipe: Annotated[str, typer.Option(help="Name of the recipe; `lab recipes` lists them.")] = "fresh",
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint; default: cache/lab-RECIPE.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for what is needed to resume; default: cache/lab-RECIPE-work.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps in the recipe's last phase.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training.")] = None,
    keep: Annotated[str, typer.Option(help="Also save the model after these steps, such as 500,1000.")] = "",
    device: Device = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Precision: auto (mixed where the device computes bfloat16), mixed or float32.")
    ] = "auto",
    seeds: Annotated[
        str, typer.Option(help="Build a lab for each of these seeds, such as 1,2,3, in the folders OUT-seed-1, ...")
    ] = "",
    epsilon: Annotated[float | None, typer.Option(help="Epsilon of a recipe's private phase.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta of a recipe's private phase.")] = None,
    cluster: ClusterName = None,
    cores: Cores = None,
) -> None:
    """Draw the people and pre-train a lab's model.

    If the command is stopped or killed, run it again to resume.
    """
    if steps is not None and steps < 1:
        raise UserError(f"--steps: should be at least 1 (given: {steps})")
    if seed is not None and seed < 0:
        raise UserError(f"--seed: should be at least 0 (given: {seed})")
    if not all(part.strip().isdigit() for part in keep.split(",") if part):
        raise UserError(f"--keep: should be numbers of steps, separated by commas, such as 500,1000 (given: {keep!r})")
    several = _seeds(seeds, seed, keep, cluster)
    check_runtime(device, dtype, None)
    from s2l.pretrain import build as pretraining
    from s2l.pretrain.recipe import find_recipe
    from s2l.store import cache_root

    settings, precision = find_recipe(recipe), pretraining.training_dtype(device, dtype)
    if steps is not None:
        settings = replace(settings, phases=(*settings.phases[:-1], replace(settings.phases[-1], steps=steps)))
    if seed is not None:
        settings = replace(settings, seed=seed)
    if epsilon is not None or delta is not None:
        settings = settings.with_budget(epsilon, delta)
    out = out or cache_root() / f"lab-{recipe}"
    shipped = [each.folder.resolve() for each in shipped_labs()]
    if any(folder == out.resolve() or folder in out.resolve().parents for folder in shipped):
        raise UserError(f"--out: {out} is a lab that ships with the program: give another folder")
    work = check_folder(work or cache_root() / f"lab-{recipe}-work")
    check_folder(out)
    quiet_libraries()
    if several:
        from s2l.cli.seeds import build_seeds

        with joined(cluster, cores, device) as pool, console.progress() as progress:
            for folder in build_seeds(settings, several, out, (device, dtype), pool, progress):
                print(f"the lab is in {folder}; to use it: --model {folder}, or S2L_LAB={folder}", flush=True)
        return
    runtime = make_runtime(device, precision, None)
    with console.progress() as progress:
        wanted = [int(part) for part in keep.split(",") if part]
        pretraining.build(out, work, settings, runtime, progress, wanted)
    print(f"the lab is in {out}; to use it: --model {out}, or S2L_LAB={out}")


def _seeds(text: str, seed: int | None, keep: str, cluster: str | None) -> list[int]:
    """ "1,2,3" -> [1, 2, 3]. Raises UserError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds: should be numbers of at least 0 with commas between them (given: {text!r})")
    if parts and (seed is not None or keep):
        raise UserError("--seeds goes without --seed and --keep")
    if cluster is not None and not parts:
        raise UserError("--cluster builds several labs: name their seeds with --seeds, such as 1,2,3")
    return list(dict.fromkeys(map(int, parts)))


@lab.command(epilog=example("lab recipes"))
def recipes() -> None:
    """List the recipes for building labs, one per line."""
    from s2l.pretrain.recipe import RECIPES

    rows = [
        (name, f"{each.steps:,} steps in {len(each.phases)} phases", each.purpose) for name, each in RECIPES.items()
    ]
    print(console.columns(rows))


@lab.command(epilog=example("lab measure --out results/lab.json", "lab measure --model lab:fresh --out fresh.json"))
def measure(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("results/lab.json"),
    n_generations: Annotated[
        int, typer.Option("-n", "--n-generations", help="Generations per calibration person.")
    ] = 0,
    model: Lab = LAB,
) -> None:
    """Measure a lab's model: AUC of the attacks, blind control, error of the VAE, extraction."""
    if n_generations < 0:
        raise UserError(f"--n-generations: should be greater than or equal to 0 (given: '{n_generations}')")
    need_lab(model)
    from s2l.tables.lab_card import write_measurement

    quiet_libraries()

    check_file(out)
    with console.progress() as progress:
        write_measurement(out, model, n_generations, progress)
    print(f"written: {out}")


@lab.command(epilog=example("lab info", "lab info lab:fresh"))
def info(
    name: Annotated[str, typer.Argument(help="Name of a shipped lab (see `labs`), or the folder of a lab.")] = LAB,
) -> None:
    """Show the main facts about a lab's model, from its lab.json."""
    about = find_lab(name) or shipped_lab(name)
    roles = [person.role for person in about.people]
    weights = sum(path.stat().st_size for path in about.folder.rglob("*.safetensors"))
    most = max(n for person in about.people for n in person.repeats)
    photos = f"repeated up to {most} times" if about.trained else "a reference set: the model was trained on none"
    rows = [
        ("name", about.name),
        ("what it is for", about.purpose),
        ("folder", str(about.folder)),
        ("weights", f"{weights / 1e6:.1f} MB, float16"),
        ("resolution", f"{about.resolution} pixels"),
        ("people", ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))),
        ("photos", f"{about.n_members} per person, {photos}"),
        *_training_rows(about.record),
    ]
    print(console.columns(rows))


def _training_rows(record: dict) -> list[tuple[str, str]]:
    """What a record says about the training: the parts of the recipe that it has, and its counters."""
    recipe, counters, rows = record.get("recipe", {}), record.get("counters", {}), []
    if "name" in recipe:
        rows.append(("recipe", recipe["name"]))
    if "n_public" in recipe:
        rows.append(("public crowd", f"{recipe['n_public']:,} photos of {recipe['n_public_identities']} people"))
    for phase in recipe.get("phases", ()):
        mixture = " and ".join(f"{100 * share:g} % {source}" for source, share in phase["mixture"].items() if share)
        rows.append((f"phase {phase['name']!r}", f"{phase['steps']:,} steps of {phase['batch_size']}, {mixture}"))
    if (privacy := record.get("privacy")) is not None:
        spent = "nothing promised" if privacy["epsilon"] is None else f"epsilon {privacy['epsilon']:.2f}"
        rows.append(("privacy", f"{spent}, delta {privacy['delta']:g}, for each {privacy['unit']}"))
    if "step" in counters:
        rows.append(("UNet steps", f"{counters['step']:,}"))
    if counters.get("vae_reconstruction_l2") is not None:
        rows.append(("VAE reconstruction l2", f"{counters['vae_reconstruction_l2']:.4f}"))
    if counters.get("seconds"):
        rows.append(("UNet training", f"{counters['seconds'] / 60:.0f} minutes"))
    if "seed" in recipe:
        rows.append(("seed", str(recipe["seed"])))
    if "machine" in record:
        rows.append(("made with", f"torch {record['machine']['torch']}"))
    return rows


@app.command(epilog=example("table first", "table rank --people 2", "table main --cluster ray --device cuda"))
def table(
    name: Annotated[str, typer.Argument(help="Name of the table.")],
    people: Annotated[int | None, typer.Option(help="Number of people; default: the table's own.")] = None,
    only: Annotated[str, typer.Option(help="Run only the rows whose label contains this text.")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the committed results.")] = Path("results"),
    device: Device = "auto",
    dtype: DType = "mixed",
    cluster: ClusterName = None,
    cores: Cores = None,
) -> None:
    """Run the missing cells of a results table.

    A cell is one run: one row of the table for one person. For the committed tables, sampling and training were in
    bfloat16 (mixed).
    """
    check_runtime(device, dtype, None)
    from s2l.tables.declared import get_table
    from s2l.tables.grid import run_table

    get_table(name)
    check_folder(results)
    quiet_libraries()
    with joined(cluster, cores, device) as pool, console.progress() as progress:
        runtime = cluster_runtime(pool, device, dtype)
        run_table(name, results, people, runtime=runtime, progress=progress, only=only, pool=pool)
    print(f"written: {results / name}.json")


@app.command(epilog=example("search search", 'search search --only "guidance 1" --people 2 --results elsewhere'))
def search(
    name: Annotated[str, typer.Argument(help="Name of the search.")],
    only: Annotated[str, typer.Option(help="Run only the trials whose label contains this text.")] = "",
    people: Annotated[int | None, typer.Option(help="Number of calibration people; default: the trial's own.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the committed results.")] = Path("results"),
    device: Device = "auto",
    dtype: DType = "mixed",
) -> None:
    """Run the missing trials of a search for settings, on calibration people."""
    check_runtime(device, dtype, None)
    from s2l.tables.search import get_search, run_search

    get_search(name)
    check_folder(results)
    quiet_libraries()
    with console.progress() as progress:
        run_search(name, results, only, people, runtime=make_runtime(device, dtype, None), progress=progress)
    print(f"written: {results / name}.json")


@app.command(epilog=example("blind", "blind --only JPEG --out my-blind.json"))
def blind(
    out: Annotated[Path, typer.Option(help="JSON file to write; what it has is kept.")] = Path("results/blind.json"),
    only: Annotated[str, typer.Option(help="Measure only the differences whose label contains this text.")] = "",
    device: Device = "cpu",
    dtype: DType = "float32",
) -> None:
    """Measure which differences between two folders the blind controls see, and what the attacks claim of them.

    The photos are held-out photos of the lab's people, so no model saw any of them.
    """
    check_runtime(device, dtype, None)
    check_file(out, suffix=".json")
    from s2l.tables.blind import run_blind
    from s2l.tables.view import write

    quiet_libraries()
    out.parent.mkdir(parents=True, exist_ok=True)
    with console.progress() as progress:
        table = run_blind(out, only, runtime=make_runtime(device, dtype, None), progress=progress)
    write(out.stem, table, out.parent)
    print(f"written: {out}")


@app.command(epilog=example("cell results/main/lora/nell-ambrith.json"))
def cell(
    path: Annotated[Path, typer.Argument(help="File of a cell of a results table.")],
    device: Device = "auto",
) -> None:
    """Rerun one committed cell of a table and compare the numbers.

    Stages that this machine has computed before come from the cache. To compute all of them again, set S2L_CACHE to an
    empty folder.
    """
    check_runtime(device, "auto", None)
    from s2l.tables.cells import numbers_of, read_cell, run_again

    committed = read_cell(path)
    before = numbers_of(committed)
    quiet_libraries()
    with console.progress() as progress:
        now = numbers_of(run_again(committed, device=device, progress=progress))
    print(f"{committed['row']}, {committed['person']}")
    rows = [(what, f"{before[what]:.4g}", f"{now[what]:.4g}", f"{now[what] - before[what]:+.2g}") for what in before]
    print(console.columns([("", "committed", "now", "change"), *rows]))


@app.command(epilog=example("showcase", "showcase --config runs/mira/result.json --out my-showcase"))
def showcase(
    config: Annotated[
        Path | None, typer.Option(help="A result.json; default: that of the shipped example run.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("s2l/assets/showcase"),
    device: Device = "auto",
    dtype: DType = "float32",
) -> None:
    """Make an example run for the app, with the settings of a result.

    The app shows the folder that S2L_SHOWCASE names, or the shipped one.
    """
    check_runtime(device, dtype, None)
    from s2l.assets import ASSETS
    from s2l.options import read_config
    from s2l.pipeline import experiment
    from s2l.report.showcase import export_showcase

    settings = read_config(config or ASSETS / "showcase" / "result.json")
    if not isinstance(settings, RunConfig):
        raise UserError("--config: a showcase needs the result of a run, not of an audit")
    quiet_libraries()
    with console.progress() as progress:
        size = export_showcase(
            experiment.run(settings, runtime=make_runtime(device, dtype, None), progress=progress), out
        )
    print(f"written: {out}, {size / 1e6:.1f} MB")


@app.command(epilog=example("frames", 'frames --people "Mira Solwyn,Taro Quillan" --dtype mixed'))
def frames(
    people: Annotated[str, typer.Option(help="Names of people, with commas between them.")] = "Mira Solwyn",
    model: Annotated[str, typer.Option(help="A lab: lab, lab:NAME or a folder.")] = "lab",
    preset_name: Preset = "demo",
    out: Annotated[Path, typer.Option(help="Folder to write: one folder per person.")] = Path("s2l/assets/frames"),
    device: Device = "auto",
    dtype: DType = "float32",
) -> None:
    """Make the pictures and numbers of the app's first screen: one shake of each person, seen at seven weights w.

    Every w is a run like any other and is kept in the cache, so a stopped command continues where it was.
    """
    check_runtime(device, dtype, None)
    from s2l.config import preset
    from s2l.pipeline import experiment
    from s2l.report import frames as screen
    from s2l.tables.cells import slug

    quiet_libraries()
    runtime = make_runtime(device, dtype, None)
    for name in (part.strip() for part in people.split(",")):
        config = preset(preset_name, name, model=model, audit={"attacks": ["loss", "secmi", "sima"]})
        with console.progress() as progress:
            results = {
                w: experiment.run(one, runtime=runtime, progress=progress) for w, one in screen.configs(config).items()
            }
        folder = out / slug(results[screen.SHAKEN].record["domain"]["name"])
        print(f"written: {folder}, {screen.export_frames(results, folder) / 1e3:.0f} kB")


@app.command(epilog=example("docs"))
def docs() -> None:
    """Update the numbers in README and docs from the results."""
    from s2l.tables.docs import update

    print("changed: " + (", ".join(update()) or "nothing"))
