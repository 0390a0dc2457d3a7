"""LoRA that other tools trained: read whole, checked against the base model, folded into its weights by peft.

A layer with weights W becomes W + scale * (alpha / rank) * up @ down. The alpha stands in tensors (kohya), in the
file's metadata (diffusers since 0.34) or in adapter_config.json (peft); a file that says nothing has alpha = rank, as
diffusers takes it. Every tensor has a place, every layer has both matrices, and both have its sizes, or the file is
refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from s2l.errors import UserError
from s2l.model.configuration import read_json_object
from s2l.model.headers import read_header
from s2l.model.loading import faults_as_a_sentence, read_finite
from s2l.model.lora_names import (
    ADAPTER,
    ALPHA,
    DOWN,
    PEFT_ROOT,
    UP,
    WRAPPERS,
    Place,
    Spellings,
    refuse_other_kinds,
    tool_of,
)
from s2l.model.lora_settings import NetworkAlpha, from_settings, network_alpha, said_base, stated_settings

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PARTS = ("unet", "text_encoder")
State = dict[str, torch.Tensor]
KINDS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class Adapter:
    """A LoRA in memory. `parts`: {part: (how peft builds it, {"<layer>.lora_A.weight": tensor, ...})}."""

    tool: str
    parts: dict[str, tuple[LoraConfig, State]]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return sum(len(state) // 2 for _, state in self.parts.values())


def is_peft_folder(folder: Path) -> bool:
    """Whether peft's `save_pretrained` wrote the folder, or one for each part in it."""
    return any((folder / part / PEFT_CONFIG).exists() for part in ("", *PARTS))


def read_adapter(path: Path, modules: dict[str, nn.Module]) -> Adapter:
    """The LoRA in a .safetensors file or in a folder of peft, for `modules`, {part: network} of the base model.

    Raises UserError for other kinds of adapters, for tensors without a place and for those that do not fit.
    """
    if path.is_dir():
        return _read_peft(path, modules)
    header = read_header(path)
    refuse_other_kinds(header.shapes, path)
    if tool_of(header.shapes) == "peft" or path.name == PEFT_WEIGHTS:
        if path.name == PEFT_WEIGHTS and (path.parent / PEFT_CONFIG).exists():
            return _read_peft(path.parent, modules)
        raise UserError(f"{path} is a LoRA of peft without its alpha: {PEFT_CONFIG} should lie beside {PEFT_WEIGHTS}")
    state = read_finite(path)
    places, notes = _placed(state, modules, path, None)
    stated, named = stated_settings(path, header.metadata), network_alpha(path, header.metadata)
    alphas: dict[str, dict[str, float]] = {part: {} for part in modules}
    for name, place in places.items():
        if place.role == ALPHA:
            alphas[place.part][place.layer] = _scalar(state[name], name, path)
    parts = {}
    for part, module in modules.items():
        own = {f"{at.layer}.{at.role}": state[n] for n, at in places.items() if at.part == part and at.role != ALPHA}
        if not own:
            continue
        ranks = _check(own, module, part, path)
        if part in stated and not alphas[part]:
            parts[part] = from_settings(stated[part], path), own
        else:
            parts[part] = _config(ranks, _alphas(alphas[part], named, ranks, module, path, part, notes)), own
    if not parts:
        raise UserError(f"{path} holds no LoRA of a UNet or a text encoder")
    if not any(bool(t.any()) for _, own in parts.values() for name, t in own.items() if name.endswith(UP)):
        notes.append("all its up matrices are zero: it changes nothing")
    notes += [
        f"its settings name a LoRA of the {part}, but it holds no matrices of one"
        for part in sorted(stated.keys() - parts.keys())
    ]
    notes += said_base(header.metadata)
    return Adapter(tool_of(header.shapes), parts, (path,), tuple(notes))


