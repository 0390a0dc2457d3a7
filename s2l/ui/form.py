"""The fields of the page and the RunConfig they stand for, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from s2l.config import PRESETS, PromptPart, RunConfig, preset
from s2l.errors import UserError, unknown
from s2l.finetune import parse, spelled_out
from s2l.labs import default_lab, find_lab
from s2l.options import checked_preset, declaration
from s2l.prompts import check_prompt, replace_name

FIRST_PRESET = "demo"
APP_PRESETS = {
    "demo": "demo: a real measurement; takes a few minutes",
    "quick": "quick: a few pictures in seconds; too small for conclusions",
}


@dataclass(frozen=True)
class Field:
    """One plain field: its path in RunConfig, where its label and the largest value on the page are declared."""

    path: str
    own_label: str = ""
    zero_is_none: bool = False  # 0 stands for "not given"

    @property
    def declared(self) -> FieldInfo:
        return declaration(self.path)

    @property
    def label(self) -> str:
        return self.own_label or self.declared.title or ""

    @property
    def most(self) -> float | None:
        """The most that the app allows; None: as much as the command line."""
        extra = self.declared.json_schema_extra
        bound = extra.get("app_max") if isinstance(extra, dict) else None
        return bound if isinstance(bound, int | float) else None

    @property
    def method(self) -> str | None:
        """The fine-tuning method that has this setting; None for what all runs share."""
        return self.path.split(".")[2] if self.path.startswith("finetune.settings.") else None


FIELDS = {
    "n_nonmembers": Field("domain.n_nonmembers"),
    "set_size": Field("sp_set.set_size"),
    "guidance_scale": Field("sp_set.sampler.guidance_scale"),
    "suffix": Field("sp_set.suffix"),
    "negative_prompt": Field("sp_set.sampler.negative_prompt"),
    "sp_seed": Field("sp_set.seed"),
    "scheduler": Field("sp_set.sampler.scheduler"),
    "num_inference_steps": Field("sp_set.sampler.num_inference_steps"),
    "max_train_steps": Field("finetune.max_train_steps"),
    "learning_rate": Field("finetune.learning_rate", zero_is_none=True),
    "rank": Field("finetune.settings.lora.rank"),
    "num_vectors": Field("finetune.settings.textual_inversion.num_vectors"),
    "prior_loss_weight": Field("finetune.settings.dreambooth.prior_loss_weight"),
    "noise_sigma": Field("finetune.settings.gaussian_noise.noise_sigma"),
    "train_batch_size": Field("finetune.train_batch_size"),
    "lora_alpha": Field("finetune.settings.lora.lora_alpha"),
    "weight_decay": Field("finetune.weight_decay"),
    "ema_decay": Field("finetune.ema_decay"),
    "train_text_encoder": Field("finetune.train_text_encoder"),
    "finetune_seed": Field("finetune.seed"),
    "attacks": Field("audit.attacks"),
    "n_generations": Field("extraction.n_generations"),
    "extraction_guidance": Field("extraction.sampler.guidance_scale", "Guidance of the generations"),
    "delta": Field("extraction.delta"),
    "unshake": Field("unshake.w"),
    "unshake_space": Field("unshake.space"),
}
# What these show while un-shake is off: an empty w says so.
OFF: dict[str, object] = {"unshake": None, "unshake_space": "weights"}
# These are not plain fields; `config_of` and `values_of` handle them.
SPECIAL = ("person", "prompt", "prompt2", "share", "preset", "methods")


def checked_value(name: str, value: Any) -> Any:
    """The value of a plain field, no more than the page allows. Raises UserError that begins with the field's label."""
    field = FIELDS[name]
    if value is None or value == []:
        raise UserError(f"{field.label} is empty: enter a value")
    if field.most is not None and isinstance(value, int | float) and value > field.most:
        raise UserError(
            f"{field.label} is at most {field.most:,} on this page (given: {value:,}); "
            "the command line has no such limit"
        )
    return tuple(value) if isinstance(value, list) else value


def _get(values: dict, path: str):
    for part in path.split("."):
        values = values[part]
    return values


def _set(values: dict, path: str, value) -> None:
    *sections, last = path.split(".")
    for part in sections:
        values = values.setdefault(part, {})
    values[last] = value


def _parts(form: dict) -> list[dict]:
    """The prompts of the SP set: the first from the Target tab, perhaps a second one."""
    first = replace_name(check_prompt(str(form["prompt"] or "")), form["person"], "{name}")
    second, share = str(form["prompt2"] or "").strip(), float(form["share"])
    if not second or share >= 100:
        return [{"template": first}]
    second = replace_name(check_prompt(second), form["person"], "{name}")
    if share <= 0:
        return [{"template": second}]
    return [{"template": first, "weight": share / 100}, {"template": second, "weight": (100 - share) / 100}]


def fixed_prompts(own: dict | None, own_prompts: bool) -> bool:
    """Whether a visitor's own model gets fixed prompts: a real one does, unless the server's owner allows others."""
    return own is not None and bool(own["name"]) and not own_prompts and find_lab(own["model"]) is None


