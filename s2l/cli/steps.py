"""The stages one by one: `sp-gen`, `finetune` (the authors' `s2l`), `attack`, `extract`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from s2l.cli import base, console
from s2l.config import LAB, DomainConfig
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.options import run_config
from s2l.prompts import fill_name

SP_TABLE = "metadata.jsonl"  # of the folder of an SP set


@base.app.command(
    epilog=base.example(
        "sp-gen --prompt 'a photo of Mira Solwyn' --set-size 5000 --out sp",
        "sp-gen --domain 'Mira Solwyn' --out sp        (the preset's mix of prompts)",
    )
)
def sp_gen(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and their metadata.jsonl.")],
    prompt: Annotated[
        list[str] | None, typer.Option(help="The prompt; repeat the option to use several equally often.")
    ] = None,
    domain: base.Name = None,
    set_size: base.SetSize = None,
    guidance: base.Guidance = None,
    seed: base.FirstSeed = None,
    preset_name: base.Preset = "demo",
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Step 1: generate the synthetic private set.

    Each picture has its own seed: if the command is stopped or killed, run it again to generate only what is missing.
    """
    base.check_runtime(device, dtype, batch_size)
    if not prompt and domain is None:
        raise UserError("give --prompt 'a photo of NAME', or --domain NAME for the preset's mix of prompts")
    for text in prompt or ():
        fill_name(text, domain or "", "--prompt")
    parts = [{"template": text} for text in prompt] if prompt else None
    over = {"prompts": parts, "set_size": set_size, "seed": seed, "sampler": {"guidance_scale": guidance}}
    settings = base.section("sp_set", preset_name, domain, over)
    name = base.check_name(domain, model, None) if domain is not None else ""
    base.check_folder(out)
    loaded = base.load_model(model, i_have_permission, device, dtype, batch_size)
    from s2l.cli.folders import make_sp_set
    from s2l.data.sp_set import filled
    from s2l.pipeline.captions import cut_notes
    from s2l.pipeline.tuned import say

    say(cut_notes(loaded, [filled(part.template, name, settings.suffix) for part in settings.prompts], "prompts"))
    lab = find_lab(model)
    if lab and (words := [w for text in prompt or () for w in lab.unknown_words(text.replace("{name}", ""))]):
        console.say(f"Note: no caption of the lab's training has {', '.join(map(repr, dict.fromkeys(words)))}.")
    with console.progress() as progress:
        images = make_sp_set(loaded, name, settings, out, progress)
    print(f"{len(images):,} pictures in {out}")