def fold(adapter: Adapter, modules: dict[str, nn.Module], scale: float = 1.0) -> dict[str, nn.Module]:
    """The networks with `scale` times the adapter in their weights; `modules` are changed in place.

    Raises UserError if peft would build another adapter than the file holds, or if a weight overflows.
    """
    folded = {}
    for part, (config, state) in adapter.parts.items():
        module = modules[part]
        # The random start is overwritten: leave no trace of it.
        with torch.random.fork_rng(devices=[]), faults_as_a_sentence(f"{adapter.files[0]} does not fit the {part}"):
            wrapped = PeftModel(module, config)
        wanted = {PEFT_ROOT + name for name in state}
        built = set(get_peft_model_state_dict(wrapped))
        if built != wanted:
            name = sorted(built ^ wanted)[0].removeprefix(PEFT_ROOT)
            has = "lacks" if PEFT_ROOT + name in built else "holds, against its own settings,"
            raise UserError(f"{adapter.files[0]} {has} {name} of the {part}")
        for name, tensor in get_peft_model_state_dict(wrapped).items():
            given = state[name.removeprefix(PEFT_ROOT)]
            if given.shape != tensor.shape:
                raise UserError(
                    f"{adapter.files[0]} contradicts its own settings: {name.removeprefix(PEFT_ROOT)} of the {part} "
                    f"has the shape {tuple(given.shape)} where they say {tuple(tensor.shape)}"
                )
        set_peft_model_state_dict(wrapped, {PEFT_ROOT + name: tensor for name, tensor in state.items()})
        for layer in wrapped.modules():
            if isinstance(getattr(layer, "scaling", None), dict):
                layer.scaling["default"] *= scale
        with faults_as_a_sentence(f"{adapter.files[0]} makes weights of the {part} NaN or infinite"):
            module = wrapped.merge_and_unload(safe_merge=True)
        for name in ("peft_config", "active_adapter"):
            if name in vars(module):
                delattr(module, name)
        folded[part] = module.requires_grad_(False).eval()
    return folded


# --- reading ---------------------------------------------------------------------------------------


def _placed(
    state: State, modules: dict[str, nn.Module], path: Path, part: str | None
) -> tuple[dict[str, Place], list[str]]:
    """({tensor's name: its place}, notes). Raises UserError for a name without a place, and for a place given twice."""
    layers = {p: [name for name, layer in m.named_modules() if isinstance(layer, KINDS)] for p, m in modules.items()}
    spellings = Spellings(layers)
    places = {name: spellings.place(name, part) for name in state}
    if lost := sorted(name for name, place in places.items() if place is None):
        more = f" and for {len(lost) - 1} more" if len(lost) > 1 else ""
        whose = _other_base(state, modules) or "it may belong to another base model"
        raise UserError(f"the base model has no place for {lost[0]} of {path}{more}: {whose}")
    adapters = {found[1] for name in state if (found := ADAPTER.search(name))}
    if len(adapters) > 1:
        raise UserError(
            f"{path} holds several adapters ({', '.join(sorted(adapters))}): save the one that is meant alone"
        )
    known = {name: place for name, place in places.items() if place is not None}
    if len(set(known.values())) < len(known):
        raise UserError(f"{path} gives a layer twice, under two spellings")
    notes = [f"its adapter is called {name!r}" for name in adapters - {"default"}]
    if any(WRAPPERS.search(name) for name in state):
        notes.append("its names had a wrapper (such as `module.`): it was taken off")
    return known, notes


def _check(state: State, module: nn.Module, part: str, path: Path) -> dict[str, int]:
    """{layer: rank}. Raises UserError for a layer with one matrix only, and for one of other sizes than the model's."""
    ranks = {}
    for layer in sorted({name.removesuffix(f".{DOWN}").removesuffix(f".{UP}") for name in state}):
        down, up = state.get(f"{layer}.{DOWN}"), state.get(f"{layer}.{UP}")
        if down is None or up is None:
            raise UserError(f"{path} lacks the {'down' if down is None else 'up'} matrix of {layer} of the {part}")
        owner, rank = module.get_submodule(layer), down.shape[0] if down.ndim else 0
        weight = owner.weight
        wanted = ((rank, *weight.shape[1:]), (weight.shape[0], rank, *(1 for _ in weight.shape[2:])))
        for role, tensor, shape in zip((DOWN, UP), (down, up), wanted, strict=True):
            if tensor.numel() and [n for n in tensor.shape if n > 1] == [n for n in shape if n > 1]:
                state[f"{layer}.{role}"] = tensor.reshape(shape)  # of a 1 x 1 convolution, as a matrix or the reverse
            elif tuple(tensor.shape) != shape or rank == 0:
                other = _other_base(state, {part: module}) or "it may belong to another base model"
                raise UserError(
                    f"{path} does not fit the base model: for {layer} of the {part} it has a matrix of shape "
                    f"{tuple(tensor.shape)} where {shape} is needed; {other}"
                )
        ranks[layer] = rank
    return ranks


def _other_base(state: State, modules: dict[str, nn.Module]) -> str | None:
    """Which Stable Diffusion the width of the context tells, if it is not the base model's."""
    known = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
    unet = modules.get("unet")
    own = unet.config.cross_attention_dim if unet is not None else None
    for name, tensor in state.items():
        if (
            re.search(r"attn2[._](processor[._])?to[._][kv]\b|attn2[._](processor\.)?to_[kv]_?", name)
            and tensor.ndim >= 2
        ):
            width = tensor.shape[1]
            if re.search(r"lora_A|down(\.weight)?$", name) and width != own and width in known:
                return f"it was trained on {known[width]} (context of {width:,} instead of {own:,})"
    return None


