"""The lab's own commands, and the ones that remake the committed results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import console
from s2l.cli.base import (
    Device,
    DType,
    Lab,
    app,
    check_folder,
    check_runtime,
    example,
    make_runtime,
    need_lab,
    quiet_libraries,
)
from s2l.config import LAB
from s2l.errors import UserError
from s2l.labs import find_lab, shipped_lab

lab = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="A lab's model: build, describe, measure it.")
app.add_typer(lab, name="lab")


@lab.command(epilog=example("lab build --quick --out quick-lab", "lab build"))
def build(
    quick: Annotated[bool, typer.Option("--quick", help="A tiny lab of four people in about two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: cache/lab, or cache/lab-quick.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder that keeps everything needed to resume.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the UNet.")] = None,
    private_share: Annotated[float | None, typer.Option(help="Share of private photos in each batch, 0 to 1.")] = None,
) -> None:
    """Draw the people and pre-train the lab's model. Resumable: the same command goes on."""
    if steps is not None and steps < 1:
        raise UserError(f"--steps: should be at least 1 (given: {steps})")
    if private_share is not None and not 0 <= private_share <= 1:
        raise UserError(f"--private-share: should be between 0 and 1 (given: {private_share:g})")
    from s2l.pretrain import build as train
    from s2l.store import cache_root

    recipe = train.RECIPES["quick" if quick else "full"]
    changes = {"unet_legs": steps and (steps,), "private_share": private_share}
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    name = "lab-quick" if quick else "lab"
    out = out or cache_root() / name  # never the folder of the lab that is in use
    work = check_folder(work or cache_root() / f"{name}-work")
    check_folder(out)
    try:
        train.build(out, work, recipe)
    except ValueError as error:
        if "--work" not in str(error):
            raise
        raise UserError(str(error)) from None
    print(f"the lab is in {out}; to use it: S2L_LAB={out}")


@lab.command(epilog=example("lab measure --out results/lab.json", "lab measure --model lab:fresh --out fresh.json"))
def measure(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("results/lab.json"),
    n_generations: Annotated[
        int, typer.Option("-n", "--n-generations", help="Generations per calibration person.")
    ] = 0,
    model: Lab = LAB,
) -> None:
    """Measure a lab's weights: baseline AUC, blind control, VAE floor, extraction."""
    if n_generations < 0:
        raise UserError(f"--n-generations: should be greater than or equal to 0 (given: '{n_generations}')")
    need_lab(model)
    from s2l.tables.lab_card import write_measurement

    quiet_libraries()

    check_folder(out.parent)
    with console.progress() as progress:
        write_measurement(out, model, n_generations, progress)
    print(f"written: {out}")


@lab.command(epilog=example("lab info", "lab info lab:fresh"))
def info(
    name: Annotated[str, typer.Argument(help="Name of a shipped lab (see `labs`), or the folder of a lab.")] = LAB,
) -> None:
    """The main facts of a lab's model, from its lab.json."""
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
    """What a record says of the training: the parts of the recipe that it has, and what was counted."""
    recipe, counters, rows = record.get("recipe", {}), record.get("counters", {}), []
    if "name" in recipe:
        rows.append(("recipe", recipe["name"]))
    if "n_public" in recipe:
        rows.append(("public crowd", f"{recipe['n_public']:,} photos of {recipe['n_public_identities']} people"))
    if "private_share" in recipe:
        share = f"{100 * recipe['private_share']:g} % of each batch of {recipe['batch_size']}"
        if recipe["late_from"] < recipe["unet_legs"][-1]:
            share += f", from step {recipe['late_from']:,} on {100 * recipe['late_private_share']:g} %"
        rows.append(("private share", share))
    if "unet_legs" in recipe:
        legs = recipe["unet_legs"]
        ends = f", in {len(legs)} legs that end at {', '.join(f'{end:,}' for end in legs)}" if len(legs) > 1 else ""
        rows.append(("UNet steps", f"{counters.get('step', 0):,} of {legs[-1]:,}{ends}"))
    elif "step" in counters:
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


@app.command(epilog=example("table first", "table rank --people 2"))
def table(
    name: Annotated[str, typer.Argument(help="Name of the table.")],
    people: Annotated[int | None, typer.Option(help="Number of people; default: the table's own.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the committed results.")] = Path("results"),
    device: Device = "auto",
    dtype: DType = "mixed",
) -> None:
    """Run what is missing of a results table; the committed ones sample and train in bfloat16 (mixed)."""
    check_runtime(device, dtype, None)
    from s2l.tables.grid import get_table, run_table

    get_table(name)
    check_folder(results)
    quiet_libraries()
    with console.progress() as progress:
        run_table(name, results, people, runtime=make_runtime(device, dtype, None), progress=progress)
    print(f"written: {results / name}.json")


@app.command(epilog=example("cell results/cells/01341894b3a2f2173f99c48d.json"))
def cell(
    path: Annotated[Path, typer.Argument(help="A cell of a results table.")],
    device: Device = "auto",
) -> None:
    """Run one committed cell of a table again, and print its numbers beside the new ones.

    Stages that this machine has made before come from the cache: set S2L_CACHE to an empty folder to compute them all.
    """
    check_runtime(device, "auto", None)
    from s2l.store import read_json
    from s2l.tables.grid import make_again, numbers_of

    try:
        committed = read_json(path)
        before = numbers_of(committed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no cell of a table: give a file of results/cells") from None
    quiet_libraries()
    with console.progress() as progress:
        now = numbers_of(make_again(committed, device=device, progress=progress))
    print(f"{committed['row']}, {committed['person']}")
    rows = [(what, f"{before[what]:.4g}", f"{now[what]:.4g}", f"{now[what] - before[what]:+.2g}") for what in before]
    print(console.columns([("", "committed", "now", "change"), *rows]))


@app.command(epilog=example("docs"))
def docs() -> None:
    """Rewrite the figures in README and docs from the results."""
    from s2l.tables.docs import update

    print("changed: " + (", ".join(update()) or "nothing"))
