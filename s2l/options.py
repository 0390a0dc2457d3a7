"""The options of `python -m s2l run` and `audit`, as a table: from options to a RunConfig and back.

The way back matters too: every report ends with the command that reproduces it, and that command is checked here by
building the run from it and comparing.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic.fields import FieldInfo

from s2l.config import PRESETS, AuditRunConfig, FineTuneConfig, RunConfig, Settings, checked, preset
from s2l.errors import UserError
from s2l.finetune import catalogue
from s2l.pipeline import identity

MAX_SEED = 1_000_000
SEED_STRIDE = 1_000_000  # between two runs' image seeds; more than an SP set and a gallery can use

# Option -> the fields of RunConfig that it sets. An option that is not given leaves the preset's value.
FIELDS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "members": ("domain.members",),
    "nonmembers": ("domain.nonmembers",),
    "n-nonmembers": ("domain.n_nonmembers",),
    "calibration-share": ("domain.calibration_share",),
    "prompt": ("sp_set.prompts",),
    "set-size": ("sp_set.set_size",),
    "together": ("sp_set.together",),
    "guidance": ("sp_set.sampler.guidance_scale", "extraction.sampler.guidance_scale"),
    "mitigation": ("extraction.sampler.mitigation",),
    "method": ("finetune.methods",),
    "steps": ("finetune.max_train_steps",),
    "learning-rate": ("finetune.learning_rate",),
    "rank": ("finetune.settings.lora.rank",),
    "train-batch-size": ("finetune.train_batch_size",),
    "epsilon": ("finetune.epsilon",),
    "attacks": ("audit.attacks",),
    "noise": ("audit.noise",),
    "latents": ("audit.latents",),
    "n-generations": ("extraction.n_generations",),
    "seed-pool": ("extraction.seed_pool",),
    "guidance-w": ("extraction.guidance_w",),
    "unshake": ("unshake.w",),
    "unshake-space": ("unshake.space",),
    "seed": ("domain.seed", "sp_set.seed", "finetune.seed", "audit.seed", "extraction.seed"),
}
# Options that only some commands have. They are listed for error messages only.
OTHER_FIELDS = {"domain": ("domain.name",), "delta": ("extraction.delta",), "k": ("extraction.k",)}


def declaration(path: str) -> FieldInfo:
    """The field of RunConfig or of a method's settings at a path, with its title, help and bounds.

    Raises KeyError if there is none, as for the settings of attacks.
    """
    *sections, name = path.split(".")
    kind: type[Settings] = RunConfig
    while sections:
        section = sections.pop(0)
        if kind is FineTuneConfig and section == "settings":
            kind = catalogue.FINETUNERS[sections.pop(0)].settings
            continue
        inner = kind.model_fields[section].annotation
        if isinstance(inner, UnionType):  # a section that may be off: UnshakeConfig | None
            inner = inner.__args__[0]
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            raise KeyError(path)
        kind = inner
    return kind.model_fields[name]


def help_of(option: str) -> str:
    """The help of the field that an option sets."""
    return declaration((FIELDS | OTHER_FIELDS)[option][0]).description or ""


def _get(values: dict, field: str):
    """The value at a path; None if there is none, as for a setting of a method that is not used."""
    value: Any = values
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _set(values: dict, field: str, value) -> None:
    *sections, last = field.split(".")
    for part in sections:
        values = values.setdefault(part, {})
    values[last] = value


def _seed_fields(seed: int) -> dict[str, int]:
    """One --seed shifts every seed of a run; 0 gives the defaults. SP set and generations never share a seed."""
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed: {seed} is not between 0 and {MAX_SEED:,}")
    image = seed * SEED_STRIDE
    default = RunConfig(domain={"name": "x"})
    return {
        "domain.seed": seed,
        "sp_set.seed": default.sp_set.seed + image,
        "finetune.seed": seed,
        "audit.seed": seed,
        "extraction.seed": default.extraction.seed + image,
    }


def run_config(preset_name: str, domain: str, options: dict) -> RunConfig:
    """The RunConfig of `run --preset --domain` with the other options, keyed as in FIELDS.

    `options["method"]` and `options["attacks"]` are tuples of names. None means that an option is not
    given. Raises UserError with the field at fault (`in_options` names its option).
    """
    over: dict = {}
    for option, value in options.items():
        if value is None:
            continue
        if option == "seed":
            values: dict[str, Any] = dict(_seed_fields(value))
        elif option == "prompt":
            values = {"sp_set.prompts": [{"template": value}]}
        else:
            values = dict.fromkeys(FIELDS[option], value)
        for field, field_value in values.items():
            _set(over, field, field_value)
    config = checked_preset(preset_name, {"name": domain} | over.pop("domain", {}), **over)
    check_step(options.get("unshake"), options.get("unshake-space"))
    return config


def check_step(w: float | None, space: str | None) -> None:
    """How far to un-shake is never assumed. Raises UserError for --unshake-space alone."""
    if space is not None and w is None:
        raise UserError("--unshake-space says where the step of --unshake is made: give --unshake W with it, such as 1")


def checked_preset(name: str, domain: str | dict, **overrides) -> RunConfig:
    """`preset` with the settings of its fine-tuning methods checked too. Raises UserError with the field at fault."""
    config = preset(name, domain, **overrides)
    try:
        catalogue.spelled_out(config.finetune)
    except UserError as error:
        raise UserError(error.reason, f"finetune.{error.field}" if error.field else None) from None
    return config


def audit_config(preset_name: str, domain: str, tuned: str, options: dict) -> AuditRunConfig:
    """The AuditRunConfig of `audit --preset --domain --tuned` with the other options, keyed as in FIELDS."""
    full = run_config(preset_name, domain, options)
    shared = {name: getattr(full, name) for name in ("model", "preset", "domain", "audit", "extraction", "unshake")}
    return AuditRunConfig(tuned=tuned, **shared)


def in_options(error: UserError) -> str:
    """The message of an error with the option that sets the field at fault: "--set-size: should be ..."."""
    return error.named(_option_of(error.field))


def _option_of(field: str | None) -> str | None:
    """ "sp_set.set_size" -> "--set-size"; None for a field that no option sets."""
    for option, fields in (FIELDS | OTHER_FIELDS).items():
        # pydantic adds list indices: sp_set.prompts.0.template
        if field is not None and any(field == f or field.startswith(f + ".") for f in fields):
            return f"--{option}"
    return None


def read_config(path: str | Path, kind: type[Settings] = RunConfig):
    """A RunConfig (or `kind`) from a JSON file: the settings themselves, or a result.json that has them in "config"."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"--config: {path} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"--config: {path} holds no settings: a JSON object with a 'domain' is needed")
    for command, other in (("run", RunConfig), ("audit", AuditRunConfig)):
        if values.get("kind") == command and kind is not other:
            raise UserError(f"--config: {path} is the result of `{command}`: give it to `python -m s2l {command}`")
    try:
        return checked(kind, values.get("config", values))
    except UserError as error:  # the file set this field, not an option
        raise UserError(f"--config: {path}: {error}") from None


