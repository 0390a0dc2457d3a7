"""Frozen settings, one model a stage. A run is decided by them and nothing else.

They round-trip through JSON, and `keys.key_of` turns them into the name under which a stage's result
is cached. What only changes speed (device, batch sizes of inference) is *not* here: see `Runtime`
in model/diffusion.py.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from s2l.errors import UserError, unknown

SCHEMA_VERSION = 1
MAX_PROMPT_CHARACTERS = 1000
MAX_IMAGES = 100_000

LAB = "lab"  # the embedded model: assets/labs


def check_prompt(prompt: str) -> str:
    """A prompt is one line of 1 to 1,000 characters; returns it stripped."""
    prompt = prompt.strip()
    if not prompt:
        raise UserError("the prompt is empty: write a few words, such as 'a photo of Mira Solwyn'")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise UserError(f"the prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are allowed")
    return prompt


def replace_name(caption: str, name: str, by: str) -> str:
    """`by` in place of `name` wherever the caption says it as whole words, in any case."""
    if not name:
        return caption
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: by, caption, flags=re.IGNORECASE)


class Settings(BaseModel):
    """Base of every settings model: immutable, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class PromptPart(Settings):
    """One prompt of a mix. `{name}` in the template stands for the domain's name."""

    template: str
    weight: float = Field(1.0, gt=0)

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_prompt(value)


class DomainConfig(Settings):
    """Whose photos are at stake, and which of them the attacks are judged on.

    For the lab a name is enough. For a checkpoint of your own give folders: `members` and
    `nonmembers` (images, optional captions.jsonl). Without folders there is no ROC.
    """

    name: str
    members: str | None = None
    nonmembers: str | None = None
    n_members: int | None = Field(None, ge=1, le=MAX_IMAGES)  # None: all there are
    n_nonmembers: int = Field(100, ge=1, le=MAX_IMAGES)  # the lab's supply of held-out photos is unlimited
    calibration_share: float = Field(0.0, ge=0, lt=1)  # of both, set aside at random to choose thresholds and weights
    seed: int = 0

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_prompt(value)


class SamplerConfig(Settings):
    """How pictures are generated. Field names as in diffusers."""

    scheduler: Literal["ddim", "dpmsolver"] = "dpmsolver"
    num_inference_steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0, le=50)
    negative_prompt: str = Field("", max_length=MAX_PROMPT_CHARACTERS)


class SPSetConfig(Settings):
    """The synthetic private set: prompts in a weighted mix, one seed an image."""

    prompts: tuple[PromptPart, ...] = (
        PromptPart(template="a photo of {name}", weight=0.7),
        PromptPart(template="a face of {name}", weight=0.3),
    )
    suffix: str = Field("", max_length=MAX_PROMPT_CHARACTERS)
    set_size: int = Field(128, ge=1, le=MAX_IMAGES)
    sampler: SamplerConfig = SamplerConfig()
    seed: int = Field(1000, ge=0)


# Spellings of the original authors and short forms.
METHOD_ALIASES = {
    "db": "dreambooth", "ti": "textual_inversion", "hn": "hypernetwork", "e2e": "end_to_end",
    "end2end": "end_to_end", "noise": "gaussian_noise",
}  # fmt: skip

# {method: its settings} as they stood side by side in one section before each method had a class of its own. Frozen:
# it reads old files, and short forms such as preset("demo", name, finetune={"rank": 16}).
FLAT_SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "lora_alpha", "target_modules"),
    "textual_inversion": ("num_vectors", "placeholder_token", "initializer_token"),
    "dreambooth": ("identifier", "class_noun", "prior_loss_weight", "num_class_images", "class_sampler"),
    "gaussian_noise": ("noise_sigma", "noise_relative", "noise_target"),
}


