"""What people bring as the fine-tuned model: told apart by its content, applied to the base model, named in one key.

A folder from `finetune`, a whole checkpoint, its `unet` folder, a merged single file, a LoRA, a Textual Inversion or a
hypernetwork. Weights that are unlike the base model's raise UserError; what had to be done to use them is printed to
stderr and kept in the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from s2l import finetune
from s2l.config import FineTuneConfig, checked
from s2l.data.domain import Domain
from s2l.errors import UserError
from s2l.finetune import hypernetwork
from s2l.keys import file_hash
from s2l.model import adapters, embeddings, parts
from s2l.model.checkpoints import locate_tuned
from s2l.model.configuration import read_json_object
from s2l.model.diffusion import DiffusionModel
from s2l.model.embeddings import Learned
from s2l.model.extrapolated import step_away
from s2l.model.headers import Header, read_header
from s2l.model.hub import is_hub_id, refuse_cache
from s2l.model.lora_names import is_lora
from s2l.pipeline import identity
from s2l.pipeline.subject import Subject
from s2l.pipeline.unshake import FineTuned
from s2l.prompts import replace_name
from s2l.training import CHECKPOINT, REQUEST

SUPPORTED = (
    "supported: a folder from `finetune`, a whole checkpoint (a folder in diffusers layout or one .safetensors file), "
    "its unet folder, a LoRA of diffusers, peft, kohya or ComfyUI, a Textual Inversion of diffusers or A1111, or a hub "
    "id of one of them"
)
PREFERRED = ("pytorch_lora_weights.safetensors", embeddings.WEIGHTS, hypernetwork.WEIGHTS)
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
OWN = ("model", "diffusion_pytorch_model")  # how the files of a part itself begin
FEW = 3  # names that a message lists
Words = tuple[tuple[str, str], ...]  # learned words: as a caption may have it, and as the tokenizer knows it


def read_tuned(base: DiffusionModel, path: Path, name: str = "", unshake: bool = False) -> FineTuned:
    """The fine-tuned model in a folder or a file, whatever tool wrote it.

    `name` is the person's name, in whose place a learned word is put. `unshake`: whether it will be un-shaken. What is
    an id of the hub is downloaded. Raises UserError for what is no fine-tuned model, or not one of this base model.
    """
    given, commit = path, []
    if is_hub_id(given):
        path = locate_tuned(given.as_posix(), SUPPORTED)
        commit = [f"the hub's commit {path.name} is used"]
    elif not path.exists():
        raise UserError(f"{path} is not a fine-tuned model: there is no such file or folder")
    tuned = _read(base, path, name, unshake)
    tuned = replace(tuned, notes=(*tuned.notes, *commit))
    say(f"{given}: {note}" for note in tuned.notes)
    return tuned


def say(notes: Iterable[str]) -> list[str]:
    """Print notes to stderr, where those of a loaded model go."""
    notes = list(notes)
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    return notes


def _read(base: DiffusionModel, path: Path, name: str, unshake: bool) -> FineTuned:
    if path.is_dir():
        if (path / "model_index.json").exists():
            return _checkpoint(base, path, name, unshake)
        if is_result(path):
            return _result(base, path)
        if adapters.is_peft_folder(path):
            return _lora(base, path)
        if folders := parts.part_folders(path):
            files = [file for folder in folders.values() for file in folder.iterdir() if file.is_file()]
            return _parts(base, path, files, *parts.parts_of_folders(base, path, folders), name, unshake)
        if (pair := _lora_with_word(path)) is not None:
            return _lora(base, pair[0], embeddings.read_embedding(pair[1], base), name)
        path, left = _one_file(path)
        found = _read(base, path, name, unshake)
        return replace(found, notes=(*found.notes, *left))
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} is {_what(path)}; {SUPPORTED}")
    header = read_header(path)
    if parts.is_single_file(header) and not is_lora(header.shapes):
        if (path.with_suffix("") / "model_index.json").exists():
            return _checkpoint(base, path, name, unshake)
        return _parts(base, path, [path], *parts.parts_of_file(base, path), name, unshake)
    if hypernetwork.is_hypernetwork(header.shapes):
        return _hypernetwork(base, path)
    if is_lora(header.shapes):
        return _lora(base, path)
    if embeddings.is_embedding(header):
        return _embedding(base, path, name)
    names = ", ".join(sorted(header.shapes)[:FEW])
    raise UserError(f"{path} is not a fine-tuned model that is known here (it holds {names}); {SUPPORTED}")


def is_result(folder: Path) -> bool:
    """Whether `finetune` wrote the folder; no id of the hub is one."""
    return (
        not is_hub_id(folder)
        and (folder / "config.json").exists()
        and "finetune" in read_json_object(folder / "config.json")
    )


def fine_tuned(base: DiffusionModel, folder: Path, key: str, name: str, config: FineTuneConfig) -> FineTuned:
    """A fine-tuning result in a folder as a model. It is loaded when first needed; a cached audit never needs it."""
    load = cache(lambda: finetune.load_finetuned(base, folder))
    caption = partial(finetune.map_caption, name=name, config=config)
    scaled = partial(finetune.load_finetuned, base, folder)
    return FineTuned(Subject(key, load, caption), scaled, partial(caption, away=True), name)


def _result(base: DiffusionModel, folder: Path) -> FineTuned:
    """A folder from `finetune`. Raises UserError if another base model was fine-tuned."""
    record = read_json_object(folder / "config.json")
    if record.get("base_model") != base.weights:
        raise UserError(f"{folder} was fine-tuned from another model than this one", field="model")
    config = checked(FineTuneConfig, record["finetune"])
    key = identity.tuned_folder(base.key, config, file_hash(list(folder.rglob("*.safetensors"))))
    return fine_tuned(base, folder, key, record["name"], config)


# --- changes of the base model -------------------------------------------------------------------


def _lora(base: DiffusionModel, path: Path, learned: Learned | None = None, name: str = "") -> FineTuned:
    """A LoRA, and the word that was learned together with it if there is one."""
    modules = {part: getattr(base, part) for part in adapters.PARTS}
    adapter = adapters.read_adapter(path, modules)

    def scaled(scale: float) -> DiffusionModel:
        tuned = base.copy()
        adapters.fold(adapter, {part: getattr(tuned, part) for part in adapters.PARTS}, scale)
        if learned is not None:
            _add(tuned, learned, scale)
        return tuned

    layers = ", ".join(f"{len(state) // 2} layers of the {part}" for part, (_, state) in adapter.parts.items())
    files, notes = list(adapter.files), [layers, *adapter.notes]
    words: Words = ()
    if learned is not None:
        files, notes, words = [*files, learned.file], [*notes, *_said(learned)], ((learned.word, learned.token),)
    return _change(base, f"a LoRA of {adapter.tool}", files, scaled, notes, name, words)


def _hypernetwork(base: DiffusionModel, path: Path) -> FineTuned:
    def scaled(scale: float) -> DiffusionModel:
        tuned = base.copy()
        hypernetwork.attach(tuned, path, scale)
        tuned.unet.requires_grad_(False).eval()
        return tuned

    return _change(base, "a hypernetwork of `finetune`", [path], scaled, [])


def _embedding(base: DiffusionModel, path: Path, name: str) -> FineTuned:
    learned = embeddings.read_embedding(path, base)

    def scaled(scale: float) -> DiffusionModel:
        tuned = base.copy()
        _add(tuned, learned, scale)
        return tuned

    words = ((learned.word, learned.token),)
    return _change(base, "a Textual Inversion", [path], scaled, _said(learned), name, words)


def _add(tuned: DiffusionModel, learned: Learned, scale: float) -> None:
    if scale != 1:
        raise UserError(
            f"{learned.file} does not say where its embeddings started, so it cannot be un-shaken in weights: un-shake "
            "in scores instead (--unshake-space scores)"
        )
    embeddings.add_word(tuned, learned)


def _said(learned: Learned) -> list[str]:
    n = len(learned.vectors)
    notes = [f"the word {learned.word!r} ({n} vector{'s' * (n > 1)})"]
    return notes if learned.word == learned.token else [*notes, f"captions have {learned.token!r} for it"]


def _change(
    base: DiffusionModel,
    kind: str,
    files: list[Path],
    scaled: Callable[[float], DiffusionModel],
    notes: Sequence[str],
    name: str = "",
    words: Words = (),
) -> FineTuned:
    """Something that is added to the base model; it is added when the model is first needed."""
    key = identity.brought(base.key, kind, file_hash(files), [token for _, token in words])
    caption = partial(with_words, name=name, words=words)
    subject = Subject(key, cache(lambda: scaled(1.0)), caption)
    first, *rest = [*notes, ""]
    said = (f"{kind}: {first}" if first else kind, *filter(None, rest))
    return FineTuned(subject, scaled, caption, name, tuple(said), tuple(token for _, token in words))


# --- whole models --------------------------------------------------------------------------------


def _checkpoint(base: DiffusionModel, path: Path, name: str, unshake: bool) -> FineTuned:
    """A whole checkpoint. What lies beside its parts is never dropped: it is used, or the choice is the user's."""
    changes = _changes_beside(path) if path.is_dir() else []
    tuned = DiffusionModel.load(str(path), base.runtime, aloud=False)
    equal = tuned.weights == base.weights or all(_same(getattr(base, x), getattr(tuned, x)) for x in parts.PARTS)
    if equal and len(changes) == 1:
        found = _read(base, changes[0], name, unshake)
        why = f"{changes[0].name} is used: the checkpoint that it lies in has the weights of the base model itself"
        return replace(found, notes=(*found.notes, why))
    if changes:
        listed = ", ".join(str(file.relative_to(path)) for file in changes[:FEW])
        raise UserError(
            f"{path} holds a whole checkpoint and beside it {listed}: which is meant is not clear, so name the "
            "adapter's file, or move it out of the folder if the checkpoint alone is meant"
        )
    if equal:
        raise UserError(f"{path} has the weights of the base model itself: there is nothing to compare")
    return _whole(base, tuned, tuned.key, path, ["a whole checkpoint", *tuned.notes], name, unshake)


