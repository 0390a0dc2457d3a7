"""Parts of a checkpoint that somebody fine-tuned, put in the place of the base model's: a `unet` folder, a merged file.

What is not there is the base model's, and this is said. The architecture of a single file is the base model's, because
the format has no configuration.
"""

from __future__ import annotations

from pathlib import Path

from s2l.errors import UserError
from s2l.model.checkpoints import FIRST_LAYER, MOVING, files_in
from s2l.model.configuration import PARTS, read_json_object
from s2l.model.diffusion import DiffusionModel
from s2l.model.headers import Header, read_header
from s2l.model.loading import SINGLE_FILE, empty, faults_as_a_sentence, fill, read_tensors, single_file_parts
from s2l.model.prediction import read_prediction
from s2l.model.samplers import ddim

TRAINED = ("unet", "text_encoder")
UNET_LAYER = "conv_in.weight"  # of a UNet under diffusers' names


def is_single_file(header: Header) -> bool:
    """Whether a file holds parts of a checkpoint under the original code's names, or a UNet under diffusers'."""
    names = header.shapes
    return UNET_LAYER in names or any(n.startswith(p) for n in names for own in SINGLE_FILE.values() for p in own)


def part_folders(folder: Path) -> dict[str, Path]:
    """{part: its folder} of what lies in a folder that is no whole checkpoint: the folder itself, or some in it."""
    if (folder / "config.json").exists():
        config = read_json_object(folder / "config.json")
        kind = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
        if kind is not None:
            part = next((part for part in TRAINED if PARTS[part] == kind), None)
            if part is None:
                raise UserError(
                    f"{folder} holds a {kind}: a fine-tuned {' or '.join(PARTS[part] for part in TRAINED)} is needed"
                )
            return {part: folder}
    return {part: folder / part for part in TRAINED if (folder / part / "config.json").exists()}


def parts_of_folders(base: DiffusionModel, root: Path, folders: dict[str, Path]) -> tuple[DiffusionModel, list[str]]:
    """The base model with those parts in place of its own, and what is to be said about it."""
    notes, modules = [], {}
    for part, folder in folders.items():
        config = read_json_object(folder / "config.json")
        own = config_of(base, part)
        for field in ("sample_size", "in_channels", "out_channels", "cross_attention_dim", "hidden_size"):
            if field in config and field in own and config[field] != own[field]:
                raise UserError(
                    f"the {part} in {folder} does not fit the base model: its {field} is {config[field]!r} and the "
                    f"base model's {own[field]!r}"
                )
        files, said = files_in(folder, part)
        notes += said
        for file in files:
            read_header(file)
        modules[part] = empty(part, config)
        with faults_as_a_sentence(f"{folder} cannot be loaded as the {part} of the base model"):
            fill(modules[part], read_tensors(*files), part, folder, base.dtype, notes, "the base model")
    if beside := [name for name in (*MOVING, "vae", "tokenizer", "scheduler") if (root / name).is_dir()]:
        notes.append(f"{' and '.join(beside)} beside it: not used")
    rest = [part for part in PARTS if part not in modules]
    notes.append(f"{', '.join(rest)} and scheduler are the base model's")
    return base.copy(**modules), notes


def parts_of_file(base: DiffusionModel, path: Path) -> tuple[DiffusionModel, list[str]]:
    """The base model with the parts in a single file in place of its own, and what is to be said about it."""
    header = read_header(path)
    if header.shapes.get(FIRST_LAYER, (0, 4))[1:2] != (4,):
        raise UserError(f"{path} is an inpainting or upscaling model: its UNet does not read 4 channels")
    if any(name.startswith("conditioner.") for name in header.shapes):
        raise UserError(f"{path} is SDXL, not Stable Diffusion 1.x or 2.x")
    predicts, said = read_prediction(path, header, None)
    notes = list(said)
    modules = {part: empty(part, config_of(base, part)) for part in PARTS}
    with faults_as_a_sentence(f"{path} cannot be loaded in place of the base model"):
        plain = UNET_LAYER in header.shapes
        states = {"unet": read_tensors(path)} if plain else single_file_parts(path, modules, notes)
        modules = {part: modules[part] for part in states}
        for part, state in states.items():
            fill(modules[part], state, part, path, base.dtype, notes, "the base model")
    if rest := [part for part in PARTS if part not in modules]:
        notes.append(f"it has no {' and no '.join(rest)}: the base model's is used")
    other = {} if predicts in (None, base.prediction_type) else {"scheduler": ddim(base.schedule, str(predicts))}
    return base.copy(**modules, **other), notes


def config_of(base: DiffusionModel, part: str) -> dict:
    config = getattr(base, part).config
    return config.to_dict() if part == "text_encoder" else dict(config)
