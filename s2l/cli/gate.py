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
        "gate --upload sp --tuned tuned --out verdict    (and is it safe to hand out what was trained on it?)",
    )
)
def gate(
    upload: Annotated[Path, typer.Option(help="Pictures uploaded for fine-tuning: a folder or a list.")],
    out: Annotated[Path, typer.Option(help="Folder for gate.json.")],
    private: Annotated[
        Path | None, typer.Option(help="Photos to protect: a folder or a list; default: all members of the lab.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="With --private and --tuned: photos of the same source, not used in training.")
    ] = None,
    tuned: base.Tuned = None,
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
        float, typer.Option(help="Share of honest uploads that a gate may refuse, above 0 and below 0.5.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed for sampling the honest uploads.")] = 0,
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Check an upload before fine-tuning on it and, with --tuned, the weights before they are handed out.

    Each gate scores the pictures and compares their mean with a threshold set on honest uploads of the same size. The
    release audit compares what the Loss attack learns of private photos from the tuned weights, alone and beside the
    base model, with what the base model gives away. The exit code is 3 if either refuses, 0 if none does.
    """
    base.check_runtime(device, dtype, batch_size)
    if tuned is None and held_out is not None:
        raise UserError("--held-out is for the release audit: name the fine-tuned model with --tuned")
    if tuned is not None and (private is None) != (held_out is None):
        raise UserError("the release audit compares private photos with held-out ones: give --private and --held-out")
    if not 0 < alpha < 0.5:
        raise UserError(f"--alpha: should be above 0 and below 0.5 (given: {alpha:g})")
    lab = find_lab(model)
    if tuned is not None and lab is None and private is None:
        raise UserError("this model is not a lab: the release audit needs --private and --held-out")
    if lab is None and not honest:
        raise UserError(
            "this model is not a lab: give honest pictures of at least three people, each with --honest DIR"
        )
    if honest and len(honest) < 3:
        raise UserError(f"--honest: at least 3 folders are needed, one per person (given: {len(honest)})")
    base.check_folder(out, upload, private, held_out, *(honest or ()))
    loaded = base.load_model(model, i_have_permission, device, dtype, batch_size, tuned)
    from s2l.gates.check import check_upload
    from s2l.pipeline.release import audit_release
    from s2l.pipeline.tuned import read_tuned
    from s2l.store import write_json

    with console.progress() as progress:
        release = None
        name = private.resolve().name if private is not None else ""
        brought = None if tuned is None else read_tuned(loaded, tuned, name)  # a wrong one is refused first
        record = check_upload(loaded, lab, upload, private, honest or (), gates, alpha, seed, progress)
        if brought is not None:
            folders = None if private is None or held_out is None else (private, held_out)
            release = audit_release(loaded, lab, brought, upload, folders, seed, progress)
    record |= {"release": release, "refused": record["refused"] or (release is not None and release["refused"])}

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "gate.json", record)
    rows = [("gate", "mean score", "threshold", "false alarms", "verdict")]
    for verdict in record["verdicts"]:
        limit = verdict["threshold"]
        alarms = f"{limit['false_alarm']:.1%} [{limit['interval']['low']:.1%}, {limit['interval']['high']:.1%}]"
        answer = "refuse" if verdict["refused"] else "accept"
        rows.append((verdict["title"], f"{verdict['statistic']:.4f}", f"{limit['value']:.4f}", alarms, answer))
    print(console.columns(rows))
    if record["release"] is not None:
        print("\n" + console.columns(_released(record["release"])))
    for note in record["notes"]:
        console.say(f"Note: {note}")
    print(f"\nwritten: {out / 'gate.json'}")
    if record["refused"]:
        raise typer.Exit(REFUSED)


@base.app.command("gate-study", epilog=base.example("gate-study", "gate-study --people 4 --out my-gate.json"))
def gate_study(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("results/gate.json"),
    people: Annotated[int | None, typer.Option(help="Number of reporting people; default: 12.")] = None,
    model: base.Model = LAB,
    device: base.Device = "cpu",
    dtype: base.DType = "float32",
) -> None:
    """Measure how many uploads of the lab's own pictures the gate catches, whatever was done to hide them.

    Every person's scores are cached: if the command is stopped or killed, run it again to resume.
    """
    base.check_runtime(device, dtype, None)
    base.need_lab(model)
    base.check_file(out, suffix=".json")
    if people is not None and people < 2:
        raise UserError(f"--people: should be at least 2, for an interval over people (given: {people})")
    from s2l.tables.gate import PEOPLE, run_gate
    from s2l.tables.view import write

    base.quiet_libraries()
    out.parent.mkdir(parents=True, exist_ok=True)
    runtime = base.make_runtime(device, dtype, None)
    with console.progress() as progress:
        table = run_gate(out, people or PEOPLE, model, runtime=runtime, progress=progress)
    write(out.stem, table, out.parent)
    print(f"written: {out}")


def _released(release: dict) -> list[tuple[str, ...]]:
    """The release audit as rows: what each attacker learns, against the base model alone."""
    rows: list[tuple[str, ...]] = [("attacker", "AUC", "more than the base model", "verdict")]
    rows.append(("the base model alone", f"{release['base_auc']:.3f}", "", ""))
    for row in release["attackers"]:
        change = row["difference"]
        text = f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]"
        rows.append((row["title"], f"{row['auc']:.3f}", text, "withhold" if row["leaks"] else "release"))
    return rows