def _alphas(
    given: dict[str, float],
    named: NetworkAlpha | None,
    ranks: dict[str, int],
    module: nn.Module,
    path: Path,
    part: str,
    notes: list[str],
) -> dict[str, float]:
    """{layer: alpha} of one part: its tensor, else what kohya's metadata says, else the rank, which is said."""
    if stray := sorted(given.keys() - ranks.keys()):
        raise UserError(f"{path} has an alpha for {stray[0]}, but no LoRA")
    if named is not None:
        said = {layer: named.of(module.get_submodule(layer)) for layer in ranks}
        if other := [layer for layer, alpha in given.items() if alpha != said[layer]]:
            notes.append(
                f"{len(other)} layers of the {part} have alphas such as {given[other[0]]:g} where the metadata says "
                f"{said[other[0]]:g}: their own count, as in kohya"
            )
        if lost := sorted(ranks.keys() - given.keys()):
            values = ", ".join(f"{alpha:g}" for alpha in sorted({said[layer] for layer in lost}))
            notes.append(f"{len(lost)} layers of the {part} have the alpha of the metadata ({values})")
        return said | given
    if not given:
        notes.append(f"it has no alpha for the {part}: the scale is 1, as in diffusers")
    elif lost := sorted(ranks.keys() - given.keys()):
        notes.append(f"{len(lost)} layers of the {part} have no alpha, which counts as their rank")
    return {layer: given.get(layer, rank) for layer, rank in ranks.items()}


def _scalar(tensor: torch.Tensor, name: str, path: Path) -> float:
    if tensor.numel() != 1:
        raise UserError(f"{path} holds {name} of shape {tuple(tensor.shape)}, where one number is needed")
    return float(tensor)


def _config(ranks: dict[str, int], alphas: dict[str, float]) -> LoraConfig:
    """How peft builds layers of these ranks and alphas. Its patterns match the end of a name."""
    return LoraConfig(
        r=max(ranks.values()),
        target_modules=rf"({'|'.join(map(re.escape, ranks))})",
        rank_pattern={re.escape(layer): rank for layer, rank in ranks.items()},
        alpha_pattern={re.escape(layer): alpha for layer, alpha in alphas.items()},
        init_lora_weights=False,
    )


def _read_peft(folder: Path, modules: dict[str, nn.Module]) -> Adapter:
    """An adapter as peft's `save_pretrained` writes it: for one part, or in a folder for each."""
    parts: dict[str, tuple[LoraConfig, State]] = {}
    files: list[Path] = []
    notes: list[str] = []
    whole = (folder / PEFT_CONFIG).exists()
    for given in (None,) if whole else PARTS:
        place = folder / (given or "")
        if not (place / PEFT_CONFIG).exists():
            continue
        path = place / PEFT_WEIGHTS
        if not path.exists():
            pickled = (place / "adapter_model.bin").exists()
            why = "only pickled weights (.bin), which are never opened: save them as safetensors" if pickled else "none"
            raise UserError(f"{place} should hold {PEFT_WEIGHTS}, but has {why}")
        header = read_header(path)
        settings = read_json_object(place / PEFT_CONFIG)
        config = from_settings(settings, place / PEFT_CONFIG)
        notes += said_base(settings)
        refuse_other_kinds((n.removeprefix(PEFT_ROOT) for n in header.shapes), path)
        state = read_finite(path)
        part = given or _part_of(state, modules)
        found, more = _placed(state, {part: modules[part]}, path, part)
        notes += more
        own = {f"{at.layer}.{at.role}": state[name] for name, at in found.items()}
        if any(at.role == ALPHA for at in found.values()):
            raise UserError(
                f"{path} holds alphas in tensors, beside those of {PEFT_CONFIG}: which one counts is not clear"
            )
        _check(own, modules[part], part, path)
        parts[part] = config, own
        files += [path, place / PEFT_CONFIG]
    return Adapter("peft", parts, tuple(files), tuple(notes))


def _part_of(state: State, modules: dict[str, nn.Module]) -> str:
    """The part whose layers the names of an adapter are; the UNet if it fits neither."""
    for part, module in modules.items():
        layers = [name for name, layer in module.named_modules() if isinstance(layer, KINDS)]
        spellings = Spellings({part: layers})
        if any(spellings.place(name, part) is not None for name in state):
            return part
    return "unet"
