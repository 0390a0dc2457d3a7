"""From the files of a checkpoint to a pipeline, with every tensor of every part accounted for.

If weights have unexpected names, the libraries silently keep random ones. Here a part is built empty from its
configuration, and each of its tensors must come from the files: what is missing, left over or of another shape is
refused by name. Wrappers that only lengthen a name are removed, with a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from s2l.errors import UserError
from s2l.model.checkpoints import SD2_TEXT, Checkpoint, part_files
from s2l.model.configuration import read_json_object, schedule_of
from s2l.model.finite import ADVICE
from s2l.model.memory import is_out_of_memory
from s2l.model.samplers import ddim

State = dict[str, torch.Tensor]


def quiet() -> None:
    """Turn off the libraries' own progress bars and notes, in this process."""
    diffusers.utils.logging.set_verbosity_error()  # the safety checker is off on purpose
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


# Names that DataParallel, torch.compile and peft put around a module's own.
WRAPPERS = {"module", "_orig_mod", "base_layer"}
PEFT_ROOT = "base_model.model."
# Tensors that belong to a whole CLIP model or to the training of an autoencoder, and that no text encoder or VAE uses.
LEFTOVERS = {
    "unet": re.compile(r"model_ema\."),
    "vae": re.compile(r"loss\.|model_ema\."),
    "text_encoder": re.compile(
        r"embeddings\.position_ids$|text_projection|logit_scale$|vision_model\.|visual_projection\."
    ),
}
# Outside the three networks, the original training code kept its noise schedule, moving averages and counters.
SINGLE_FILE = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.",),
}
SINGLE_FILE_LEFTOVERS = re.compile(
    r"model_ema\.|(sqrt_|log_)?(one_minus_)?(recip_|recipm1_)?alphas_cumprod|sqrt_recip|betas$|posterior_|logvar$|"
    r"lvlb_weights$|global_step$|v_pred$|ztsnr$|denoiser\.|scale_factor$"
)
# What a damaged configuration or file can raise in the libraries.
FAULTS = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError, ArithmeticError,
          NotImplementedError, SafetensorError)  # fmt: skip
OWN = "its configuration"
FEW = 3  # names that a message lists


