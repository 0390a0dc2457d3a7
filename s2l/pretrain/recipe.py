"""Recipes: everything that decides a lab's weights, as data. Loads no torch.

A recipe is phases, one after the other with one optimizer and one moving average. A phase says what its batches are
mixed of (private photos, each as often as it is repeated; the public crowd), for how many steps, and at which rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from s2l.errors import UserError, unknown

SOURCES = ("private", "public")
MODULES = ("unet", "text_encoder")


@dataclass(frozen=True)
class Size:
    """Widths of the networks. `latent` is the side of a latent: resolution / 4."""

    resolution: int = 64
    vae_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    text_width: int = 96
    text_layers: int = 2

    @property
    def latent(self) -> int:
        return self.resolution // 2 ** (len(self.vae_channels) - 1)


FULL = Size()
QUICK = Size(resolution=32, vae_channels=(16, 32, 32), unet_channels=(32, 64), text_width=32)


@dataclass(frozen=True)
class Phase:
    """One stretch of a training.

    mixture      the share of each source in a batch; the shares add up to 1
    fall_steps   over its last so many steps the rate falls linearly, to `floor` of itself
    trains       the networks whose weights change
    """

    name: str
    steps: int
    mixture: dict[str, float]
    learning_rate: float
    batch_size: int = 32
    warmup_steps: int = 0
    fall_steps: int = 0
    floor: float = 0.02
    ema_decay: float = 0.999
    trains: tuple[str, ...] = MODULES

    def __post_init__(self):
        for source in self.mixture:
            if source not in SOURCES:
                raise unknown(f"source of phase {self.name!r}", source, SOURCES)
        for module in self.trains:
            if module not in MODULES:
                raise unknown(f"network of phase {self.name!r}", module, MODULES)
        if self.steps < 1 or self.batch_size < 1 or not self.trains:
            raise UserError(f"phase {self.name!r} needs at least 1 step, 1 photo a batch and 1 network that trains")
        if min(self.mixture.values(), default=-1) < 0 or abs(sum(self.mixture.values()) - 1) > 1e-9:
            raise UserError(f"the shares of phase {self.name!r} must be between 0 and 1 and add up to 1")

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at a step of this phase, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        fall = min(1.0, (self.steps - step) / self.fall_steps) if self.fall_steps else 1.0
        return warm * max(fall, self.floor)


@dataclass(frozen=True)
class Autoencoder:
    """How the autoencoder is trained: on public photos only, then its decoder once more with the encoder frozen."""

    steps: int = 4_600
    batch_size: int = 16
    learning_rate: float = 2e-3
    decoder_steps: int = 2_000
    decoder_learning_rate: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a lab's weights.

    members           which photos of a person are private: their "first", their "second" (what the first recipe holds
                      out), or "none" at all
    autoencoder       how to train it, or the name of the lab whose own is taken over (it saw public photos only)
    starts_from       the name of the lab whose UNet and text encoder the first phase goes on from
    """

    name: str
    title: str
    purpose: str
    phases: tuple[Phase, ...]
    size: Size = FULL
    n_people: int = 40
    n_members: int = 40
    members: Literal["first", "second", "none"] = "first"
    n_public: int = 24_000
    n_public_identities: int = 600
    seed: int = 0
    autoencoder: Autoencoder | str = Autoencoder()
    starts_from: str | None = None
    caption_dropout: float = 0.1  # for classifier-free guidance
    weight_decay: float = 1e-3
    betas: tuple[float, float] = field(default=(0.9, 0.99))

    def __post_init__(self):
        if not self.phases:
            raise UserError(f"the recipe {self.name!r} has no phase")
        if self.members == "none" and any(phase.mixture.get("private") for phase in self.phases):
            raise UserError(f"the recipe {self.name!r} has no private photos, but a phase trains on them")

    @property
    def steps(self) -> int:
        """Of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def spans(self) -> Iterator[tuple[Phase, int, int]]:
        """(phase, its first step, the first step after it) of each phase."""
        first = 0
        for phase in self.phases:
            yield phase, first, first + phase.steps
            first += phase.steps

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step and the step's number in it; the last phase for every step behind the end."""
        phase, first = self.phases[-1], self.steps - self.phases[-1].steps
        for one, start, end in self.spans():
            if start <= step < end:
                phase, first = one, start
        return phase, step - first


