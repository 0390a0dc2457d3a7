"""Frozen settings, one class per stage. They alone decide what a run computes.

They can be written to JSON and read back, and `keys.key_of` turns them into the name under which a stage's result is
cached. What is meant to change only the speed (device, batch sizes of inference) is in `Runtime`, model/diffusion.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from s2l.errors import UserError, unknown
from s2l.flat_settings import METHOD_ALIASES, with_own_sections
from s2l.presets import PRESETS
from s2l.prompts import MAX_PROMPT_CHARACTERS, check_prompt

SCHEMA_VERSION = 1
MAX_IMAGES = 100_000
MAX_APP_SEED = 10**9

LAB = "lab"  # the shipped model: assets/labs
HUB = "hub:"  # before the id of a model on the hub: that name is never looked up on the disk
MODEL_HELP = (
    "'lab', 'lab:NAME' (see `labs`), or Stable Diffusion 1.x/2.x: a folder in diffusers layout, a "
    ".safetensors file, or a hub id such as CompVis/stable-diffusion-v1-1 (OWNER/NAME@REVISION)."
)


class Settings(BaseModel):
    """Base of every settings model: immutable, no unknown fields, no NaN.

    Each field declares its title, bounds and help text once; the command line and the page read them there.
    `app_max` is the largest value that the page allows.

    OF_BEFORE  {field: the value that everything had before the field existed}, which keys leave out
    """

    OF_BEFORE: ClassVar[dict[str, str]] = {}

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
    """Whose photos may leak, and which of them the attacks are evaluated on.

    For the lab a name is enough. For a checkpoint of your own give folders: `members` and
    `nonmembers` (images, with captions as trainers write them: s2l/data/captions.py). Without folders there is no ROC.
    """

    name: str = Field(title="Person", description="Person whose photos may leak: a name from `domains`, or any.")
    members: str | None = Field(
        None, title="Members", description="Photos the model was trained on: a folder, or a .jsonl/.csv/.parquet list."
    )
    nonmembers: str | None = Field(
        None,
        title="Held-out folder",
        description="Photos of the same source, not used in training: a folder or a list.",
    )
    n_members: int | None = Field(
        None, ge=1, le=MAX_IMAGES, title="Number of members", description="Number of members to use; default: all."
    )
    # The lab's supply of held-out photos is unlimited.
    n_nonmembers: int = Field(
        100, ge=1, le=MAX_IMAGES, title="Held-out photos", description="Number of held-out photos.",
        json_schema_extra={"app_max": 1000},
    )  # fmt: skip
    calibration_share: float = Field(
        0.0, ge=0, lt=1, title="Calibration share",
        description="Share of members and held-out photos set aside to choose thresholds and weights.",
    )  # fmt: skip
    seed: int = Field(0, title="Seed", description="Seed for choosing the photos.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_prompt(value)


class SamplerConfig(Settings):
    """How pictures are generated. Field names as in diffusers."""

    scheduler: Literal["ddim", "dpmsolver"] = Field("dpmsolver", title="Sampler", description="Sampling algorithm.")
    num_inference_steps: int = Field(
        20, ge=1, le=1000, title="Sampler steps", description="Number of sampler steps.",
        json_schema_extra={"app_max": 100},
    )  # fmt: skip
    guidance_scale: float = Field(3.0, ge=0, le=50, title="Guidance", description="Guidance scale of the sampler.")
    negative_prompt: str = Field(
        "", max_length=MAX_PROMPT_CHARACTERS, title="Negative prompt", description="What guidance steers away from."
    )
    mitigation: Literal["late_guidance", "flat_start"] | None = Field(
        None, title="Mitigation",
        description="Defence at sampling time, of the generations: late_guidance (none before the text's effect has "
        "had a minimum) or flat_start (initial noise on which the text has little effect; 4 times the cost).",
    )  # fmt: skip

    @model_validator(mode="after")
    def _mitigates(self) -> SamplerConfig:
        if self.mitigation == "late_guidance" and self.guidance_scale == 1:
            raise ValueError("late_guidance changes nothing at guidance 1, which is no guidance")
        return self


class SPSetConfig(Settings):
    """The synthetic private set: prompts in a weighted mix, one seed per picture."""

    prompts: tuple[PromptPart, ...] = Field(
        (
            PromptPart(template="a photo of {name}", weight=0.7),
            PromptPart(template="a face of {name}", weight=0.3),
        ),
        title="Prompts",
        description="Prompt for the SP set; {name} stands for the person's name.",
    )
    suffix: str = Field(
        "", max_length=MAX_PROMPT_CHARACTERS, title="Suffix", description="Words added to the end of every prompt."
    )
    set_size: int = Field(
        128, ge=1, le=MAX_IMAGES, title="Set size", description="Number of pictures in the SP set.",
        json_schema_extra={"app_max": 2000},
    )  # fmt: skip
    sampler: SamplerConfig = SamplerConfig()
    seed: int = Field(
        1000, ge=0, title="First seed", description="Seed of the first picture; the others follow.",
        json_schema_extra={"app_max": MAX_APP_SEED},
    )  # fmt: skip
    together: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=1000, title="Shaken together",
        description="Other people, separated by commas: one model is fine-tuned on the SP sets of all of them.",
    )  # fmt: skip

    @field_validator("together")
    @classmethod
    def _names(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = tuple(check_prompt(name) for name in value or ())
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("a person is named twice")
        return names or None


class FineTuneConfig(Settings):
    """Fine-tuning on the SP set: what all methods share.

    `settings` overrides a method's own defaults, {"lora": {"rank": 16}}; finetune/catalogue.py has their classes.
    """

    methods: tuple[str, ...] = Field(
        ("lora",), title="Method", description="Fine-tuning method or combination (see `methods`)."
    )
    settings: dict[str, dict] = {}
    learning_rate: float | None = Field(
        None, gt=0, le=1, title="Learning rate", description="Learning rate; the default depends on the method."
    )
    max_train_steps: int = Field(
        200, ge=0, le=1_000_000, title="Steps", description="Training steps.", json_schema_extra={"app_max": 5000}
    )
    train_batch_size: int = Field(
        8, ge=1, le=4096, title="Batch size", description="Pictures per training step, over all processes.",
        json_schema_extra={"app_max": 64},
    )  # fmt: skip
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=1024, title="Gradient accumulation", description="Batches per training step."
    )
    lr_scheduler: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
    ] = Field("constant", title="Schedule", description="How the learning rate changes.")  # fmt: skip
    lr_warmup_steps: int = Field(
        0, ge=0, title="Warm-up steps", description="Steps over which the learning rate rises to its full value."
    )
    max_grad_norm: float = Field(
        1.0, gt=0, title="Gradient norm", description="Gradients with a larger norm are scaled down to it."
    )
    weight_decay: float = Field(1e-2, ge=0, title="Weight decay", description="Weight decay of AdamW.")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, title="EMA decay",
        description="Decay of the exponential moving average of the trained weights; 0: no averaging.",
    )  # fmt: skip
    seed: int = Field(
        0, ge=0, title="Seed", description="Seed of the training.", json_schema_extra={"app_max": MAX_APP_SEED}
    )
    epsilon: float | None = Field(
        None, gt=0, le=1000, title="Epsilon",
        description="Fine-tune under differential privacy: epsilon for one picture of the SP set, delta .1 / their "
        "number. It does not protect the people whom the base model knows.",
    )  # fmt: skip
    train_text_encoder: bool = Field(
        False, title="Train the text encoder too", description="For end_to_end, lora, and dreambooth on its own."
    )

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values):
        """Settings of older files, and short forms."""
        return with_own_sections(values, cls.model_fields["methods"].default)

    @field_validator("methods")
    @classmethod
    def _some_method(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one fine-tuning method")
        return tuple(METHOD_ALIASES.get(name, name) for name in value)

    @field_validator("settings")
    @classmethod
    def _of_a_method_that_is_used(cls, value: dict[str, dict], info: ValidationInfo) -> dict[str, dict]:
        methods = info.data.get("methods")  # absent if they were invalid themselves
        for name, own in value.items():
            if own and methods is not None and name not in methods:
                raise ValueError(
                    f"{', '.join(own)} of {name} would change nothing: {name} is not among the methods, "
                    f"{'+'.join(methods)}"
                )
        return {name: own for name, own in value.items() if own}


class AuditConfig(Settings):
    """Membership inference. `settings` overrides an attack's own defaults: {"secmi": {"t": 100}}.

    A record without `noise` or `latents` is from before they were settings: hence their defaults.
    """

    OF_BEFORE: ClassVar[dict[str, str]] = {"noise": "position", "latents": "mode"}

    attacks: tuple[str, ...] = Field(
        ("secmi", "loss"), title="Attacks",
        description="Attacks, separated by commas (see `attacks`); default: secmi,loss.",
    )  # fmt: skip
    settings: dict[str, dict] = {}
    confidence: float = Field(0.95, gt=0.5, lt=1, title="Confidence", description="Confidence level of the intervals.")
    seed: int = Field(0, ge=0, title="Seed", description="Seed of the noise, which is generated per photo.")
    noise: Literal["content", "position"] = Field(
        "position", title="Noise by",
        description="What a photo's noise depends on besides the seed: content (as presets have it: no other photo "
        "matters) or position (its place in the list, as in the committed tables).",
    )  # fmt: skip
    latents: Literal["mode", "sample"] = Field(
        "mode", title="Latents",
        description="What of the autoencoder's posterior the attacks see: mode, or sample (one draw per photo, as in "
        "the published code of the attacks).",
    )  # fmt: skip
    # Frozen on calibration people.
    shake_weight: float = Field(
        0.8, ge=0, le=1, title="Shake weight", description="Weight of the fine-tuned model as a reference."
    )


class ExtractionConfig(Settings):
    """(k, l2, delta)-eidetic extraction: generate, then search the training images."""

    prompts: tuple[PromptPart, ...] = Field(
        (PromptPart(template="a photo of {name}"),), title="Prompts", description="Prompts of the generations."
    )
    n_generations: int = Field(
        256, ge=1, le=MAX_IMAGES, title="Generations", description="Number of generations to search, from each model.",
        json_schema_extra={"app_max": 2000},
    )  # fmt: skip
    sampler: SamplerConfig = SamplerConfig()
    delta: float = Field(
        0.1, gt=0, le=1, title="Extracted when l2 is at most",
        description="Largest l2 distance at which a training photo counts as extracted.",
    )  # fmt: skip
    k: int = Field(
        10, ge=1, title="Eidetic k",
        description="An extracted photo is eidetic if at most k training photos, repeats counted, are as close to it.",
    )  # fmt: skip
    # Far from the SP set's seeds: an SP image must not be "extracted" again.
    seed: int = Field(500_000, ge=0, title="First seed", description="Seed of the first picture; the others follow.")
    seed_pool: int | None = Field(
        None, ge=2, le=MAX_IMAGES, title="Seed pool",
        description="Number of seeds to screen (2 UNet evaluations each); only the most promising are denoised.",
    )  # fmt: skip
    guidance_w: float | None = Field(
        None, ge=0, le=50, title="Guidance towards the change",
        description="After fine-tuning, sample with base + w (tuned - base), at twice the cost. FineXtract: w = 5.",
    )  # fmt: skip

    @field_validator("seed_pool")
    @classmethod
    def _larger_than_the_choice(cls, value: int | None, info: ValidationInfo) -> int | None:
        generations = info.data.get("n_generations")  # absent if it was invalid itself
        if value is not None and generations is not None and value <= generations:
            raise ValueError(f"the pool must hold more seeds than the {generations:,} generations chosen from it")
        return value

    @property
    def pool_size(self) -> int:
        """How many seeds are screened: consecutive ones, starting at `seed`."""
        return self.seed_pool or self.n_generations


class UnshakeConfig(Settings):
    """The attacks get base + w (base - fine-tuned) in place of the fine-tuned model: a step away from the shake.

    In "weights" this is one model, as fast as any other. In "scores" both models predict the noise, and the two
    predictions are mixed.
    """

    w: float = Field(
        1.0, ge=-10, le=10, title="Un-shake",
        description="Attack base + w (base - fine-tuned) in place of the fine-tuned model: w = -1 is the fine-tuned "
        "model, 0 the base model, and w > 0 goes the other way.",
    )  # fmt: skip
    space: Literal["weights", "scores"] = Field(
        "weights", title="Un-shake in",
        description="What un-shake mixes: weights, or scores (both models' noise predictions, at twice the cost).",
    )  # fmt: skip


def _one_direction(extraction: ExtractionConfig, unshake: UnshakeConfig | None) -> None:
    """Raises ValueError where two settings say how far from the base model to go."""
    if unshake is not None and extraction.guidance_w is not None:
        raise ValueError("guidance_w and un-shake both say how far to go from the base model: give only one of them")


class RunConfig(Settings):
    """Everything from the SP set to the report: SP set -> fine-tuning -> attacks before and after."""

    model: str = Field(LAB, title="Model", description=MODEL_HELP)
    preset: str = Field("demo", title="Preset", description="Sizes and settings to start from.")
    domain: DomainConfig
    sp_set: SPSetConfig = SPSetConfig()
    finetune: FineTuneConfig = FineTuneConfig()
    audit: AuditConfig = AuditConfig()
    extraction: ExtractionConfig = ExtractionConfig()
    unshake: UnshakeConfig | None = Field(None, title="Un-shake", description="Attack base + w (base - fine-tuned).")

    @model_validator(mode="after")
    def _consistent(self):
        _one_direction(self.extraction, self.unshake)
        sp = range(self.sp_set.seed, self.sp_set.seed + self.sp_set.set_size)
        ex = range(self.extraction.seed, self.extraction.seed + self.extraction.pool_size)
        if sp.start < ex.stop and ex.start < sp.stop:
            raise ValueError("the seeds of the SP set and of the extraction overlap: move one of the two `seed` fields")
        if self.sp_set.together and self.domain.name.lower() in map(str.lower, self.sp_set.together):
            raise ValueError(f"{self.domain.name} is the person under test: name only the others")
        return self


class AuditRunConfig(Settings):
    """An audit of a model that was fine-tuned elsewhere; `tuned` is read by pipeline/tuned.py."""

    model: str = Field(LAB, title="Model", description=MODEL_HELP)
    tuned: str = Field(title="Fine-tuned model", description="Fine-tuned model: a folder, a file or a hub id.")
    preset: str = Field("demo", title="Preset", description="Sizes and settings to start from.")
    domain: DomainConfig
    audit: AuditConfig = AuditConfig()
    extraction: ExtractionConfig = ExtractionConfig()
    unshake: UnshakeConfig | None = Field(None, title="Un-shake", description="Attack base + w (base - fine-tuned).")

    @model_validator(mode="after")
    def _consistent(self):
        _one_direction(self.extraction, self.unshake)
        return self


def merged(base: dict, over: dict) -> dict:
    """`over` on top of `base`, section by section; None in `over` means: not given."""
    result = dict(base)
    for name, value in over.items():
        if isinstance(value, dict):
            result[name] = merged(result.get(name, {}), value)
        elif value is not None:
            result[name] = value
    return result


def preset(name: str, domain: str | dict, **overrides) -> RunConfig:
    """The RunConfig of a preset for one domain, with sections overridden.

    `preset("demo", "Mira Solwyn", finetune={"rank": 16})`. Raises UserError for an unknown
    preset or a value out of range.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    over = {"domain": {"name": domain} if isinstance(domain, str) else domain}
    return checked(RunConfig, merged(merged(PRESETS[name], over), overrides) | {"preset": name})


def checked(kind: type[Settings], values: dict):
    """Build a settings model; pydantic's report becomes one sentence that people can act on."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not first["loc"]:  # several fields contradict each other
            raise UserError(reason) from None
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{reason} (given: {str(first.get('input'))[:80]!r})", field) from None