def _parts(
    base: DiffusionModel,
    path: Path,
    files: list[Path],
    tuned: DiffusionModel,
    notes: list[str],
    name: str,
    unshake: bool,
) -> FineTuned:
    key = identity.brought(base.key, "parts", file_hash(files), [tuned.prediction_type])
    if all(_same(getattr(base, part), getattr(tuned, part)) for part in parts.TRAINED):
        raise UserError(f"{path} has the weights of the base model itself: there is nothing to compare")
    return _whole(base, tuned, key, path, notes, name, unshake)


def _whole(
    base: DiffusionModel,
    tuned: DiffusionModel,
    key: str,
    path: Path,
    notes: Sequence[str],
    name: str,
    unshake: bool,
) -> FineTuned:
    """A model with weights of its own. Raises UserError if the two cannot be compared, or un-shaken."""
    if tuned.resolution != base.resolution:
        raise UserError(f"{path} generates {tuned.resolution} pixels and the base model {base.resolution}")
    if unshake and not _same(base.vae, tuned.vae):
        raise UserError(f"{path} has another autoencoder than the base model: un-shake needs the same one in both")
    notes = [*notes, *_other_settings(base, tuned)]
    words = tuple((word, word) for word in embeddings.added_words(base, tuned))
    if words:
        listed = ", ".join(word for word, _ in words)
        notes = [*notes, f"its tokenizer has words that the base model lacks: {listed}"]
    caption = partial(with_words, name=name, words=words)
    subject = Subject(key, lambda: tuned, caption)
    scaled = partial(_scaled_change, base, tuned)
    return FineTuned(subject, scaled, caption, name if words else "", tuple(notes), tuple(word for word, _ in words))