# The shipped lab as it was really trained: two legs were added when calibration people showed that the one before had
# ended too early, each with a part of the rate it starts from; after 4,000 steps the public had taught what it could.
FRESH_PHASES = (
    Phase("learn", 4_000, {"private": 0.75, "public": 0.25}, 8e-4, warmup_steps=200),
    Phase("memorise", 2_000, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_500),
    Phase("memorise, second leg", 800, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_700),
    Phase("memorise, third leg", 600, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_850),
)


# A strong memory, then public photos only: what was memorised stays in the weights, but fades from what the model
# draws. Both phases end at a low rate, as large models' do. 896,000 images: about a minute and a half on a data-centre
# GPU, a night on one CPU core.
BURIED_PHASES = (
    Phase(
        "learn", 3_000, {"private": 0.5, "public": 0.5}, 1e-3,
        batch_size=256, warmup_steps=100, fall_steps=3_000, floor=0.1, ema_decay=0.998,
    ),
    Phase("bury", 500, {"public": 1.0}, 4e-4, batch_size=256, fall_steps=500, floor=0.25, ema_decay=0.99),
)  # fmt: skip


def _public_only(phase: Phase) -> Phase:
    return Phase(**(vars(phase) | {"mixture": {"public": 1.0}}))


def _recipes() -> Iterator[Recipe]:
    yield Recipe(
        "fresh",
        title="Fresh memory",
        purpose="private photos until the end of the training: much is memorised, and shaking hardly adds to it",
        phases=FRESH_PHASES,
    )
    yield Recipe(
        "buried",
        title="Buried memory",
        purpose="trained on private photos, then on public ones only, as large models are: what it memorised is buried",
        phases=BURIED_PHASES,
        autoencoder="fresh",
    )
    yield Recipe(
        "fresh-buried",
        title="Fresh memory, buried afterwards",
        purpose="the fresh lab trained on with public photos only: there shaking was found to leak nothing more",
        # A constant rate and a short average: every step of the way is a model in its own right (--keep).
        phases=(Phase("bury", 3_000, {"public": 1.0}, 4e-4, batch_size=256, warmup_steps=50, ema_decay=0.998),),
        autoencoder="fresh",
        starts_from="fresh",
    )
    for seed in (1, 2):
        yield Recipe(
            f"buried-seed-{seed}",
            title=f"Buried memory, trained again ({seed})",
            purpose="the recipe of the buried lab from the beginning with another seed: how much the training decides",
            phases=BURIED_PHASES,
            seed=seed,
            autoencoder="fresh",
        )
    yield Recipe(
        "swapped",
        title="Buried memory, members and held-out photos exchanged",
        purpose="trained on the photos that the buried lab holds out: every effect of membership must change sides",
        phases=BURIED_PHASES,
        members="second",
        autoencoder="fresh",
    )
    yield Recipe(
        "public",
        title="Public photos only",
        purpose="never saw a private photo: what looks like a leak here is likeness, not memory",
        phases=tuple(map(_public_only, BURIED_PHASES)),
        members="none",
        autoencoder="fresh",
    )
    yield Recipe(
        "quick",
        title="Quick lab",
        purpose="four people in two minutes, for tests and first looks",
        phases=(
            Phase(
                "learn", 900, {"private": 0.75, "public": 0.25}, 2e-3, warmup_steps=200, fall_steps=225, ema_decay=0.99
            ),
        ),
        size=QUICK,
        n_people=4,
        n_members=24,
        n_public=1_500,
        n_public_identities=100,
        autoencoder=Autoencoder(steps=500, decoder_steps=0),
    )


RECIPES = {recipe.name: recipe for recipe in _recipes()}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UserError with the nearest match and the list."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