FIXED_PROMPTS = [{"template": "a photo of {name}", "weight": 0.7}, {"template": "a face of {name}", "weight": 0.3}]


def config_of(form: dict, names: list[str], own: dict | None = None, own_prompts: bool = False) -> RunConfig:
    """The run that the page describes. Raises UserError with one sentence about the first invalid field.

    `own` is a model of the visitor's own ({"model", "name", "members", "nonmembers"}). Their own prompt goes with it
    only where the server's owner allowed that (`own_prompts`).
    """
    if own is not None and not own["name"]:
        own = None
    if form["person"] not in names:
        raise unknown("person", form["person"], names)
    if form["preset"] not in APP_PRESETS:
        raise unknown("size", form["preset"], APP_PRESETS)
    over: dict = {}
    methods = parse(str(form["methods"]))
    for name, field in FIELDS.items():
        value = form[name]
        if field.method is not None and (field.method not in methods or value == field.declared.default):
            continue
        if field.zero_is_none and value == 0:
            continue
        if name in OFF and form["unshake"] is None:
            continue
        _set(over, field.path, checked_value(name, value))
    parts = FIXED_PROMPTS if fixed_prompts(own, own_prompts) else _parts(form)
    _set(over, "sp_set.prompts", parts)
    _set(over, "extraction.prompts", [{"template": parts[0]["template"]}])
    _set(over, "finetune.methods", methods)
    domain = {"name": form["person"]} | over.pop("domain")
    if own is not None:
        domain |= {"name": own["name"], "members": own["members"], "nonmembers": own["nonmembers"]}
    try:
        return checked_preset(form["preset"], domain, model=own["model"] if own is not None else None, **over)
    except UserError as error:
        raise UserError(in_words(error)) from None


def in_words(error: UserError, section: str = "") -> str:
    """The message of an error, with the label of the invalid field: "Set size: should be ...".

    `section` names the section that was checked if it was only one: "finetune".
    """
    path = f"{section}.{error.field}" if section else error.field
    return error.named(next((field.label for field in FIELDS.values() if field.path == path), None))


SECTIONS = {
    "domain": "photos", "sp_set": "SP set", "finetune": "fine-tuning", "audit": "attacks", "extraction": "generations",
    "unshake": "model after",
}  # fmt: skip


def setting_in_words(path: str) -> str:
    """ "finetune.max_train_steps" -> "Steps (fine-tuning)"; the settings of attacks keep their own words."""
    section, dot, rest = path.partition(".")
    try:
        title = declaration(path).title
    except KeyError:
        title = None
    if not dot or section not in SECTIONS:
        return title or path.replace("_", " ").capitalize()
    own_words = rest.removeprefix("settings.").replace("_", " ").replace(".", ", ").capitalize()
    return f"{title or own_words} ({SECTIONS[section]})"


def value_in_words(value: object) -> str:
    """A setting's value as a visitor reads it: prompts as texts, no brackets, and no None."""
    if value is None:
        return "the default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        prompts = (f"“{x['template']}” (weight {x['weight']:g})" if isinstance(x, dict) else str(x) for x in value)
        return ", ".join(prompts)
    return str(value)


def values_of(config: RunConfig) -> dict:
    """What the fields show for a configuration."""
    values = config.model_copy(update={"finetune": spelled_out(config.finetune)}).model_dump(mode="json")
    form: dict[str, object] = {}
    for name, field in FIELDS.items():
        if name in OFF and config.unshake is None:
            form[name] = OFF[name]
            continue
        unused = field.method is not None and field.method not in config.finetune.methods
        form[name] = field.declared.default if unused else _get(values, field.path)
    form |= {name: form[name] or 0 for name, field in FIELDS.items() if field.zero_is_none}
    name, parts = config.domain.name, config.sp_set.prompts
    texts = [part.template.replace("{name}", name) for part in parts]
    total = sum(part.weight for part in parts)
    return form | {
        "person": name,
        "preset": config.preset if config.preset in APP_PRESETS else FIRST_PRESET,
        "prompt": texts[0],
        "prompt2": texts[1] if len(texts) > 1 else "",
        "share": round(100 * parts[0].weight / total) if len(texts) > 1 else 100,
        "methods": "+".join(config.finetune.methods),
    }


def preset_values(name: str, person: str) -> dict:
    """What the fields show for a preset."""
    return values_of(preset(name if name in PRESETS else FIRST_PRESET, person))


def prompt_parts(form: dict, fixed: bool = False) -> tuple[PromptPart, ...]:
    """The prompts of the SP set: those of the page, or (`fixed`) the ones that visitors' own models get."""
    return tuple(PromptPart(**part) for part in (FIXED_PROMPTS if fixed else _parts(form)))


def rename(text: str, names: list[str], name: str) -> str:
    """A prompt with `name` in place of the other people's names."""
    for other in names:
        text = replace_name(text, other, name)
    return text


def remarks(prompt: str, name: str) -> tuple[list[str], bool]:
    """(words that no caption of the lab has, whether the prompt has the name)."""
    return default_lab().unknown_words(prompt), replace_name(prompt, name, "\0") != prompt
