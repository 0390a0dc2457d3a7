"""The configurations of a checkpoint's parts, checked before any weight is read. Loads no torch.

What the adapter cannot run, and parts whose sizes do not fit together, is refused in one sentence that says what is
allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l.errors import UserError
from s2l.model.headers import parse_json
from s2l.model.schedule import Schedule, read_schedule, schedule_notes

DEFAULT_HUB_MODEL = "CompVis/stable-diffusion-v1-1"  # the paper's
SUPPORTED = (
    "supported: 'lab' or 'lab:NAME' (see `labs`); Stable Diffusion 1.x or 2.x text-to-image (epsilon or v-prediction) "
    "as a folder in diffusers layout, as a single .safetensors file, or as a hub id such as "
    f"{DEFAULT_HUB_MODEL} or OWNER/NAME@REVISION (hub:OWNER/NAME if there is a folder of that name)"
)
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
PREDICTIONS = ("epsilon", "v_prediction")
ZERO_SNR = "a model with zero terminal signal-to-noise ratio, where no noise can be read off a prediction"
FURTHER_CONDITIONS = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
SCALING = 0.18215  # of Stable Diffusion 1.x and 2.x
LARGEST_JSON = 20_000_000  # bytes of a configuration
LATENT_CHANNELS = 4
LARGEST_SAMPLE = 256  # side of a latent: pictures of 2048 pixels
LARGEST_VAE_LEVELS = 6  # resolutions of an autoencoder: pixels are up to 32 times finer than latents


def read_json_object(path: Path) -> dict:
    """A configuration. Raises UserError for what is no regular file of a JSON object with finite numbers."""
    if not path.is_file():
        raise UserError(f"{path} is missing: a file of JSON is needed there")
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path} is no configuration: it is larger than {LARGEST_JSON:,} bytes")
    try:
        values = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object ({{...}}) but a {type(values).__name__}")
    return values


def check_configuration(folder: Path) -> None:
    """Refuse a folder whose parts the adapter does not know, or that do not fit together.

    Raises UserError with what is supported or allowed.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"{folder} holds {what}; {SUPPORTED}")

    index = read_json_object(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind is None:
        raise UserError(f"{folder} is not a checkpoint: its model_index.json names no pipeline")
    if kind != "StableDiffusionPipeline":
        raise refuse(f"a {kind}, not a StableDiffusionPipeline")
    for part, wanted in PARTS.items():
        given = _class_of(index, part)
        if given != wanted:
            raise refuse(f"the {part} {given}, not {wanted}")
    unet, vae, text_encoder = (read_json_object(folder / part / "config.json") for part in PARTS)
    for side, channels in (("input", unet.get("in_channels", 4)), ("output", unet.get("out_channels", 4))):
        if channels != LATENT_CHANNELS:
            raise refuse(f"a UNet with {channels} {side} channels (inpainting, upscaling), not {LATENT_CHANNELS}")
    if any(unet.get(name) for name in FURTHER_CONDITIONS):
        raise refuse("a UNet with further conditions (unCLIP, SDXL, a distilled guidance)")
    _check_sizes(folder, unet, vae, text_encoder)
    scheduler = read_json_object(folder / "scheduler" / "scheduler_config.json")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise refuse(f"a model that predicts {prediction!r}")
    if scheduler.get("rescale_betas_zero_snr"):
        raise refuse(ZERO_SNR)
    schedule_of(folder)


def schedule_of(folder: Path) -> Schedule:
    """The noise schedule of a folder in diffusers layout. Raises UserError for what makes none."""
    config = read_json_object(folder / "scheduler" / "scheduler_config.json")
    try:
        return read_schedule(config, _class_of(read_json_object(folder / "model_index.json"), "scheduler"))
    except ValueError as error:
        raise UserError(f"the scheduler configuration of {folder} has {error}") from None


def assumptions(folder: Path) -> list[str]:
    """What is assumed because the configuration of a checked folder does not say it, a sentence each."""
    config = read_json_object(folder / "scheduler" / "scheduler_config.json")
    notes = schedule_notes(config, _class_of(read_json_object(folder / "model_index.json"), "scheduler"))
    if "scaling_factor" not in read_json_object(folder / "vae" / "config.json"):
        notes.append(f"the configuration of its vae has no scaling_factor: {SCALING} counts, as in Stable Diffusion")
    return notes


def stated_prediction(folder: Path) -> str | None:
    """What the scheduler's configuration says that the model predicts; None if it says nothing."""
    return read_json_object(folder / "scheduler" / "scheduler_config.json").get("prediction_type")


def _class_of(index: dict, part: str) -> str | None:
    """The class that model_index.json names for a part."""
    entry = index.get(part)
    given = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    return given if isinstance(given, str) else None


def _check_sizes(folder: Path, unet: dict, vae: dict, text_encoder: dict) -> None:
    """Raises UserError where a size is none, or where two parts do not fit together. Defaults are the libraries'."""

    def refuse(part: str, field: str, value: Any, allowed: str) -> UserError:
        return UserError(f"the configuration of the {part} in {folder} has {field} {value!r}: {allowed}")

    side = unet.get("sample_size")
    if side is None or not _is_count(side) or side > LARGEST_SAMPLE:
        allowed = f"a whole number from 1 to {LARGEST_SAMPLE}, the side of a latent, is needed (64 in SD 1.x)"
        raise refuse("unet", "sample_size", side, allowed)
    channels = vae.get("latent_channels", LATENT_CHANNELS)
    if channels != LATENT_CHANNELS:
        raise refuse("vae", "latent_channels", channels, f"the UNet works on {LATENT_CHANNELS}")
    for field in ("in_channels", "out_channels"):
        if vae.get(field, 3) != 3:
            raise refuse("vae", field, vae[field], "pictures have 3")
    levels = vae.get("block_out_channels")
    if not (isinstance(levels, list) and 0 < len(levels) <= LARGEST_VAE_LEVELS and all(map(_is_count, levels))):
        raise refuse("vae", "block_out_channels", levels, f"1 to {LARGEST_VAE_LEVELS} whole numbers are needed")
    scale = vae.get("scaling_factor", SCALING)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or scale <= 0:
        raise refuse("vae", "scaling_factor", scale, f"a number above 0 is needed ({SCALING} in SD 1.x and 2.x)")
    for field in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(field) is not None:
            raise refuse("vae", field, vae[field], "only latents that are scaled by scaling_factor alone are supported")
    width = text_encoder.get("hidden_size", 512)
    across = unet.get("cross_attention_dim", 1280)
    if any(one != width for one in (across if isinstance(across, list) else [across])):
        allowed = f"it must be the text encoder's hidden_size, {width!r}"
        raise refuse("unet", "cross_attention_dim", across, allowed)
    positions = text_encoder.get("max_position_embeddings", 77)
    longest = read_json_object(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length")
    if longest is None or not _is_count(longest) or not _is_count(positions) or longest > positions:
        allowed = f"a whole number up to the text encoder's max_position_embeddings, {positions!r}, is needed"
        raise refuse("tokenizer", "model_max_length", longest, allowed)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