class FineTuneConfig(Settings):
    """Fine-tuning on the SP set: what all methods share.

    `settings` overrides a method's own defaults, {"lora": {"rank": 16}}; finetune/catalogue.py has their classes.
    """

    methods: tuple[str, ...] = ("lora",)
    settings: dict[str, dict] = {}
    learning_rate: float | None = Field(None, gt=0, le=1)  # None: each method's own, see finetune/catalogue.py
    max_train_steps: int = Field(200, ge=0, le=1_000_000)
    train_batch_size: int = Field(8, ge=1, le=4096)  # of all processes together
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = "constant"  # fmt: skip
    lr_warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0: no averaging of the trained weights
    seed: int = Field(0, ge=0)
    train_text_encoder: bool = False  # end_to_end, dreambooth alone, and lora

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values):
        """Move settings in the flat spelling to their methods; what a whole record says of other methods is dropped."""
        given = {name for names in FLAT_SETTINGS.values() for name in names if name in values}
        if not isinstance(values, dict) or not given:
            return values
        whole = all(given.intersection(names) for names in FLAT_SETTINGS.values())  # records spelt every method's
        methods = [METHOD_ALIASES.get(m, m) for m in values.get("methods", cls.model_fields["methods"].default)]
        settings = {method: dict(own) for method, own in values.get("settings", {}).items()}
        for method, names in FLAT_SETTINGS.items():
            flat = {name: values[name] for name in names if name in given}
            if twice := sorted(flat.keys() & settings.get(method, {}).keys()):
                raise ValueError(f"{twice[0]} is given twice, beside the settings of {method} and among them")
            if flat and (method in methods or not whole):
                settings[method] = flat | settings.get(method, {})
        return {name: value for name, value in values.items() if name not in given} | {"settings": settings}

    @field_validator("methods")
    @classmethod
    def _some_method(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one fine-tuning method")
        return tuple(METHOD_ALIASES.get(name, name) for name in value)

    @field_validator("settings")
    @classmethod
    def _of_a_method_that_is_used(cls, value: dict[str, dict], info: ValidationInfo) -> dict[str, dict]:
        methods = info.data.get("methods")  # absent when they were wrong themselves
        for name, own in value.items():
            if own and methods is not None and name not in methods:
                raise ValueError(
                    f"{', '.join(own)} of {name} would change nothing: {name} is not among the methods, "
                    f"{'+'.join(methods)}"
                )
        return {name: own for name, own in value.items() if own}


class AuditConfig(Settings):
    """Membership inference. `settings` overrides an attack's own defaults: {"secmi": {"t": 100}}."""

    attacks: tuple[str, ...] = ("secmi", "loss")
    settings: dict[str, dict] = {}
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = Field(0, ge=0)  # of the noise, drawn per image index
    shake_weight: float = Field(0.8, ge=0, le=1)  # of the shaken model as a reference; frozen on calibration people


class ExtractionConfig(Settings):
    """(k, l2, delta)-eidetic extraction: generate, then search the training images."""

    prompts: tuple[PromptPart, ...] = (PromptPart(template="a photo of {name}"),)
    n_generations: int = Field(256, ge=1, le=MAX_IMAGES)
    sampler: SamplerConfig = SamplerConfig()
    delta: float = Field(0.1, gt=0, le=1)
    k: int = Field(10, ge=1)
    seed: int = Field(500_000, ge=0)  # far from the SP set's seeds: an SP image must not be "extracted" again
    seed_pool: int | None = Field(None, ge=2, le=MAX_IMAGES)  # look at so many seeds, denoise the promising ones
    guidance_w: float | None = Field(None, ge=0, le=50)  # after: follow eps_base + w (eps_tuned - eps_base)

    @field_validator("seed_pool")
    @classmethod
    def _more_than_are_drawn(cls, value: int | None, info: ValidationInfo) -> int | None:
        drawn = info.data.get("n_generations")  # absent when it was wrong itself
        if value is not None and drawn is not None and value <= drawn:
            raise ValueError(f"the pool must hold more seeds than the {drawn:,} generations that are chosen from it")
        return value

    @property
    def pool_size(self) -> int:
        """How many seeds are looked at: from `seed` on, one after the other."""
        return self.seed_pool or self.n_generations


class RunConfig(Settings):
    """The whole path: target -> SP set -> fine-tuning -> attacks before and after."""

    model: str = LAB
    preset: str = "demo"
    domain: DomainConfig
    sp_set: SPSetConfig = SPSetConfig()
    finetune: FineTuneConfig = FineTuneConfig()
    audit: AuditConfig = AuditConfig()
    extraction: ExtractionConfig = ExtractionConfig()

    @model_validator(mode="after")
    def _disjoint_seeds(self):
        sp = range(self.sp_set.seed, self.sp_set.seed + self.sp_set.set_size)
        ex = range(self.extraction.seed, self.extraction.seed + self.extraction.pool_size)
        if sp.start < ex.stop and ex.start < sp.stop:
            raise ValueError("the seeds of the SP set and of the extraction overlap: move one of the two `seed` fields")
        return self


class AuditRunConfig(Settings):
    """Judging a model that was fine-tuned elsewhere. `tuned` is a folder of `finetune`, or a whole checkpoint."""

    model: str = LAB
    tuned: str
    preset: str = "demo"
    domain: DomainConfig
    audit: AuditConfig = AuditConfig()
    extraction: ExtractionConfig = ExtractionConfig()


# The sizes of `demo` are frozen in docs/lab.md; speed targets refer to exactly that work.
PRESETS: dict[str, dict] = {
    # Seconds on a tiny model: for tests and for a first look.
    "quick": {
        "domain": {"n_members": 12, "n_nonmembers": 12},
        "sp_set": {"set_size": 8, "sampler": {"num_inference_steps": 4, "guidance_scale": 1.0}},
        "finetune": {"max_train_steps": 6, "train_batch_size": 4},
        "audit": {"settings": {"secmi": {"t": 100}}},
        "extraction": {"n_generations": 8, "sampler": {"num_inference_steps": 4}},
    },
    # A live run in class: minutes on two cores.
    "demo": {
        "domain": {"n_nonmembers": 120},
        # Unguided pictures are what the model has *learnt*; see docs/lab.md, the search on calibration people.
        "sp_set": {"set_size": 128, "sampler": {"guidance_scale": 1.0}},
        "finetune": {"max_train_steps": 300, "train_batch_size": 8},
        "audit": {"settings": {"secmi": {"t": 100}}},
        "extraction": {"n_generations": 256},
    },
    # The paper's sizes, for Stable Diffusion on a GPU.
    "paper": {
        "domain": {"n_nonmembers": 1000},
        "sp_set": {
            "prompts": [
                {"template": "photo of {name}", "weight": 0.7},
                {"template": "face of {name}", "weight": 0.3},
            ],
            # The published script's words; it draws the template once a person, here every image draws its own.
            "suffix": ", dslr, ultra quality, sharp focus, tack sharp, dof, film grain, Fujifilm XT3, crystal clear, "
            "8K UHD",
            "set_size": 5000,
            "sampler": {
                "scheduler": "ddim",
                "num_inference_steps": 50,
                "guidance_scale": 7.5,
                "negative_prompt": "disfigured, ugly, bad, immature, cartoon, anime, 3d, painting, b&w",
            },
        },
        "finetune": {"learning_rate": 1e-6, "max_train_steps": 125_000, "train_batch_size": 4},
        "extraction": {
            "prompts": [{"template": "photo of {name}"}],
            "n_generations": 5000,
            "sampler": {"scheduler": "ddim", "num_inference_steps": 50, "guidance_scale": 7.5},
        },
    },
}


def _merged(base: dict, over: dict) -> dict:
    """`over` on top of `base`, section by section; a None in `over` means: not given."""
    merged = dict(base)
    for name, value in over.items():
        if isinstance(value, dict):
            merged[name] = _merged(merged.get(name, {}), value)
        elif value is not None:
            merged[name] = value
    return merged


def preset(name: str, domain: str | dict, **overrides) -> RunConfig:
    """The RunConfig of a preset for one domain, with sections overridden.

    `preset("demo", "Mira Solwyn", finetune={"rank": 16})`. Raises UserError for an unknown
    preset or a value out of range.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    over = {"domain": {"name": domain} if isinstance(domain, str) else domain}
    return checked(RunConfig, _merged(_merged(PRESETS[name], over), overrides) | {"preset": name})


def checked(kind: type[Settings], values: dict):
    """Build a settings model; pydantic's report becomes one sentence a person can act on."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not first["loc"]:  # several fields do not go together
            raise UserError(reason) from None
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{reason} (given: {str(first.get('input'))[:80]!r})", field) from None
