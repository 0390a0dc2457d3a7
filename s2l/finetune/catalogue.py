"""The fine-tuning methods: what each one is, its settings, and which of them can be combined. Loads no torch.

A method decides which parameters train, or on which objective. Most decide the parameters; DreamBooth decides the data
and the loss; Gaussian noise trains nothing. A combination such as ("lora", "dreambooth") trains the parameters of all
its methods, and at most one of them may change the objective. The work is done in the method's own file (see
method.py), which is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from types import ModuleType
from typing import Literal, TypeVar

from pydantic import Field, field_validator

from s2l.config import MAX_IMAGES, FineTuneConfig, SamplerConfig, Settings, checked
from s2l.errors import UserError, unknown
from s2l.flat_settings import METHOD_ALIASES
from s2l.plugins import Catalogue
from s2l.prompts import check_prompt

# --- settings, one class per method -----------------------------------------------------------


class NoSettings(Settings):
    """For a method that has no settings of its own."""


class LoRASettings(Settings):
    """Field names as in peft."""

    rank: int = Field(
        8, ge=1, le=1024, title="Rank", description="Rank of LoRA, the size of its matrices.",
        json_schema_extra={"app_max": 128},
    )  # fmt: skip
    lora_alpha: float = Field(32, gt=0, title="LoRA alpha", description="Scale of LoRA's update, alpha / rank.")
    target_modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), title="Target modules", description="Layers to update."
    )


class TextualInversionSettings(Settings):
    """Field names as in diffusers' script. The new tokens replace the name."""

    num_vectors: int = Field(12, ge=1, le=64, title="New tokens", description="Tokens that stand for the name.")
    placeholder_token: str = Field("<s2l>", title="Placeholder token", description="The new word.")
    initializer_token: str = Field(
        "person", title="Initializer token", description="Words whose embeddings the new tokens start from, in turn."
    )

    @field_validator("placeholder_token", "initializer_token")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return check_prompt(value)

    @field_validator("placeholder_token")
    @classmethod
    def _one_token(cls, value: str) -> str:
        if value != value.lower() or len(value.split()) != 1:
            raise ValueError("the placeholder token is one lower-case word, such as '<s2l>'")
        return value


class DreamBoothSettings(Settings):
    """Field names as in diffusers' script."""

    identifier: str = Field(
        "sks", title="Identifier", description="A rare word; {name} in it keeps the name, as the authors' script does."
    )
    class_noun: str = Field("person", title="Class noun", description="What kind of subject it is.")
    prior_loss_weight: float = Field(
        1.0, ge=0, title="Prior loss weight", description="Weight of the class pictures; 0: generate none."
    )
    num_class_images: int | None = Field(
        None, ge=1, le=MAX_IMAGES, title="Class pictures", description="Default: as many as the SP set, at most 1,000."
    )
    class_sampler: SamplerConfig = SamplerConfig()

    @field_validator("identifier", "class_noun")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return check_prompt(value)


class GaussianNoiseSettings(Settings):
    """How strong the noise is, and where."""

    noise_sigma: float = Field(8e-4, ge=0, title="Noise", description="Standard deviation of the noise.")
    noise_relative: bool = Field(
        False, title="Relative noise", description="In units of each tensor's own standard deviation."
    )
    noise_target: str = Field(
        "all", title="Noisy weights", description="all, or a part of their names: unet, text_encoder, attn2, mid_block."
    )

    @field_validator("noise_target")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return check_prompt(value)


# --- the methods ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finetuner:
    """One fine-tuning method.

    kind           "parameters", "objective" or "perturbation"
    trains         one plain sentence for people: what changes in the model
    module         the file that does the work, see method.py
    settings       the class of its settings, with defaults
    learning_rate  its own default, chosen on the lab's calibration people (docs/search.md); None if it trains nothing
                   of its own
    """

    name: str
    title: str
    source: str
    trains: str
    kind: Literal["parameters", "objective", "perturbation"]
    module: str
    settings: type[Settings] = NoSettings
    learning_rate: float | None = None

    def load_module(self) -> ModuleType:
        """The method's file; loads torch."""
        return import_module(self.module)


FINETUNERS: Catalogue[Finetuner] = Catalogue("fine-tuning method", "s2l.finetuners", Finetuner)

# The name of a combination follows this order.
for _method in (
    Finetuner(
        name="end_to_end",
        title="End-to-end",
        source="Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models",
        trains="every weight of the UNet (and of the text encoder if chosen); the autoencoder does not change",
        kind="parameters",
        module="s2l.finetune.end_to_end",
        learning_rate=3e-5,
    ),
    Finetuner(
        name="lora",
        title="LoRA",
        source="Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models",
        trains="small low-rank matrices beside the attention layers; the original weights stay frozen",
        kind="parameters",
        module="s2l.finetune.lora",
        settings=LoRASettings,
        learning_rate=1e-3,
    ),
    Finetuner(
        name="hypernetwork",
        title="Hypernetwork",
        source="NovelAI 2022, Improvements on Stable Diffusion (no paper)",
        trains="small networks that rewrite the caption for every cross-attention; the original weights stay frozen",
        kind="parameters",
        module="s2l.finetune.hypernetwork",
        learning_rate=3e-4,
    ),
    Finetuner(
        name="textual_inversion",
        title="Textual Inversion",
        source="Gal et al. 2023, An Image is Worth One Word",
        trains="the embeddings of a few new words that replace the name; the original weights stay frozen",
        kind="parameters",
        module="s2l.finetune.textual_inversion",
        settings=TextualInversionSettings,
        learning_rate=5e-3,
    ),
    Finetuner(
        name="dreambooth",
        title="DreamBooth",
        source="Ruiz et al. 2023, DreamBooth: Fine Tuning Text-to-Image Diffusion Models",
        trains="the whole UNet, or what it is combined with, on a rare word for the subject; pictures of the class "
        "generated by the base model keep the rest unchanged",
        kind="objective",
        module="s2l.finetune.dreambooth",
        settings=DreamBoothSettings,
        learning_rate=1e-4,  # alone; at end-to-end's 3e-5 the rare word is not learnt in 300 steps
    ),
    Finetuner(
        name="gaussian_noise",
        title="Gaussian noise",
        source="Li et al. 2024, Shake to Leak, section on parameter noise",
        trains="nothing: random noise is added to the weights, without any data",
        kind="perturbation",
        module="s2l.finetune.gaussian_noise",
        settings=GaussianNoiseSettings,
    ),
):
    FINETUNERS.add(_method)