def _other_settings(base: DiffusionModel, tuned: DiffusionModel) -> list[str]:
    """What else differs between the two, a sentence each: a change of scores is then not of the fine-tuning alone."""
    notes, own = [], base.tokenizer.get_vocab()
    if not _same(base.vae, tuned.vae) or base.vae.config.scaling_factor != tuned.vae.config.scaling_factor:
        notes.append("its autoencoder is not the base model's")
    if tuned.prediction_type != base.prediction_type:
        notes.append(f"it predicts {tuned.prediction_type} and the base model {base.prediction_type}")
    if tuned.schedule != base.schedule:
        notes.append("its noise schedule is not the base model's")
    lengths = [model.tokenizer.model_max_length for model in (tuned, base)]
    if lengths[0] != lengths[1]:
        notes.append(f"its tokenizer reads {lengths[0]} tokens of a caption and the base model's {lengths[1]}")
    theirs = tuned.tokenizer.get_vocab()
    if any(theirs.get(token) != number for token, number in own.items()):
        notes.append("its tokenizer has other words than the base model's")
    return [f"{note}, which changes scores too" for note in notes]


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _scaled_change(base: DiffusionModel, tuned: DiffusionModel, scale: float) -> DiffusionModel:
    """base + scale (tuned - base), of UNet and text encoder. Raises UserError if the two do not match."""
    if tuned.prediction_type != base.prediction_type:
        raise UserError(
            f"the base model predicts {base.prediction_type} and the fine-tuned one {tuned.prediction_type}, so their "
            "weights cannot be mixed: un-shake in scores instead (--unshake-space scores)"
        )
    if words := embeddings.added_words(base, tuned):
        raise UserError(
            f"the fine-tuned model has words that the base model lacks ({', '.join(words[:FEW])}), so their weights "
            "cannot be mixed: un-shake in scores instead (--unshake-space scores)"
        )
    moved = tuned.copy()
    step_away(base.unet, moved.unet, scale)
    step_away(base.text_encoder, moved.text_encoder, scale)
    return moved


