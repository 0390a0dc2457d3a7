"""The command `split-check`: what tells two folders apart without any model, and how much an audit depends on that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB, MAX_IMAGES, SCHEMA_VERSION
from s2l.errors import UserError
from s2l.options import help_of, run_config

if TYPE_CHECKING:
    from s2l.config import AuditConfig, DomainConfig
    from s2l.data.domain import Domain
    from s2l.measure.split import AtShare
    from s2l.model.diffusion import DiffusionModel
    from s2l.pipeline.folders import Checked, Parts

FINEST = 256  # pixels, at most, at which photos are looked at without a model
REMAINS = (
    "Re-encoding hides how the files were saved. It cannot hide another crop, light, occasion or camera, strong blur, "
    "or other captions, and the attacks see less in re-encoded photos than in those the model was trained on."
)


@base.app.command(
    epilog=base.example(
        "split-check --members in --nonmembers out",
        "split-check --members in --nonmembers out --fix same",
        "split-check --members in --nonmembers out --second other-camera",
        "split-check --members in --nonmembers out --second other-camera --model BASE --tuned FOLDER \\",
        "    --i-have-permission --out split.json",
    )
)
def split_check(
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            help="New folder for re-encoded copies of both folders: same size, same compression, no metadata."
        ),
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option(help="Photos of the same person from a second source, not used in training: a folder or a list."),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option("--domain", "--name", help="Person's name in the captions; default: the name of --members."),
    ] = None,
    n_nonmembers: base.NNonmembers = None,
    model: Annotated[str | None, typer.Option(help=help_of("model") + " Only with --tuned; default: lab.")] = None,
    tuned: base.Tuned = None,
    attacks: base.AttackNames = None,
    seed: base.NoiseSeed = None,
    preset_name: base.Preset = "demo",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Check whether a split into members and held-out photos is fair.

    Says how the files of the two folders were saved, and whether the blind controls, which know the photos but no
    model, tell the folders apart: by content and captions, and at the finest scale of pixels. With --fix both folders
    are saved again in one way and checked again. With --second the first control is repeated at five shares of held-out
    photos from the second source. With --tuned, every attack on the base model and on the fine-tuned one is measured at
    each share too.
    """
    base.check_runtime(device, dtype, batch_size)
    folders = _check_options(members, nonmembers, fix, second, model, tuned, attacks)
    base.section("audit", preset_name, None, {"seed": seed})
    settings = base.section("audit", preset_name, None, {"attacks": base.attack_names(attacks), "seed": seed})
    if tuned is None and n_nonmembers is None:
        n_nonmembers = MAX_IMAGES  # only attacks are slow
    options = {"members": str(folders[0]), "nonmembers": str(folders[1]), "n-nonmembers": n_nonmembers}
    target = run_config(preset_name, domain or folders[0].resolve().name, options).domain
    if out is not None:
        base.check_file(out, *folders, second)
    from s2l.data.reencode import check_output, smallest_side
    from s2l.pipeline.captions import as_read
    from s2l.pipeline.folders import compare_folders, folders_domain
    from s2l.store import write_json

    if fix is not None:
        check_output(base.check_folder(fix), folders)
    scored: dict[str, list[AtShare]] = {}
    if tuned is None:
        photos, parts = folders_domain(target, base.text_of(second), min(FINEST, smallest_side(folders) or FINEST))
    else:
        loaded = base.load_model(model or LAB, i_have_permission, device, dtype, batch_size, tuned)
        photos, parts = folders_domain(target, base.text_of(second), loaded.resolution)
        photos = as_read(photos, loaded)
        scored = _attacked(loaded, model or LAB, tuned, target, photos, parts, settings)
    found = compare_folders(photos, parts)
    record = _record(photos, parts, scored, found)
    _print(record, found, photos.notes)
    if fix is not None:
        record["fix"] = _fix(folders, photos, found, target, fix)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, record)
        print(f"\nwritten: {out}")


def _check_options(
    members: Path | None,
    nonmembers: Path | None,
    fix: Path | None,
    second: Path | None,
    model: str | None,
    tuned: Path | None,
    attacks: str | None,
) -> tuple[Path, Path]:
    """The two folders. Raises UserError for options that do not go together."""
    if members is None or nonmembers is None:
        raise UserError("give both folders, --members and --nonmembers")
    for option, given in (("--model", model), ("--attacks", attacks)):
        if given is not None and tuned is None:
            raise UserError(f"{option}: the attacks compare two models, so give the fine-tuned one with --tuned")
    if fix is not None and (second is not None or tuned is not None):
        raise UserError("--fix: leave out --second and --tuned, and give them when you check the new folders")
    return members, nonmembers