# --- combinations -----------------------------------------------------------------------------


def legal_combinations(names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Every combination that `parse` accepts, single methods first; of all methods, or of those in `names`."""
    chosen = list(FINETUNERS) if names is None else names
    sets = [c for size in range(1, len(chosen) + 1) for c in combinations(chosen, size)]
    return [c for c in sets if _problem(c) is None]


def weight_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The methods of a combination that change weights.

    An objective alone has no parameters of its own: it trains the whole UNet, as end-to-end does.
    """
    return tuple(m for m in methods if FINETUNERS.known(m).kind != "objective") or ("end_to_end",)


def _problem(methods: Sequence[str]) -> str | None:
    """Why a combination is not allowed, or None."""
    kinds = [FINETUNERS[m].kind for m in methods]
    if len(set(methods)) < len(methods):
        return "a method is named twice"
    if "perturbation" in kinds and len(methods) > 1:
        return "Gaussian noise trains nothing and cannot be combined"
    if kinds.count("objective") > 1:
        return "at most one method may change the objective"
    if "end_to_end" in methods and len(methods) > 1:
        rest = ", and dreambooth alone is its combination with it" if "dreambooth" in methods else ""
        return f"end_to_end already trains the whole UNet{rest}"
    return None


def parse(text: str) -> tuple[str, ...]:
    """Read "lora+dreambooth" (or "lora_db") into method names, in the order of the catalogue.

    The order is always the same, so one combination has one name. Raises UserError for anything
    that is not an allowed combination.
    """
    if not isinstance(text, str):  # from a client other than the page
        raise UserError("a fine-tuning method should be a text, such as 'lora'")
    text = text.strip().lower().replace("-", "_")
    names = [text] if text in FINETUNERS else [part.strip() for part in text.replace(" ", "+").split("+")]
    names = [name for name in names if name]
    if len(names) == 1 and names[0] not in FINETUNERS:
        # The authors' spelling joins short names with an underscore: lora_db, db_hn.
        short = names[0].split("_")
        if all(part in FINETUNERS or part in METHOD_ALIASES for part in short):
            names = short
    methods = tuple(METHOD_ALIASES.get(name, name) for name in names)
    for given, name in zip(names, methods, strict=True):
        if name in FINETUNERS.problems:
            raise UserError(FINETUNERS.problems[name])
        if name not in FINETUNERS:
            hint = "; a + combines two, such as lora+dreambooth (`python -m s2l methods` lists every combination)"
            raise UserError(f"{unknown('fine-tuning method', given, FINETUNERS)}{hint}")
    problem = _problem(methods) if methods else "it names no method"
    if problem is not None:
        legal = ", ".join("+".join(c) for c in legal_combinations())
        raise UserError(f"{text!r} is not an allowed combination: {problem}. Allowed: {legal}")
    return tuple(name for name in FINETUNERS if name in methods)


# --- settings of a fine-tuning ----------------------------------------------------------------

S = TypeVar("S", bound=Settings)


def method_settings(name: str, config: FineTuneConfig) -> Settings:
    """A method's defaults with the overrides of `config`. Raises UserError with the field at fault."""
    return settings_of(name, FINETUNERS.known(name).settings, config)


def settings_of(name: str, kind: type[S], config: FineTuneConfig) -> S:
    """The same for a method that knows the class of its settings."""
    try:
        return checked(kind, config.settings.get(name, {}))
    except UserError as error:
        path = f"settings.{name}.{error.field}" if error.field else f"settings.{name}"
        raise UserError(error.reason, path) from None


def spelled_out(config: FineTuneConfig) -> FineTuneConfig:
    """The same fine-tuning with every setting of its methods, defaults included: what a key is made of."""
    every = {name: method_settings(name, config).model_dump(mode="json") for name in config.methods}
    return config.model_copy(update={"settings": {name: own for name, own in every.items() if own}})


def learning_rates(config: FineTuneConfig) -> dict[str, float]:
    """{method: learning rate} of what trains: `learning_rate` for all, or each method's own default.

    DreamBooth alone has a default of its own for the UNet: it has to teach a new word, not to refine a known one.
    """
    named = parse("+".join(config.methods))
    methods = weight_methods(named)
    own = {m: FINETUNERS[named[0] if m not in named else m].learning_rate for m in methods}
    return {m: config.learning_rate or rate for m, rate in own.items() if rate is not None}