def load_pipeline(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[StableDiffusionPipeline, list[str]]:
    """The pipeline in `dtype`, and what had to be done to load it, a sentence each.

    Without its safety checker, which would hide what a model leaks. Raises UserError for what cannot be loaded whole.
    """
    notes = list(checkpoint.notes)
    with faults_as_a_sentence(f"{checkpoint.path} cannot be loaded as a Stable Diffusion checkpoint"):
        sources = _from_single_file(checkpoint, notes) if checkpoint.single_file else _from_folder(checkpoint, notes)
        parts = {}
        for part, (module, state) in sources.items():
            fill(module, state, part, checkpoint.path, dtype, notes)
            parts[part] = module
        pipe = StableDiffusionPipeline.from_pretrained(
            checkpoint.config,
            **parts,
            scheduler=ddim(schedule_of(checkpoint.config), checkpoint.predicts),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
    if len(pipe.tokenizer) > (known := pipe.text_encoder.config.vocab_size):
        raise UserError(
            f"the tokenizer of {checkpoint.path} has {len(pipe.tokenizer):,} tokens: the text encoder knows {known:,}, "
            "and there may be no more"
        )
    return pipe, notes


@contextmanager
def faults_as_a_sentence(what: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged files into a UserError that starts with `what`."""
    try:
        yield
    except UserError:
        raise
    except FAULTS as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{what}: {reason}") from error


# --- empty networks and their files --------------------------------------------------------------


def empty(part: str, config: dict) -> nn.Module:
    """The network of a part as its configuration describes it, its parameters without memory."""
    with torch.device("meta"):
        if part == "text_encoder":
            module = CLIPTextModel(CLIPTextConfig.from_dict(config))
        else:
            kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
            module = kind.from_config(config)
    for owner in list(module.modules()):
        if "position_ids" in owner._buffers:  # 0, 1, 2, ...; it is not in the files
            count = torch.arange(owner.position_ids.shape[-1]).unsqueeze(0)
            owner.register_buffer("position_ids", count, persistent=False)
    return module.eval()


def read_tensors(*paths: Path) -> State:
    """All tensors of some .safetensors files."""
    state: State = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            state |= {name: file.get_tensor(name) for name in list(file.keys())}
    return state


def read_finite(path: Path) -> State:
    """All tensors of a file. Raises UserError for a tensor that is quantized, NaN or infinite."""
    state = read_tensors(path)
    for name, tensor in state.items():
        if not tensor.is_floating_point() and tensor.numel() > 1:
            raise UserError(f"{path} holds {name} as {tensor.dtype}: quantized weights are not read")
        if not tensor.float().isfinite().all():
            raise UserError(f"{path} holds NaN or infinity in {name}")
    return state


def _from_folder(checkpoint: Checkpoint, notes: list[str]) -> dict[str, tuple[nn.Module, State]]:
    sources = {}
    for part in LEFTOVERS:
        files, said = part_files(checkpoint.path, part)
        notes += said
        sources[part] = empty(part, read_json_object(checkpoint.path / part / "config.json")), read_tensors(*files)
    return sources


def _from_single_file(checkpoint: Checkpoint, notes: list[str]) -> dict[str, tuple[nn.Module, State]]:
    modules = {part: empty(part, read_json_object(checkpoint.config / part / "config.json")) for part in SINGLE_FILE}
    states = single_file_parts(checkpoint.path, modules, notes)
    for part, prefixes in SINGLE_FILE.items():
        if part not in states:
            needed = f"(no tensor {prefixes[0]}*): a whole checkpoint is needed"
            raise UserError(f"{checkpoint.path} has no {part} {needed}")
    return {part: (modules[part], states[part]) for part in states}


def single_file_parts(path: Path, modules: dict[str, nn.Module], notes: list[str]) -> dict[str, State]:
    """The weights of the parts in a single file under diffusers' names, by diffusers' own conversion.

    `modules` are empty networks, whose configurations the conversion reads. Raises UserError for weights of a part that
    have no place; those of no part are said in `notes`.
    """
    with safe_open(path, "pt") as file:
        names = [name for name in list(file.keys()) if not SINGLE_FILE_LEFTOVERS.match(name)]
        whole = {name: file.get_tensor(name) for name in names}
    states, foreign = {}, set(whole)
    for part, prefixes in SINGLE_FILE.items():
        given = {name: tensor for name, tensor in whole.items() if name.startswith(prefixes)}
        foreign -= given.keys()
        if given:
            states[part] = _converted(part, modules[part], given, path)
    if foreign:
        notes.append(f"{_list(foreign)} in {path.name} belong to no part of the model and are not used")
    return states


def _converted(part: str, module: nn.Module, given: State, path: Path) -> State:
    """Tensors of the original code under diffusers' names. Raises UserError for those that have no place."""
    if part == "unet":
        state = single_file_utils.convert_ldm_unet_checkpoint(dict(given), dict(module.config))
    elif part == "vae":
        state = single_file_utils.convert_ldm_vae_checkpoint(dict(given), dict(module.config))
    elif any(name.startswith(SD2_TEXT) for name in given):
        state = single_file_utils.convert_open_clip_checkpoint(module, dict(given))
    else:
        state = single_file_utils.convert_ldm_clip_checkpoint(dict(given))
    # The conversion reads the names that it knows and ignores all others. A slice keeps the address of its tensor;
    # OpenCLIP's joint projections are copied.
    used = {tensor.data_ptr() for tensor in state.values() if tensor is not None}
    prefixes = "|".join(re.escape(prefix) for prefix in SINGLE_FILE[part])
    own = re.compile(rf"({prefixes})((transformer|model)\.)?(text_model\.)?")
    lost = [
        name
        for name, tensor in given.items()
        if tensor.data_ptr() not in used
        and not LEFTOVERS[part].match(own.sub("", name, count=1))
        and not re.search(r"\.in_proj_(weight|bias)$|transformer\.resblocks\.23\.|\.attn_mask$", name)
    ]
    if lost:
        raise UserError(f"{path} holds weights that the {part} has no place for: {_list(lost)}")
    return state


# --- accounting ----------------------------------------------------------------------------------


def _list(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _bare(name: str, part: str) -> str:
    """A tensor's name without the wrappers around its module."""
    name = name.removeprefix(PEFT_ROOT)
    bare = ".".join(word for word in name.split(".") if word not in WRAPPERS)
    return bare.removeprefix(f"{part}.")


def match_names(wanted: Iterable[str], given: Iterable[str], part: str) -> tuple[dict[str, str], list[str], bool]:
    """({wanted name: given name}, given names that have no place, whether wrappers were taken off).

    Some versions of transformers put CLIP's text model under `text_model.`: names with and without it are the same.
    """
    wanted, given = set(wanted), list(given)
    places = {name.removeprefix("text_model."): name for name in wanted}
    exact = {places[n]: name for name in given if (n := name.removeprefix("text_model.")) in places}
    matched, left, unwrapped, placed = dict(exact), [], False, set(exact.values())
    for name in given:
        if name in placed:
            continue
        bare = _bare(name, part).removeprefix("text_model.")
        place = places.get(bare)
        if place is not None and place not in matched:
            matched[place], unwrapped = name, True
        elif not LEFTOVERS[part].match(bare):
            left.append(name)
    return matched, left, unwrapped


def fill(
    module: nn.Module, state: State, part: str, source: Path, dtype: torch.dtype, notes: list[str], like: str = OWN
) -> None:
    """Give an empty network its weights, in `dtype`. Raises UserError unless each one has its place.

    `like` says for the message where the network's architecture comes from.
    """
    if hasattr(module, "_fix_state_dict_keys_on_load"):
        module._fix_state_dict_keys_on_load(state)  # attention layers of autoencoders before diffusers 0.18
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    matched, left, unwrapped = match_names(expected, state, part)
    missing = expected.keys() - matched.keys()
    faults = [f"lacks {_list(missing)}"] if missing else []
    if left:
        faults.append(f"holds {_list(left)}, which the {part} has no place for")
    wrong = [name for name, given in matched.items() if state[given].shape != expected[name]]
    faults += [
        f"holds {name} of shape {tuple(state[matched[name]].shape)} where {like} has {tuple(expected[name])}"
        for name in wrong[:1]
    ]
    if faults:
        raise UserError(f"the {part} of {source} cannot be loaded, because unlike {like} it "
                        f"{'; it '.join(faults)}")  # fmt: skip
    if unwrapped:
        notes.append(f"the {part}'s weights were saved inside a wrapper (such as `module.`): it was taken off")
    weights = {}
    for name, given in matched.items():
        tensor = state.pop(given)
        if not tensor.is_floating_point():
            raise UserError(f"the {part} of {source} holds {given} as {tensor.dtype}: quantized weights are not read")
        weights[name] = tensor.to(dtype, copy=True)
        if not weights[name].isfinite().all():
            stage = f"as {str(dtype).removeprefix('torch.')}" if tensor.float().isfinite().all() else "in the file"
            advice = ADVICE.get(dtype, "") if stage.startswith("as") else ""
            raise UserError(f"the {part} of {source} holds NaN or infinity in {given} {stage}{advice}")
    module.load_state_dict(weights, strict=True, assign=True)
    if any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        raise UserError(f"the {part} of {source} is of a kind that is not supported: it holds more than its weights")