def _attacked(
    loaded: DiffusionModel,
    model: str,
    tuned: Path,
    target: DomainConfig,
    photos: Domain,
    parts: Parts,
    settings: AuditConfig,
) -> dict[str, list[AtShare]]:
    """Every attack at every share of the second source."""
    from s2l.pipeline.experiment import calibration_people
    from s2l.pipeline.folders import attacks_of
    from s2l.pipeline.split import part_scores
    from s2l.pipeline.stages import Stages
    from s2l.pipeline.subject import Subject
    from s2l.pipeline.tuned import caption_notes, read_tuned, say
    from s2l.store import Store

    fine_tuned = read_tuned(loaded, tuned, target.name)
    say(caption_notes(fine_tuned, photos))
    people = partial(calibration_people, target, model)
    with console.progress() as progress:
        stages = Stages(Store(), progress)
        scores = part_scores(Subject.of(loaded), fine_tuned.subject, photos, parts, settings, stages, people)
    return attacks_of(scores, parts, settings.confidence)


def _record(photos: Domain, parts: Parts, scored: dict[str, list[AtShare]], found: Checked) -> dict:
    """What --out writes."""
    from s2l.pipeline.folders import shares_of

    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "split-check",
        "n_members": len(photos.membership.members),
        "n_nonmembers": {part: where.stop - where.start for part, where in parts.items()},
        "shares": list(shares_of(parts)),
        "attacks": {name: [asdict(at) for at in rows] for name, rows in scored.items()},
        "notes": list(photos.notes),
        **found.record(),
    }


def _print(record: dict, found: Checked, notes: Sequence[str]) -> None:
    from s2l.data.domain import DIFFER

    for line in found.lines:
        print(line)
    print(f"\n{_table(record)}\n")
    fewest = min(record["n_nonmembers"].values())
    print(f"{record['n_members']} members against {fewest} held-out photos at every share")
    print(_fine(found))
    print(_verdict(found))
    for note in notes:
        if not note.startswith(DIFFER):  # said above, in the report
            console.say(f"Note: {note}")


def _fix(folders: tuple[Path, Path], photos: Domain, before: Checked, target: DomainConfig, out: Path) -> dict:
    """Save both folders again in one way, check them again and print both; returns what the record says of it."""
    from s2l.data.reencode import reencode
    from s2l.pipeline.folders import compare_folders, folders_domain, in_folder

    sides = (photos.membership.members, photos.membership.nonmembers)
    recipe = reencode(folders, [side.ids for side in sides], out)
    after = compare_folders(*folders_domain(in_folder(target, out), None, min(FINEST, recipe.side)))
    print(f"\nwritten: {out}/members and {out}/nonmembers, {recipe.words}")
    print(f"\n{_before_and_after(before, after)}\n\n{_fixed(after)}\n{REMAINS}")
    return {"folder": str(out), "recipe": asdict(recipe), **after.record()}


def _table(record: dict) -> str:
    """One line per share: the blind control, then each attack."""
    head = ["second source", "blind control"]
    for name in record["attacks"]:
        head += [f"{name}: AUC before", "after", "after - before"]
    rows = [tuple(head)]
    for i, (share, control) in enumerate(zip(record["shares"], record["blind"], strict=True)):
        cells = [f"{100 * share:g} %", f"{control['auc']:.3f} (p = {control['p_value']:.3f})"]
        for at in (points[i] for points in record["attacks"].values()):
            d = at["difference"]
            cells += [f"{at['auc_before']:.3f}", f"{at['auc_after']:.3f}"]
            cells += [f"{d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"]
        rows.append(tuple(cells))
    return console.columns(rows)


def _fine(found: Checked) -> str:
    fine = found.fine
    verdict = f"the two folders differ, most clearly in {fine.reason}" if fine.differ else "no difference found"
    return f"at the finest scale of pixels, without any model: AUC {fine.auc:.3f}, p = {fine.p_value:.3f}; {verdict}"


def _verdict(found: Checked) -> str:
    if ways := found.ways:
        return (
            f"the split itself is not fair: without any model, members are told from held-out photos by their "
            f"{' and '.join(ways)}, so no attack's AUC on it is evidence of a leak"
        )
    if any(control.confounded for control in found.blind):
        return "the blind control finds no difference in the split itself, but it recognises the second source"
    return "the blind control finds no difference; it can miss one, above all with few photos"


def _before_and_after(before: Checked, after: Checked) -> str:
    """What was found in the folders, and in their re-encoded copies."""

    def cells(found: Checked) -> list[str]:
        controls = (found.blind[0], found.fine)
        kinds = [difference.partition(":")[0] for difference in found.differences]
        return [
            "; ".join(kinds) or "nothing beyond chance",
            *(f"AUC {c.auc:.3f}, p = {c.p_value:.3f}" for c in controls),
        ]

    what = ("files differ in", "blind control", "at the finest scale")
    return console.columns([("", "before", "after"), *zip(what, cells(before), cells(after), strict=True)])


def _fixed(after: Checked) -> str:
    if ways := after.ways:
        return (
            f"the re-encoded folders still differ, in their {' and '.join(ways)}: do not audit on them; choose members "
            "and held-out photos at random from one collection"
        )
    return "no difference is found between the re-encoded folders; audit on both of them, never on one of each kind"
