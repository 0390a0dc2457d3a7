"""The command `run`: everything from the SP set to the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB, AuditRunConfig, RunConfig
from s2l.errors import UserError
from s2l.options import read_config, run_config

if TYPE_CHECKING:
    from s2l.model.diffusion import Runtime
    from s2l.record import Result

BESIDE_CONFIG = {"config", "out", "device", "dtype", "batch_size", "i_have_permission"}


@base.app.command(
    epilog=base.example(
        "run --domain 'Mira Solwyn' --method lora --preset demo --out out",
        "run --domain 'Mira Solwyn' --steps 400 --rank 16 --attacks secmi,loss --out out",
        "run --model DIR --i-have-permission --preset paper --domain 'NAME' \\",
        "    --members DIR --nonmembers DIR --out out",
    )
)
def run(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for result.json, roc.png, extractions.png and report.html.")],
    domain: base.Name = None,
    method: base.Method = "lora",
    preset_name: base.Preset = "demo",
    model: base.Model = LAB,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with all settings of a run, such as a result.json.")
    ] = None,
    prompt: base.Prompt = None,
    set_size: base.SetSize = None,
    together: base.Together = None,
    guidance: base.Guidance = None,
    mitigation: base.Mitigation = None,
    steps: base.Steps = None,
    learning_rate: base.LearningRate = None,
    rank: base.Rank = None,
    train_batch_size: base.TrainBatch = None,
    epsilon: base.Epsilon = None,
    attacks: base.AttackNames = None,
    noise: base.NoiseBy = None,
    latents: base.Latents = None,
    n_generations: base.Generations = None,
    seed_pool: base.SeedPool = None,
    guidance_w: base.GuidanceW = None,
    unshake: base.Unshake = None,
    unshake_space: base.UnshakeSpace = None,
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
    n_nonmembers: base.NNonmembers = None,
    calibration_share: base.CalibrationShare = None,
    seed: Annotated[
        int | None, typer.Option(help="One number that shifts every seed of the run; 0: the preset's seeds.")
    ] = None,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Run everything, from the SP set to the report.

    Generates the SP set, fine-tunes on it, attacks both models, searches their generations for training photos and
    compares the two. Every finished stage is cached: if the command is stopped or killed, run it again to resume.
    """
    base.check_runtime(device, dtype, batch_size)
    if config is not None:
        refuse_other_options(ctx)
        settings = read_config(config)
    else:
        options = {
            "model": model, "members": base.text_of(members),
            "nonmembers": base.text_of(nonmembers), "n-nonmembers": n_nonmembers,
            "calibration-share": calibration_share, "prompt": prompt,
            "set-size": set_size, "together": base.names_of(together), "guidance": guidance, "steps": steps,
            "learning-rate": learning_rate, "rank": rank,
            "train-batch-size": train_batch_size, "n-generations": n_generations, "seed-pool": seed_pool,
            "guidance-w": guidance_w, "unshake": unshake, "unshake-space": unshake_space, "seed": seed,
            "noise": noise, "latents": latents, "mitigation": mitigation, "epsilon": epsilon,
        }  # fmt: skip
        settings = _settings(preset_name, domain, options, method, attacks)
    base.check_folder(out, settings.domain.members, settings.domain.nonmembers)
    base.check_permission(settings.model, i_have_permission)
    runtime = base.make_runtime(device, dtype, batch_size)
    run_and_report(settings, out, runtime)


def run_and_report(settings: RunConfig | AuditRunConfig, out: Path, runtime: Runtime) -> None:
    """Do the run or audit that the settings describe, write its report and print the outcome."""
    from s2l.pipeline import experiment
    from s2l.report.render import write_report

    _claim(out, settings)
    base.quiet_libraries()
    with console.progress() as progress:
        if isinstance(settings, AuditRunConfig):
            result = experiment.run_audit(settings, runtime=runtime, progress=progress)
        else:
            result = experiment.run(settings, runtime=runtime, progress=progress)
    show(result, write_report(result, out))


def _claim(out: Path, settings: RunConfig | AuditRunConfig) -> None:
    """Raises UserError if the folder holds the result of another run or audit, which would be written over."""
    from s2l.pipeline.identity import spelled_out

    if not (path := out / "result.json").exists():
        return
    try:
        same = spelled_out(read_config(path, type(settings))) == spelled_out(settings)
    except UserError:  # of another command, of another version, or no result
        same = False
    if not same:
        raise UserError(f"{path} is the result of other settings: choose another folder, or delete this one")


def show(result: Result, paths: list[Path]) -> None:
    """Print the outcome of a finished run or audit on the terminal."""
    from s2l.report.findings import outcome, quick_note, warning
    from s2l.report.verdicts import headline, unchanged_note

    cautions = (quick_note(result.record), warning(result.record), unchanged_note(result.record["attacks"]))
    for caution in filter(None, cautions):
        print(f"Warning: {caution}\n")
    print("\n".join(headline(result)), end="\n\n")
    if rows := outcome(result):
        print(console.outcome_table(rows), end="\n\n")
    print(console.stage_table(result.record["stages"]), end="\n\n")
    console.say_folders(result.record["domain"].get("report"))
    for note in result.record["domain"]["notes"]:
        console.say(f"Note: {note}")
    print("written: " + ", ".join(str(path) for path in paths))


def _settings(preset_name: str, domain: str | None, options: dict, method: str, attacks: str | None) -> RunConfig:
    """The run that the options describe. What can be checked without loading torch comes first."""
    if domain is None:
        raise UserError("--domain is missing: name a person from `python -m s2l domains`, or give --config")
    if (options["members"] is None) != (options["nonmembers"] is None):
        raise UserError("give both folders, --members and --nonmembers, or neither")
    given = run_config(preset_name, domain, options)
    name = base.check_name(domain, given.model, options["members"])
    from s2l.finetune import parse

    options = options | {"method": parse(method), "attacks": base.attack_names(attacks)}
    return run_config(preset_name, name, options)


def refuse_other_options(ctx: typer.Context) -> None:
    """--config describes a complete run: refuse options that would be ignored."""
    given = [n for n in ctx.params if getattr(ctx.get_parameter_source(n), "name", "") == "COMMANDLINE"]
    if extra := [n.removesuffix("_name").replace("_", "-") for n in given if n not in BESIDE_CONFIG]:
        raise UserError(f"--config already has all settings: leave out --{', --'.join(extra)}")
