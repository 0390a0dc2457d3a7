"""The command `split-check`: how far does an audit of these folders depend on the choice of held-out photos?"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB, SCHEMA_VERSION
from s2l.errors import UserError
from s2l.options import help_of, run_config

BLIND_SIDE = 64  # pixels without a model: the blind control looks at 16 x 16


@base.app.command(
    epilog=base.example(
        "split-check --members in --nonmembers out --second other-camera",
        "split-check --members in --nonmembers out --second other-camera --model BASE --tuned FOLDER \\",
        "    --i-have-permission --out split.json",
    )
)
def split_check(
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
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

    The blind control, which knows the photos but no model, tries to tell the two folders apart. With --second it does
    so at five shares of held-out photos from the second source. With --tuned, every attack on the base model and on
    the fine-tuned one is measured at each share too.
    """
    base.check_runtime(device, dtype, batch_size)
    if members is None or nonmembers is None:
        raise UserError("give both folders, --members and --nonmembers")
    if model is not None and tuned is None:
        raise UserError("--model: the attacks compare two models, so give the fine-tuned one with --tuned")
    if attacks is not None and tuned is None:
        raise UserError("--attacks: they need two models, so give the fine-tuned one with --tuned")
    base.section("audit", preset_name, None, {"seed": seed})
    settings = base.section("audit", preset_name, None, {"attacks": base.attack_names(attacks), "seed": seed})
    options = {"members": str(members), "nonmembers": str(nonmembers), "n-nonmembers": n_nonmembers}
    target = run_config(preset_name, domain or members.resolve().name, options).domain
    if out is not None:
        if out.is_dir():
            raise UserError(f"{out} is a folder: --out names a JSON file")
        base.check_folder(out.parent)
    from s2l.measure.fine import fine_control
    from s2l.pipeline import split
    from s2l.pipeline.experiment import calibration_people
    from s2l.pipeline.stages import Stages
    from s2l.pipeline.subject import Subject
    from s2l.pipeline.tuned import caption_notes, read_tuned, say
    from s2l.store import Store, write_json

    if tuned is None:
        photos, parts = split.folders_domain(target, base.text_of(second), BLIND_SIDE)
        scored = None
    else:
        loaded = base.load_model(model or LAB, i_have_permission, device, dtype, batch_size)
        fine_tuned = read_tuned(loaded, tuned, target.name)
        photos, parts = split.folders_domain(target, base.text_of(second), loaded.resolution)
        say(caption_notes(fine_tuned, photos))
        with console.progress() as progress:
            people = partial(calibration_people, target, model or LAB)
            scores = split.part_scores(
                Subject.of(loaded), fine_tuned.subject, photos, parts, settings, Stages(Store(), progress), people
            )
        scored = split.attacks_of(scores, parts, settings.confidence)
    shares, blind = split.shares_of(parts), split.blind_of(photos, parts)
    counts = {part: where.stop - where.start for part, where in parts.items()}
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": "split-check",
        "n_members": len(photos.membership.members),
        "n_nonmembers": counts,
        "shares": list(shares),
        "blind": [asdict(control) for control in blind],
        "attacks": {name: [asdict(at) for at in rows] for name, rows in (scored or {}).items()},
        "notes": list(photos.notes),
    }
    print(_table(record))
    print(f"\n{record['n_members']} members against {min(counts.values())} held-out photos at every share")
    print(_verdict(blind[0].confounded, [c.confounded for c in blind]))
    fine = fine_control(photos.membership)
    record["fine"] = asdict(fine)
    print(
        f"at the finest scale of pixels, without any model: AUC {fine.auc:.3f}, p = {fine.p_value:.3f}"
        + (f"; the two folders differ, most clearly in {fine.reason}" if fine.differ else "; no difference found")
    )
    for note in photos.notes:
        console.say(f"Note: {note}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, record)
        print(f"\nwritten: {out}")


def _table(record: dict) -> str:
    """One line per share: the blind control, then each attack."""
    head = ["second source", "blind control"]
    for name in record["attacks"]:
        head += [f"{name}: AUC before", "after", "after - before"]
    rows = [tuple(head)]
    for i, (share, control) in enumerate(zip(record["shares"], record["blind"], strict=True)):
        cells = [f"{100 * share:g} %", f"{control['auc']:.3f} [{control['low']:.2f}, {control['high']:.2f}]"]
        for at in (points[i] for points in record["attacks"].values()):
            d = at["difference"]
            cells += [f"{at['auc_before']:.3f}", f"{at['auc_after']:.3f}"]
            cells += [f"{d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"]
        rows.append(tuple(cells))
    return console.columns(rows)


def _verdict(fair_is_confounded: bool, confounded: list[bool]) -> str:
    if fair_is_confounded:
        return "the split itself is not fair: the blind control tells members from held-out photos without any model"
    if any(confounded):
        return "the blind control finds no difference in the split itself, but it recognises the second source"
    return "the blind control finds no difference; it can miss one, above all with few photos"
