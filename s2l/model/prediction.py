"""What a single .safetensors file predicts: epsilon or v. Loads no torch.

The format has no field for it. Trainers leave it in a key without numbers (`v_pred`, `ztsnr`), in the file's metadata
(https://github.com/Stability-AI/ModelSpec: `modelspec.prediction_type`), or in a file of the same name beside it: the
original code's NAME.yaml (`parameterization: "v"`), or NAME.json with a trainer's settings. All of them are read, and
must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s2l.errors import UserError
from s2l.model.configuration import LARGEST_JSON, SUPPORTED, ZERO_SNR, read_json_object, stated_prediction
from s2l.model.headers import Header

WORDS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction",
         "v-prediction": "v_prediction", "v_pred": "v_prediction"}  # fmt: skip
# Names of the setting, and of switches that turn v-prediction and a schedule without signal at its end on.
SETTINGS = ("prediction_type", "modelspec.prediction_type", "parameterization")
V_SWITCHES = ("v_pred", "v_parameterization")
ZERO_SNR_SWITCHES = ("ztsnr", "zero_terminal_snr", "rescale_betas_zero_snr", "ss_zero_terminal_snr")
V_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"
SD2_V_PIXELS = 768  # from this size on, Stable Diffusion 2.x predicts v
V_ARCHITECTURE = "-768-v"  # how the architecture "stable-diffusion-v2-768-v" ends
YAML_LINE = re.compile(r"""^\s*(?:-\s+)?["']?([\w.]+)["']?\s*:\s*["']?([\w.-]+)["']?\s*(?:#.*)?$""", re.MULTILINE)

Claim = tuple[str, str]  # what is predicted ("zero-snr" for a schedule without signal), and who says so


def read_prediction(path: Path, header: Header, folder: Path | None) -> tuple[str | None, tuple[str, ...]]:
    """(what the file predicts, None if nobody says it; the sentence that tells how that is known, if need be).

    `folder` is the configuration that was put beside the file. Raises UserError for sources that contradict each other,
    for predictions that are not supported and for a side file that cannot be read.
    """
    claims = list(_claims(path, header, folder))
    if zero := [source for claim, source in claims if claim == "zero-snr"]:
        raise UserError(f"{path} holds {ZERO_SNR} (says {zero[0]}); {SUPPORTED}")
    said: dict[str, str] = {}
    for claim, source in claims:
        if claim not in WORDS.values():
            raise UserError(f"{path} holds a model that predicts {claim!r} (says {source}); {SUPPORTED}")
        said.setdefault(claim, source)
    if len(said) > 1:
        contradiction = ", but ".join(f"{claim} says {source}" for claim, source in said.items())
        raise UserError(f"it is not clear what {path} predicts: {contradiction}; make them agree, or remove one")
    if not said:
        return None, ()
    ((prediction, source),) = said.items()
    beside = folder is not None and stated_prediction(folder) is not None
    return prediction, () if beside else (f"it predicts {prediction}, says {source}",)


def assumed_prediction(sd2: Path | None) -> tuple[str, str]:
    """(what a file predicts that says nothing, why), given its configuration if it is Stable Diffusion 2.x.

    Of 2.x, the models for 768 pixels were trained to predict v and those for 512 (2-base, 2-1-base) epsilon.
    """
    if sd2 is None:
        return "epsilon", "as in Stable Diffusion 1.x"
    side = read_json_object(sd2 / "unet" / "config.json").get("sample_size", 0)
    pixels = side * 2 ** (len(read_json_object(sd2 / "vae" / "config.json")["block_out_channels"]) - 1)
    prediction = "v_prediction" if pixels >= SD2_V_PIXELS else "epsilon"
    return prediction, f"as in Stable Diffusion 2.x for {pixels} pixels"


def _claims(path: Path, header: Header, folder: Path | None) -> Iterator[Claim]:
    if V_KEY in header.shapes:
        yield "v_prediction", f"its key {V_KEY}"
    if ZERO_SNR_KEY in header.shapes:
        yield "zero-snr", f"its key {ZERO_SNR_KEY}"
    yield from _settings(header.metadata, "its metadata")
    if str(header.metadata.get("modelspec.architecture")).endswith(V_ARCHITECTURE):
        yield "v_prediction", "modelspec.architecture in its metadata"
    if (side := path.with_suffix(".json")).exists():
        yield from _settings(_flat(_readable(side, read_json_object)), side.name)
    for side in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if side.exists():
            found = dict(YAML_LINE.findall(_readable(side, _text)))
            yield from _settings(found, side.name)
    if folder is not None and (stated := stated_prediction(folder)) is not None:
        yield stated, f"the scheduler configuration in {folder.name}/"


def _text(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise UserError("no file of settings")
    return path.read_text(encoding="utf-8")


def _readable(side: Path, read):
    try:
        return read(side)
    except (OSError, ValueError):
        raise UserError(
            f"{side} may say what the model beside it predicts, but cannot be read: mend or remove it"
        ) from None


def _flat(nested: dict) -> dict[str, Any]:
    """The settings of all levels by their last names."""
    flat: dict[str, Any] = {}
    levels = [nested]
    while levels:
        for name, value in levels.pop().items():
            if isinstance(value, dict):
                levels.append(value)
            else:
                flat[name] = value
    return flat


def _settings(values: Mapping[str, Any], source: str) -> Iterator[Claim]:
    """What settings say by any of their names, in the order of the names."""
    for name in SETTINGS:
        if (value := values.get(name)) is not None:
            yield WORDS.get(str(value).strip().lower(), str(value)), f"{name} in {source}"
    for name in V_SWITCHES:
        if (value := values.get(name)) is not None:
            yield "v_prediction" if _on(value) else "epsilon", f"{name} in {source}"
    for name in ZERO_SNR_SWITCHES:
        if _on(values.get(name)):
            yield "zero-snr", f"{name} in {source}"


def _on(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "1", "yes", "on")
