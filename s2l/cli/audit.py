"""The command `audit`: compare a model that was fine-tuned elsewhere with its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base
from s2l.cli.run import refuse_other_options, run_and_report
from s2l.config import LAB, AuditRunConfig
from s2l.errors import UserError
from s2l.model.hub import is_hub_id
from s2l.options import audit_config, read_config

PersonName = Annotated[
    str | None,
    typer.Option("--domain", "--name", help="Person's name in the prompts; default: the one that --tuned records."),
]


@base.app.command(
    epilog=base.example(
        "audit --model BASE --tuned FOLDER --members DIR --nonmembers DIR --name 'NAME' \\",
        "    --i-have-permission --out out",
        "audit --model lab --domain 'Mira Solwyn' --tuned tuned --out out",
        "audit --model BASE --tuned lora.safetensors --name 'NAME' --out out    (no photos: only near-duplicates)",
    )
)
def audit(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for result.json, roc.png, histograms.png, extractions.png, report.html.")
    ],
    tuned: base.Tuned = None,
    domain: PersonName = None,
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
    n_nonmembers: base.NNonmembers = None,
    calibration_share: base.CalibrationShare = None,
    attacks: base.AttackNames = None,
    noise: base.NoiseBy = None,
    latents: base.Latents = None,
    n_generations: Annotated[int | None, typer.Option(help="Number of generations to search, from each model.")] = None,
    guidance: base.Guidance = None,
    mitigation: base.Mitigation = None,
    seed_pool: base.SeedPool = None,
    guidance_w: base.GuidanceW = None,
    unshake: base.Unshake = None,
    unshake_space: base.UnshakeSpace = None,
    seed: Annotated[int | None, typer.Option(help="One number that shifts every seed; 0: the preset's seeds.")] = None,
    preset_name: base.Preset = "demo",
    config: Annotated[
        Path | None, typer.Option(help="JSON file with all settings of an audit, such as a result.json.")
    ] = None,
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Compare a fine-tuned model with its base model and write a report.

    Runs the attacks, the extraction and the controls on both models, and finds groups of near-duplicate generations,
    which needs no photos. Without --members and --nonmembers, and if the model is not a lab, only these groups are
    reported. Every finished stage is cached: if the command is stopped or killed, run it again to resume.
    """
    base.check_runtime(device, dtype, batch_size)
    if config is not None:
        refuse_other_options(ctx)
        settings = read_config(config, AuditRunConfig)
    else:
        if tuned is None:
            raise UserError("--tuned is missing: name the fine-tuned model, or give --config")
        if not is_hub_id(tuned) and not tuned.exists():
            raise UserError(f"--tuned: there is no file or folder {tuned}")
        if (members is None) != (nonmembers is None):
            raise UserError("give both folders, --members and --nonmembers, or neither")
        options = {
            "model": model, "members": base.text_of(members),
            "nonmembers": base.text_of(nonmembers), "n-nonmembers": n_nonmembers,
            "calibration-share": calibration_share, "n-generations": n_generations, "guidance": guidance,
            "mitigation": mitigation, "seed-pool": seed_pool, "guidance-w": guidance_w,
            "unshake": unshake, "unshake-space": unshake_space, "seed": seed,
            "noise": noise, "latents": latents,
        }  # fmt: skip
        given = audit_config(preset_name, domain or "nobody", str(tuned), options)
        name = base.check_name(domain or _recorded_name(tuned, members), given.model, members)
        settings = audit_config(preset_name, name, str(tuned), options | {"attacks": base.attack_names(attacks)})
    base.check_folder(out, settings.domain.members, settings.domain.nonmembers)
    base.check_permission(settings.model, i_have_permission, Path(settings.tuned))
    runtime = base.make_runtime(device, dtype, batch_size)
    run_and_report(settings, out, runtime)


def _recorded_name(tuned: Path, members: Path | None) -> str:
    """The person's name in the captions of the fine-tuning, or else the name of the members' folder."""
    from s2l.model.configuration import read_json_object

    record = tuned / "config.json"
    local = not is_hub_id(tuned) and record.exists()
    name = read_json_object(record).get("name") if local else None
    if not name and members is not None:
        name = members.resolve().name
    if not name:
        raise UserError(f"--name is missing: {tuned} does not record the person's name")
    return name