def _differing_options(config: RunConfig) -> dict:
    """The options in which a config differs from its preset."""
    base, values = (_with_defaults(c).model_dump() for c in (preset(config.preset, config.domain.name), config))
    options: dict = {}
    for option, fields in FIELDS.items():
        if _get(values, fields[0]) is None or all(_get(values, f) == _get(base, f) for f in fields):
            continue
        value = _get(values, fields[0])
        if option == "unshake-space" and value == declaration(fields[0]).default:
            continue  # --unshake alone means it
        options[option] = value[0]["template"] if option == "prompt" else value
    return options


def reproduce_command(config: RunConfig | AuditRunConfig, out: str = "DIR", dtype: str = "auto") -> str:
    """The shortest `python -m s2l run ...` (or `audit ...`) that gives this configuration.

    `dtype` is the precision that a result was computed in: "auto" is not the same on every machine. Falls back to
    `--config result.json` when no options can express the configuration.
    """
    command = "audit" if isinstance(config, AuditRunConfig) else "run"
    program, name = ["python", "-m", "s2l", command], config.domain.name
    ending = [*(["--dtype", dtype] if dtype != "auto" else []), "--out", out]
    options = _options_of(config) if config.preset in PRESETS else None
    if options is None:
        return shlex.join([*program, "--config", "result.json", *ending])
    words = [*program, "--domain", name]
    if isinstance(config, RunConfig):
        words += ["--method", "+".join(config.finetune.methods)]
    else:
        words += ["--tuned", config.tuned]
    words += ["--preset", config.preset]
    for option, value in options.items():
        if option != "method":
            words += [f"--{option}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join([*words, *ending])


def _options_of(config: RunConfig | AuditRunConfig) -> dict | None:
    """The options that give this configuration, or None when no options do."""
    name = config.domain.name
    try:
        if isinstance(config, RunConfig):
            options = _differing_options(config)
            return options if _same(run_config(config.preset, name, options), config) else None
        options = _differing_options(_as_run(config))
        return options if _same(audit_config(config.preset, name, config.tuned, options), config) else None
    except UserError:
        return None


def _with_defaults(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"finetune": catalogue.spelled_out(config.finetune)})


def _same(one: RunConfig | AuditRunConfig, other: RunConfig | AuditRunConfig) -> bool:
    """Whether two configurations mean the same run: a record spells out the defaults, options leave them out."""
    return one == other or identity.spelled_out(one) == identity.spelled_out(other)


def _as_run(config: AuditRunConfig) -> RunConfig:
    """The preset's run with the audit's sections in it; the other sections stay the preset's."""
    base, guidance = preset(config.preset, config.domain.name), config.extraction.sampler.guidance_scale
    shared = {name: getattr(config, name) for name in ("model", "domain", "audit", "extraction", "unshake")}
    if guidance != base.extraction.sampler.guidance_scale:  # --guidance sets it for the SP set too
        sampler = base.sp_set.sampler.model_copy(update={"guidance_scale": guidance})
        shared["sp_set"] = base.sp_set.model_copy(update={"sampler": sampler})
    return base.model_copy(update=shared)
