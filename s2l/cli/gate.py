"""The command `gate`: should a provider fine-tune on this upload?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB
from s2l.errors import UserError
from s2l.labs import find_lab

REFUSED = 3  # exit code


@base.app.command(
    epilog=base.example(
        "gate --upload sp --out verdict",
        "gate --model BASE --upload pictures --private members --honest alice --honest bob --honest carol \\",
        "    --i-have-permission --out verdict",
    )
)
def gate(
    upload: Annotated[Path, typer.Option(help="Pictures uploaded for fine-tuning: a folder or a list.")],
    out: Annotated[Path, typer.Option(help="Folder for gate.json.")],
    private: Annotated[
        Path | None, typer.Option(help="Photos to protect: a folder or a list; default: all members of the lab.")
    ] = None,
    honest: Annotated[
        list[Path] | None,
        typer.Option(
            help="An honest upload of one person; repeat at least 3 times. Default: the lab's held-out photos."
        ),
    ] = None,
    gates: Annotated[
        str | None, typer.Option(help="Gates, separated by commas; default: all that can run on what is given.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Share of honest uploads that a gate may refuse, between 0 and 0.5.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed for sampling the honest uploads.")] = 0,
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Check an upload before fine-tuning on it.

    Each gate scores the pictures and compares their mean with a threshold set on honest uploads of the same size. The
    exit code is 3 if any gate refuses the upload, 0 if none does.
    """
    base.check_runtime(device, dtype, batch_size)
    if not 0 < alpha < 0.5:
        raise UserError(f"--alpha: should be between 0 and 0.5 (given: {alpha:g})")
    lab = find_lab(model)
    if lab is None and not honest:
        raise UserError(
            "this model is not a lab: give honest pictures of at least three people, each with --honest DIR"
        )
    if honest and len(honest) < 3:
        raise UserError(f"--honest: at least 3 folders are needed, one per person (given: {len(honest)})")
    base.check_folder(out)
    loaded = base.load_model(model, i_have_permission, device, dtype, batch_size)
    from s2l.gates.check import check_upload
    from s2l.store import write_json

    with console.progress() as progress:
        record = check_upload(loaded, lab, upload, private, honest or (), gates, alpha, seed, progress)

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gate.json", record)
    rows = [("gate", "mean score", "threshold", "false alarms", "verdict")]
    for verdict in record["verdicts"]:
        limit = verdict["threshold"]
        alarms = f"{limit['false_alarm']:.1%} [{limit['interval']['low']:.1%}, {limit['interval']['high']:.1%}]"
        answer = "refuse" if verdict["refused"] else "accept"
        rows.append((verdict["title"], f"{verdict['statistic']:.4f}", f"{limit['value']:.4f}", alarms, answer))
    print(console.columns(rows))
    for note in record["notes"]:
        console.say(f"Note: {note}")
    print(f"\nwritten: {out / 'gate.json'}")
    if record["refused"]:
        raise typer.Exit(REFUSED)