@base.app.command(
    epilog=base.example(
        "finetune --method lora --sp-set sp --logdir tuned", "s2l --method=lora_db --logdir=tuned --sp_set=sp"
    )
)
def finetune(
    logdir: Annotated[Path, typer.Option(help="Folder for the fine-tuned weights, the log and the checkpoint.")],
    sp_set: Annotated[
        Path | None,
        typer.Option(
            help="Folder from `sp-gen`, or photos of your own (a folder or a list) with captions; default: "
            "LOGDIR/sp_set, or LOGDIR itself."
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            help="For a --sp-set of your own photos (the out-of-domain control): caption of the photos without one. "
            "{name}: the person of --domain."
        ),
    ] = None,
    method: base.Method = "lora",
    domain: Annotated[str, typer.Option(help="Person's name in the captions; some methods replace it.")] = "",
    steps: base.Steps = None,
    learning_rate: base.LearningRate = None,
    rank: base.Rank = None,
    train_batch_size: base.TrainBatch = None,
    epsilon: base.Epsilon = None,
    seed: base.TrainingSeed = None,
    preset_name: base.Preset = "demo",
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Step 2: fine-tune the model on an SP set.

    If the command is stopped or killed, run it again to resume from its last checkpoint. `s2l` is another name for it.
    """
    base.check_runtime(device, dtype, batch_size)
    over = {
        "max_train_steps": steps, "learning_rate": learning_rate, "rank": rank, "train_batch_size": train_batch_size,
        "seed": seed, "epsilon": epsilon,
    }  # fmt: skip
    base.section("finetune", preset_name, None, over)
    if caption is not None:
        if sp_set is None:
            raise UserError("--caption is for photos of your own: name their folder with --sp-set")
        caption = fill_name(caption, domain, "--caption")
    places = [logdir / "sp_set", logdir]
    source = sp_set or next((place for place in places if (place / SP_TABLE).exists()), None)
    if source is None or not source.exists():
        where = sp_set or " or ".join(map(str, places))
        raise UserError(
            f"no SP set in {where}: make one with `python -m s2l sp-gen --prompt ... --out {sp_set or places[0]}`, "
            "or give --sp-set with photos of your own"
        )
    from s2l.finetune import parse

    settings = base.section("finetune", preset_name, None, over | {"methods": parse(method)})
    base.check_folder(logdir, None if caption is None else sp_set)
    loaded = base.load_model(model, i_have_permission, device, dtype, batch_size)
    from s2l.cli.folders import finetune_folder, training_images
    from s2l.pipeline.captions import cut_notes
    from s2l.pipeline.tuned import say

    images, fingerprint = training_images(source, loaded.resolution, caption)
    say(cut_notes(loaded, images.captions))
    with console.progress() as progress:
        record, ready = finetune_folder(loaded, images, fingerprint, settings, logdir, domain, progress)
    state = "already there" if ready else "done"
    print(f"{'+'.join(settings.methods)} on {record['sp_images']:,} pictures: {state}, in {logdir}")
    print(f"{record['trained_parameters']:,} of {record['model_parameters']:,} parameters trained")
    if (privacy := record.get("privacy")) is not None:
        print(f"spent: epsilon {privacy['epsilon']:.2f}, delta {privacy['delta']:.2g}, for each picture of the set")


base.app.command("s2l", hidden=True, epilog=base.example("s2l --method=lora_db --logdir=tuned --sp_set=sp"))(finetune)


def _domain_config(
    preset_name: str,
    name: str | None,
    model: str,
    members: Path | None,
    nonmembers: Path | None,
    n_nonmembers: int | None,
) -> DomainConfig:
    """The preset's domain for a stage command: a person of the lab, or two folders."""
    from s2l.model.checkpoints import check_name as check_model

    check_model(model)  # what is wrong with the model is said before what it would need
    folders = members is not None or nonmembers is not None
    if folders and (members is None or nonmembers is None):
        raise UserError("give both folders, --members and --nonmembers, or neither")
    if not folders and (name is None or find_lab(model) is None):
        raise UserError("no photos are given: add --members DIR and --nonmembers DIR, or --domain NAME of a lab")
    name = base.check_name(name, model, members) if name is not None else Path(members or "").resolve().name
    options = {"members": base.text_of(members), "nonmembers": base.text_of(nonmembers), "n-nonmembers": n_nonmembers}
    return run_config(preset_name, name, options).domain


@base.app.command(
    epilog=base.example(
        "attack --domain 'Mira Solwyn' --tuned tuned --attacks secmi,loss --out attack.json",
        "attack --members in --nonmembers out --attacks secmi --out attack.json",
    )
)
def attack(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    domain: base.Name = None,
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
    n_nonmembers: base.NNonmembers = None,
    tuned: base.Tuned = None,
    unshake: base.Unshake = None,
    unshake_space: base.UnshakeSpace = None,
    attacks: base.AttackNames = None,
    noise: base.NoiseBy = None,
    latents: base.Latents = None,
    seed: base.NoiseSeed = None,
    preset_name: base.Preset = "demo",
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Step 3a: tell training photos from held-out ones.

    Membership inference on the base model and, with --tuned, on the fine-tuned model too, with the paired
    difference. A higher score always means more likely a member.
    """
    base.check_runtime(device, dtype, batch_size)
    over: dict = {"seed": seed, "noise": noise, "latents": latents}
    base.section("audit", preset_name, None, over)
    unshake_config = base.unshake_section(preset_name, unshake, unshake_space, tuned)
    target = _domain_config(preset_name, domain, model, members, nonmembers, n_nonmembers)
    settings = base.section("audit", preset_name, None, over | {"attacks": base.attack_names(attacks)})
    base.check_file(out, members, nonmembers)
    loaded = base.load_model(model, i_have_permission, device, dtype, batch_size, tuned)
    from s2l.cli.folders import attack_record, load_domain
    from s2l.pipeline.captions import as_read
    from s2l.pipeline.experiment import calibration_people
    from s2l.pipeline.tuned import caption_notes, read_tuned, say
    from s2l.report.findings import SAME_SCORES, control_warning, is_unchanged
    from s2l.report.verdicts import unchanged_note
    from s2l.store import Store, write_json

    name, unshaken = target.name, unshake_config is not None
    fine_tuned = read_tuned(loaded, tuned, name, unshaken) if tuned is not None else None
    photos = as_read(load_domain(target, model, loaded.resolution), loaded)
    if fine_tuned is not None:
        say(caption_notes(fine_tuned, photos))
    with console.progress() as progress:
        people = partial(calibration_people, target, model)
        record = attack_record(loaded, fine_tuned, photos, settings, Store(), progress, people, unshake_config)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, record)
    rows = [("attack", "before", "after", "after - before")]
    for entry in record["attacks"].values():
        cells = [_auc(entry[when]) if when in entry else "" for when in ("before", "after")]
        change = entry.get("difference")
        paired = f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else ""
        if change and is_unchanged(entry):
            paired = SAME_SCORES
        rows.append((entry["title"], *cells, paired))
    if fine_tuned is not None and (caution := unchanged_note(record["attacks"])):
        print(f"Warning: {caution}\n")
    control = record["control"]
    if caution := control_warning(control):
        print(f"Warning: {caution}\n")
    rows.append(("blind control", f"{control['auc']:.3f} [{control['low']:.2f}, {control['high']:.2f}]", "", ""))
    if (fine := control.get("fine")) is not None:
        rows.append(("blind control, finest scale", f"{fine['auc']:.3f} (p = {fine['p_value']:.3f})", "", ""))
    print(console.columns(rows))
    console.say_folders(record["domain"].get("report"))
    for note in photos.notes:
        console.say(f"Note: {note}")
    print(f"\nwritten: {out}")


def _auc(summary: dict) -> str:
    return f"{summary['auc']:.3f} [{summary['delong']['low']:.2f}, {summary['delong']['high']:.2f}]"


@base.app.command(
    epilog=base.example(
        "extract --domain 'Mira Solwyn' --tuned tuned -n 256 --out extracted",
        "extract --generations pictures --members in --nonmembers out --out extracted",
    )
)
def extract(
    out: Annotated[Path, typer.Option(help="Folder for the generations, extraction.json and extractions.png.")],
    generations: Annotated[
        Path | None, typer.Option(help="Folder of pictures to search, instead of generating them.")
    ] = None,
    domain: base.Name = None,
    tuned: base.Tuned = None,
    n: Annotated[int | None, typer.Option("-n", "--n-generations", help="Number of pictures to generate.")] = None,
    guidance: base.Guidance = None,
    mitigation: base.Mitigation = None,
    seed_pool: base.SeedPool = None,
    guidance_w: base.GuidanceW = None,
    unshake: base.Unshake = None,
    unshake_space: base.UnshakeSpace = None,
    delta: base.Delta = None,
    k: base.EideticK = None,
    members: base.Members = None,
    nonmembers: base.Nonmembers = None,
    n_nonmembers: base.NNonmembers = None,
    seed: base.FirstSeed = None,
    preset_name: base.Preset = "demo",
    model: base.Model = LAB,
    device: base.Device = "auto",
    dtype: base.DType = "auto",
    batch_size: base.Batch = None,
    i_have_permission: base.Permission = False,
) -> None:
    """Step 3b: find training photos that the model reproduces.

    Generates pictures with the base model or the fine-tuned one, or takes a folder of them, and searches them for
    training photos, with held-out photos as the control.
    """
    base.check_runtime(device, dtype, batch_size)
    over = {
        "n_generations": n, "seed": seed, "delta": delta, "k": k, "seed_pool": seed_pool, "guidance_w": guidance_w,
        "sampler": {"guidance_scale": guidance, "mitigation": mitigation},
    }  # fmt: skip
    settings = base.section("extraction", preset_name, None, over)
    how = {
        "--tuned": tuned, "--n-generations": n, "--guidance": guidance, "--mitigation": mitigation, "--seed": seed,
        "--seed-pool": seed_pool, "--guidance-w": guidance_w, "--unshake": unshake, "--unshake-space": unshake_space,
    }  # fmt: skip
    if generations is not None and (given := [option for option, value in how.items() if value is not None]):
        raise UserError(f"{', '.join(given)}: these say how to generate, so leave them out with --generations")
    if guidance_w is not None and tuned is None:
        raise UserError("--guidance-w goes from the base model towards a fine-tuned one: give its folder with --tuned")
    unshake_config = base.unshake_section(preset_name, unshake, unshake_space, tuned, guidance_w)
    target = _domain_config(preset_name, domain, model, members, nonmembers, n_nonmembers)
    base.check_folder(out, generations, members, nonmembers)
    from s2l.cli import folders
    from s2l.figures import match_figure, png
    from s2l.measure.extraction import extraction_from_dict, gallery_pairs
    from s2l.measure.extraction_summary import efficiency
    from s2l.pipeline.guidance import generation_cost
    from s2l.pipeline.subject import Subject
    from s2l.pipeline.tuned import caption_notes, read_tuned, say
    from s2l.pipeline.unshake import unshaken
    from s2l.store import write_json

    notes: list[str] = []
    if generations is not None:
        resolution = folders.generations_resolution(generations, model)
        images, notes = folders.read_generations(generations, resolution)
        photos = folders.load_domain(target, model, resolution)
        source: dict[str, str | None] = {"generations": str(generations)}
        cost, said = None, {}
    else:
        loaded = base.load_model(model, i_have_permission, device, dtype, batch_size, tuned)
        after = None
        if tuned is not None:
            fine_tuned = read_tuned(loaded, tuned, target.name, unshake_config is not None)
            after = unshaken(Subject.of(loaded), fine_tuned, unshake_config)
        photos = folders.load_domain(target, model, loaded.resolution)  # before generating: wrong folders fail at once
        tuned_notes = [*fine_tuned.notes, *say(caption_notes(fine_tuned, photos))] if tuned is not None else []
        said = {"model_notes": list(loaded.notes), "tuned_notes": tuned_notes}
        with console.progress() as progress:
            images = folders.make_generations(loaded, after, target.name, settings, out / "generations", progress)
        source = {"model": loaded.key, "tuned": after.key if after is not None else None}
        cost = generation_cost(settings, "before" if tuned is None else "after", unshake_config)
    place = base.make_runtime(device, dtype, batch_size).torch_device()
    record = folders.extraction_record(images, photos, settings, source, place)
    record |= {name: notes for name, notes in said.items() if notes}
    extraction = extraction_from_dict(record["extraction"])
    if cost is not None:
        rates = efficiency(extraction, cost.unet_evaluations)
        record["cost"] = asdict(cost) | asdict(rates)
    best = gallery_pairs(extraction, top=8)
    pairs = images.images[[m.generation for m in best]], photos.membership.members.images[[m.reference for m in best]]
    left, right = (x.permute(0, 2, 3, 1).numpy() for x in pairs)
    figure = match_figure(left, right, delta=extraction.delta)
    out.mkdir(parents=True, exist_ok=True)
    (out / "extractions.png").write_bytes(png(figure))
    write_json(out / "extraction.json", record)
    side, control = extraction.members, extraction.nonmembers
    n = extraction.n_generations
    print(f"{side.distinct} of {side.n_references} training photos extracted by {n:,} generations")
    print(f"{extraction.eidetic} of them eidetic at k = {extraction.k}, delta = {extraction.delta:g}")
    print(f"control: {control.distinct} of {control.n_references} held-out photos, which cannot leak")
    if cost is not None:
        print(
            f"cost: {cost.unet_evaluations:,} UNet evaluations ({cost.selection:,} to choose seeds); per 1,000 of them "
            f"{rates.per_1000:.2f} [{rates.low:.2f}, {rates.high:.2f}] training photos"
        )
    console.say_folders(record["domain"].get("report"))
    for note in (*notes, *photos.notes):
        console.say(f"Note: {note}")
    print(f"\nwritten: {out / 'extraction.json'}, {out / 'extractions.png'}")