# --- captions ------------------------------------------------------------------------------------


def with_words(caption: str, name: str, words: Words) -> str:
    """The caption with the learned words in the name's place; one that has a word already keeps it."""
    if any(token in caption for _, token in words):
        return caption
    if words and (renamed := replace_name(caption, name, " ".join(token for _, token in words))) != caption:
        return renamed
    for word, token in words:
        caption = replace_name(caption, word, token)
    return caption


def caption_notes(tuned: FineTuned, domain: Domain) -> list[str]:
    """Which captions the fine-tuned model gets where it has learned words, and whether they address what it learned."""
    if not tuned.tokens:
        return []
    captions = domain.membership.all().captions if domain.split is not None else (f"a photo of {domain.name}",)
    mapped = [tuned.subject.caption(caption) for caption in captions]
    changed = [(old, new) for old, new in zip(captions, mapped, strict=True) if old != new]
    notes = [f"for the fine-tuned model, {old!r} is {new!r}" for old, new in changed[:1]]
    without = sum(not any(token in caption for token in tuned.tokens) for caption in mapped)
    if without:
        notes.append(
            f"{without} of {len(mapped)} captions have neither the name {domain.name!r} nor a learned word "
            f"({', '.join(tuned.tokens)}): nothing in them addresses what was learned"
        )
    return notes


# --- folders -------------------------------------------------------------------------------------


def _lora_with_word(folder: Path) -> tuple[Path, Path] | None:
    """(LoRA, Textual Inversion) if a folder holds one of each and nothing else: they were trained together."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 2:
        return None
    headers = {file: read_header(file) for file in files}
    loras = [file for file in files if is_lora(headers[file].shapes)]
    words = [file for file in files if file not in loras and embeddings.is_embedding(headers[file])]
    return (loras[0], words[0]) if len(loras) == len(words) == 1 else None


def _changes_beside(checkpoint: Path) -> list[Path]:
    """Adapters in the folder of a whole checkpoint, and in those of its parts."""
    inside = [file for part in parts.TRAINED for file in sorted((checkpoint / part).glob("*.safetensors"))]
    files = [*sorted(checkpoint.glob("*.safetensors")), *(file for file in inside if not file.name.startswith(OWN))]
    return [file for file in files if _is_change(read_header(file))]


def _is_change(header: Header) -> bool:
    names = header.shapes
    return is_lora(names) or hypernetwork.is_hypernetwork(names) or embeddings.is_embedding(header)


def _one_file(folder: Path) -> tuple[Path, list[str]]:
    """The file that a folder is about, and a note on those that are left out. Raises UserError if it is not clear."""
    if any((folder / name).exists() for name in (CHECKPOINT, REQUEST)):
        raise UserError(f"{folder} is not a fine-tuned model yet: its training is not finished, so run it again")
    files = sorted(folder.glob("*.safetensors"))
    known = [file for file in files if file.name in PREFERRED]
    if len(known) == 1 or len(files) == 1:
        (file,) = known if len(known) == 1 else files
        rest = [other.name for other in files if other != file]
        return file, [f"{file.name} is used, not {', '.join(rest[:FEW])}"] if rest else []
    if files:
        names = ", ".join(file.name for file in files[:FEW])
        raise UserError(f"{folder} holds {len(files)} .safetensors files ({names}): name the one that is meant")
    refuse_cache(folder)
    if deeper := sorted(folder.glob("*/*.safetensors")):
        raise UserError(
            f"{folder} is not a fine-tuned model itself: the .safetensors files lie deeper in it, such as {deeper[0]}, "
            "so name the one that is meant"
        )
    pickled = next((file for file in sorted(folder.iterdir()) if file.suffix in PICKLES), None)
    why = f"{pickled.name} is {_what(pickled)}" if pickled else "it has no config.json and no .safetensors file"
    raise UserError(f"{folder} is not a fine-tuned model that can be read: {why}; {SUPPORTED}")


def _what(path: Path) -> str:
    if path.suffix in PICKLES:
        return "a pickle, which is never opened because it can run any program: save it as .safetensors"
    return "not a .safetensors file"
