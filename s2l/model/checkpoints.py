"""Where a checkpoint is: a lab, a folder, a single file, or a repository of the Hugging Face hub.

`locate(model)` gives files on this machine and their revision. Before any weight is read it refuses what the adapter in
diffusion.py cannot run. Only safetensors: a pickle is never opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from s2l.assets import ASSETS
from s2l.config import HUB
from s2l.errors import UserError
from s2l.keys import file_hash
from s2l.labs import find_lab
from s2l.model.configuration import (
    PARTS,
    SUPPORTED,
    assumptions,
    check_configuration,
    read_json_object,
    stated_prediction,
)
from s2l.model.headers import read_header
from s2l.model.hub import HUB_ID, TRAINING, check_hub_id, refuse_cache, snapshot
from s2l.model.prediction import assumed_prediction, read_prediction

CONFIGURATION = ["model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{part}/*.json" for part in PARTS)]
# name.VARIANT.safetensors beside the plain name, which is preferred; without it the first of these.
OTHER_VARIANTS = ("fp32", "fp16", "bf16", "non_ema")
MOVING = ("unet_ema",)  # folders of moving averages that diffusers' scripts leave
FEW = 3  # names that a message lists
VARIANT = re.compile(rf"\.({'|'.join(OTHER_VARIANTS)})[.-]")
SD1 = ASSETS / "sd-1"  # configuration of SD 1.x, for single files
# Tensors that identify the families of single files, and the UNet's first one, whose inputs identify inpainting.
SD1_TEXT, SD2_TEXT = "cond_stage_model.transformer.", "cond_stage_model.model."
FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"


@dataclass(frozen=True)
class Checkpoint:
    """Files on this machine.

    name      what the user wrote
    path      a folder in diffusers layout, or a single .safetensors file
    config    the folder with the configuration of its parts; `path` itself unless that is a file
    revision  the hub's commit, None for local files
    predicts  what the UNet predicts: "epsilon" or "v_prediction"
    notes     how that is known, where the configuration does not say it
    """

    name: str
    path: Path
    config: Path
    revision: str | None = None
    predicts: str = "epsilon"
    notes: tuple[str, ...] = ()

    @property
    def single_file(self) -> bool:
        return self.path.is_file()

    def weights(self) -> list[Path]:
        """The files that are loaded as weights, sorted."""
        if self.single_file:
            return [self.path]
        files = []
        for part in PARTS:
            given = list((self.path / part).glob("*.safetensors"))
            plain = [path for path in given if not VARIANT.search(path.name)]
            files += plain or (part_files(self.path, part)[0] if given else [])
        return sorted(files)


def part_files(folder: Path, part: str) -> tuple[list[Path], list[str]]:
    """The files of one part of a checkpoint that are loaded, and a sentence for each choice that was made."""
    return files_in(folder / part, part)


def files_in(folder: Path, part: str) -> tuple[list[Path], list[str]]:
    """The same for a part in a folder of its own.

    Raises UserError when there are none, or when the list of shards names anything but files beside it.
    """
    files, variant = _files_and_variant(folder, "model" if part == "text_encoder" else "diffusion_pytorch_model")
    notes = [f"the {part} has no weights but those of the variant {variant!r}: they are used"] if variant else []
    if left := sorted(path.name for path in folder.glob("*.safetensors") if path not in files):
        notes.append(f"the weights of the {part} are those in {files[0].name}; not used: {_listed(left)}")
    return files, notes


def _files_and_variant(folder: Path, name: str) -> tuple[list[Path], str]:
    for variant in ("", *OTHER_VARIANTS):
        infix = f".{variant}" if variant else ""
        whole = folder / f"{name}{infix}.safetensors"
        index = folder / f"{name}.safetensors.index{infix}.json"
        # The libraries disagree on which of the two counts if there are both.
        if index.exists() and not (name == "model" and whole.exists()):
            shards = read_json_object(index).get("weight_map")
            names = set(shards.values()) if isinstance(shards, dict) else set()
            if not names or not all(isinstance(x, str) and x == Path(x).name for x in names):
                raise UserError(f"{index} does not say which files hold the weights")
            if lost := sorted(x for x in names if not (index.parent / x).exists()):
                raise UserError(f"{index.parent} lacks {lost[0]}, which {index.name} names")
            return [index.parent / x for x in sorted(names)], variant
        if whole.exists():
            return [whole], variant
    if shard := next((path.name for path in sorted(folder.glob("*-of-*.safetensors"))), None):
        raise UserError(
            f"{folder} holds shards such as {shard}, but not {name}.safetensors.index.json, which names them all: "
            "copy it too"
        )
    pickled = any(folder.glob("*.bin"))
    raise UserError(f"{folder} has no {name}.safetensors" + (": pickles (.bin) are never opened" if pickled else ""))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def check_name(model: str) -> None:
    """Refuse what cannot be a model before any download starts. Raises UserError."""
    if model.startswith(HUB):
        check_hub_id(model, SUPPORTED)
        return
    lab, path = find_lab(model), Path(model)
    if lab is not None:
        _folder(model, lab.folder)
    elif path.is_dir():
        _folder(model, path)
    elif path.is_file():
        _file(model, path)
    elif not HUB_ID.fullmatch(model):
        meant = model.lower() if re.match(r"lab(:|$)", model, re.IGNORECASE) and model != model.lower() else None
        hint = f" (did you mean {meant!r}?)" if meant else ""
        raise UserError(f"{model!r} is not a folder, a file or a hub id{hint}; {SUPPORTED}", field="model")


def locate(model: str, download: bool = True) -> Checkpoint:
    """The checkpoint's files, downloaded if `model` is a hub id; `download=False` uses only what is on this machine.

    Raises UserError for anything the adapter cannot run, saying what is supported.
    """
    check_name(model)
    if not model.startswith(HUB):
        if (lab := find_lab(model)) is not None:
            return _folder(model, lab.folder)
        path = Path(model)
        if path.is_dir():
            return _folder(model, path)
        if path.is_file():
            return _file(model, path)
    folder = _snapshot(model, download)
    return _folder(model, folder, revision=folder.name)  # the hub's cache names a snapshot after its commit


def weights_key(checkpoint: Checkpoint) -> str:
    """sha256 over the weights, as 24 hex digits; read once per process as long as the files do not change."""
    facts = [(path, path.stat()) for path in checkpoint.weights()]
    return _weights_key(tuple((path, fact.st_mtime_ns, fact.st_size) for path, fact in facts))


def configuration_key(checkpoint: Checkpoint) -> str:
    """sha256 over what decides how the weights are used: configurations of the parts, scheduler and tokenizer."""
    files = (path for pattern in CONFIGURATION for path in checkpoint.config.glob(pattern))
    return file_hash([path for path in files if path.is_file()])


@lru_cache(maxsize=8)
def _weights_key(files: tuple[tuple[Path, int, int], ...]) -> str:
    return file_hash([path for path, _, _ in files])


# --- local files -------------------------------------------------------------------------------


def _folder(model: str, folder: Path, revision: str | None = None) -> Checkpoint:
    if not (folder / "model_index.json").exists():
        refuse_cache(folder)
        raise UserError(f"{folder} is not a checkpoint: it has no model_index.json (diffusers layout)")
    check_configuration(folder)
    predicts, notes = stated_prediction(folder), assumptions(folder)
    if predicts is None:
        predicts = "epsilon"
        notes.append(
            f"its scheduler configuration does not say what it predicts: {predicts} is assumed, as in diffusers"
        )
    beside = [path.name for path in folder.glob("*.safetensors")] + [x for x in MOVING if (folder / x).is_dir()]
    if beside:
        notes.append(f"beside its parts, and not used: {_listed(sorted(beside))}")
    checkpoint = Checkpoint(model, folder, folder, revision, predicts, tuple(notes))
    ready = {path.parent.name for path in checkpoint.weights()}
    if lacking := [part for part in PARTS if part not in ready]:
        pickled = any(next((folder / part).glob("*.bin"), None) for part in lacking)
        why = "only pickled weights (.bin), which are never opened" if pickled else "no weights"
        raise UserError(f"{folder} has {why} for {', '.join(lacking)}: .safetensors files are needed")
    for path in checkpoint.weights():
        read_header(path)
    for part in PARTS:
        part_files(folder, part)
    return checkpoint


def _file(model: str, path: Path) -> Checkpoint:
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is not a .safetensors file, and pickled checkpoints are never opened; {SUPPORTED}")
    header = read_header(path)
    text = next((t for t in (SD1_TEXT, SD2_TEXT) if any(name.startswith(t) for name in header.shapes)), None)
    if header.shapes.get(FIRST_LAYER, ())[1:2] != (4,) or text is None:
        raise UserError(f"{path} does not hold a whole Stable Diffusion text-to-image model; {SUPPORTED}")
    folder = path.with_suffix("")
    beside = folder if (folder / "model_index.json").exists() else None
    if beside is not None:
        check_configuration(beside)
    predicts, notes = read_prediction(path, header, beside)
    if beside is None and text == SD2_TEXT:
        silent = "" if predicts else " does not say whether it predicts epsilon or v, and"
        raise UserError(
            f"{path} is Stable Diffusion 2.x, whose file{silent} does not say at which size it was trained: put the "
            f"configuration (its folder in diffusers layout, weights not needed) into {folder}"
        )
    if predicts is None:
        predicts, why = assumed_prediction(beside if text == SD2_TEXT else None)
        notes = (f"nothing in it or beside it says what it predicts: {predicts} is assumed, {why}",)
    if beside is not None:
        notes = (*assumptions(beside), *notes)
    return Checkpoint(model, path, beside or SD1, predicts=predicts, notes=notes)


# --- the hub -----------------------------------------------------------------------------------


def _snapshot(model: str, download: bool) -> Path:
    """The folder of a checkpoint's repository. A variant is downloaded for parts that have no other weights."""
    others = [f"*.{variant}.*" for variant in OTHER_VARIANTS]
    folder = snapshot(model, CONFIGURATION + [f"{part}/*.safetensors" for part in PARTS], others, SUPPORTED, download)
    for variant in OTHER_VARIANTS:
        lacking = [part for part in PARTS if not any((folder / part).glob("*.safetensors"))]
        if not (lacking and download):
            break
        wanted = [
            f"{part}/*.{variant}{rest}" for part in lacking for rest in (".safetensors", "-*.safetensors", ".json")
        ]
        snapshot(model, wanted, (), SUPPORTED, commit=folder.name)
    return folder


def locate_tuned(model: str, supported: str) -> Path:
    """The folder with what a repository of the hub holds as a fine-tuned model: a checkpoint, a part, an adapter.

    Raises UserError, which ends with what is `supported`.
    """
    folder = snapshot(model, CONFIGURATION, (), supported)
    if (folder / "model_index.json").exists():
        return _snapshot(model, download=True)
    return snapshot(model, ("*.safetensors", "*.json"), TRAINING, supported, commit=folder.name)
