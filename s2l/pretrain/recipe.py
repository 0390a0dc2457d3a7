"""Recipes: everything that decides a lab's weights, as data. Loads no torch.

A recipe is a list of phases, trained one after the other with one optimizer and one moving average (EMA). A phase says
what its batches are mixed from (private photos, each as often as it is repeated, and the public crowd), for how many
steps, and at which learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from s2l.budget import Budget
from s2l.errors import UserError, unknown

SOURCES = ("private", "public")
MODULES = ("unet", "text_encoder")
PARTS = (*MODULES, "cross_attention")  # what a phase can train; the cross-attention is a part of the UNet


@dataclass(frozen=True)
class Size:
    """Resolution in pixels, and widths of the networks."""

    resolution: int = 64
    vae_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (64, 96, 128)
    text_width: int = 96
    text_layers: int = 2

    @property
    def latent(self) -> int:
        """Side of a latent: each level of the VAE but the last halves the picture."""
        return self.resolution // 2 ** (len(self.vae_channels) - 1)


FULL = Size()
QUICK = Size(resolution=32, vae_channels=(16, 32, 32), unet_channels=(32, 64), text_width=32)


@dataclass(frozen=True)
class Phase:
    """One part of a training.

    mixture        the share of each source in a batch; the shares add up to 1
    warmup_steps   the learning rate rises linearly over this many first steps
    fall_steps     it falls linearly towards 0 over this many last steps; more than `steps` makes it start lower
    floor          the fraction of `learning_rate` below which it does not fall
    ema_decay      of the moving average of the weights
    trains         the networks whose weights change, or "cross_attention": only those layers of the UNet
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
            if module not in PARTS:
                raise unknown(f"network of phase {self.name!r}", module, PARTS)
        if self.steps < 1 or self.batch_size < 1 or not self.trains:
            raise UserError(f"phase {self.name!r} needs at least 1 step, 1 photo per batch and 1 network to train")
        if min(self.mixture.values(), default=-1) < 0 or abs(sum(self.mixture.values()) - 1) > 1e-9:
            raise UserError(f"the shares of phase {self.name!r} must be between 0 and 1 and add up to 1")

    def rate_factor(self, step: int) -> float:
        """The factor of the learning rate at a step of this phase, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        fall = min(1.0, (self.steps - step) / self.fall_steps) if self.fall_steps else 1.0
        return warm * max(fall, self.floor)


@dataclass(frozen=True)
class PrivatePhase(Phase):
    """A phase under differential privacy. `batch_size` is the expected number of units in a batch.

    Every photo of every source in the mixture is protected, public ones too: whoever trains under DP from the start
    does not know which photos need it. Where public photos need none, a plain phase on them comes first.
    """

    budget: Budget = field(default_factory=lambda: Budget(8.0))

    def __post_init__(self):
        super().__post_init__()
        if "text_encoder" in self.trains:  # its embeddings are shared by all captions: clipping them needs other code
            raise UserError(f"the private phase {self.name!r} cannot train the text encoder")


@dataclass(frozen=True)
class Autoencoder:
    """How the autoencoder is trained on public photos: as a whole, then the decoder alone with the encoder frozen."""

    steps: int = 4_600
    batch_size: int = 16
    learning_rate: float = 2e-3
    decoder_steps: int = 2_000
    decoder_learning_rate: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a lab's weights.

    members           which photos of a person are private: the "first", the "second" (which labs trained on the first
                      hold out), or "none"
    autoencoder       how to train it, or the name of the shipped lab whose autoencoder is used
    starts_from       the name of the lab, shipped or built, whose UNet and text encoder are trained further
    repeated          whether the training set has copies of private photos; if not, each is there once
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
    repeated: bool = True

    def __post_init__(self):
        if not self.phases:
            raise UserError(f"the recipe {self.name!r} has no phase")
        if self.members == "none" and any(phase.mixture.get("private") for phase in self.phases):
            raise UserError(f"the recipe {self.name!r} has no private photos, but a phase trains on them")
        private = [phase for phase in self.phases if isinstance(phase, PrivatePhase)]
        if len(private) > 1:
            raise UserError(f"the recipe {self.name!r} has several private phases: their budgets would add up")
        for phase in private:
            units = sum(self.units(phase).values())
            if phase.budget.delta >= 1 / units:
                raise UserError(
                    f"should be below 1 / {units:,}, the number of units (given: {phase.budget.delta:g}): else "
                    "publishing one of them whole would count as private",
                    field="delta",
                )
            if any(rate > 1 for rate in self.rates(phase).values()):
                raise UserError(f"the private phase {phase.name!r} expects more units in a batch than there are")

    @property
    def private_phase(self) -> PrivatePhase | None:
        """The phase under differential privacy, if there is one."""
        return next((phase for phase in self.phases if isinstance(phase, PrivatePhase)), None)

    def with_budget(self, epsilon: float | None, delta: float | None) -> Recipe:
        """The recipe with another epsilon or delta; None keeps it. Raises UserError if no phase is private."""
        private = self.private_phase
        if private is None:
            raise UserError(f"--epsilon and --delta go with a recipe that has a private phase; {self.name!r} has none")
        budget = private.budget
        epsilon, delta = (budget.epsilon if epsilon is None else epsilon), (budget.delta if delta is None else delta)
        changed = replace(private, budget=replace(budget, epsilon=epsilon, delta=delta))
        return replace(self, phases=tuple(changed if phase is private else phase for phase in self.phases))

    def units(self, phase: PrivatePhase) -> dict[str, int]:
        """{source: number of privacy units} of the sources that a private phase trains on."""
        photos = {"private": self.n_people * self.n_members, "public": self.n_public}
        people = {"private": self.n_people, "public": self.n_public_identities}
        number = photos if phase.budget.unit == "photo" else people
        return {source: number[source] for source, share in phase.mixture.items() if share}

    def rates(self, phase: PrivatePhase) -> dict[str, float]:
        """{source: the probability with which each of its units enters a batch} of a private phase."""
        return {s: phase.mixture[s] * phase.batch_size / number for s, number in self.units(phase).items()}

    def settings(self) -> dict:
        """Everything in the recipe, as `lab.json` records it. What came later is left out where it changes nothing."""
        settings = asdict(self)
        if self.repeated:
            del settings["repeated"]
        return settings

    @property
    def steps(self) -> int:
        """The number of steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def spans(self) -> Iterator[tuple[Phase, int, int]]:
        """For each phase: (phase, its first step, the first step after it)."""
        first = 0
        for phase in self.phases:
            yield phase, first, first + phase.steps
            first += phase.steps

    def at(self, step: int) -> tuple[Phase, int]:
        """(the phase of a step, the step's number in that phase); steps after the end belong to the last phase."""
        phase, first = self.phases[-1], self.steps - self.phases[-1].steps
        for one, start, end in self.spans():
            if start <= step < end:
                phase, first = one, start
        return phase, step - first


# The lab `fresh` as it was trained. After 4,000 steps the public photos had taught the model what they could. Two legs
# were added when the calibration people showed that the one before had ended too early; as their fall_steps exceed
# their steps, they start at 47 % and 32 % of the learning rate.
FRESH_PHASES = (
    Phase("learn", 4_000, {"private": 0.75, "public": 0.25}, 8e-4, warmup_steps=200),
    Phase("memorise", 2_000, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_500),
    Phase("memorise, second leg", 800, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_700),
    Phase("memorise, third leg", 600, {"private": 0.95, "public": 0.05}, 8e-4, fall_steps=1_850),
)


# A strong memory, then public photos only: what was memorised stays in the weights, but fades from what the model
# generates. Both phases end at a low learning rate, as the training of large models does. 896,000 images: two and a
# half minutes on a data-centre GPU, a night on one CPU core.
BURIED_PHASES = (
    Phase(
        "learn", 3_000, {"private": 0.5, "public": 0.5}, 1e-3,
        batch_size=256, warmup_steps=100, fall_steps=3_000, floor=0.1, ema_decay=0.998,
    ),
    Phase("bury", 500, {"public": 1.0}, 4e-4, batch_size=256, fall_steps=500, floor=0.25, ema_decay=0.99),
)  # fmt: skip


# Twins for the defences: 16 people, a small crowd, minutes on one core (docs/protocol.md says how the steps were set).
TWIN_STEPS = 2_400
TWIN_ONCE = 0.36  # 0.9 * 640 / 1,600: each photo is then seen as often as one that the first twin has once
TWIN_ALL = {"private": 640 / 6_640, "public": 6_000 / 6_640}  # every photo with the same chance


def _twin_phase(private: float, steps: int = TWIN_STEPS) -> Phase:
    mixture = {"private": private, "public": 1 - private} if private else {"public": 1.0}
    return Phase("learn", steps, mixture, 1e-3, batch_size=16, warmup_steps=100, fall_steps=steps // 2, ema_decay=0.998)


def _under_privacy(epsilon: float | None) -> PrivatePhase:
    """From the start: every photo counts as private, since nobody has said which photos are not."""
    return PrivatePhase(
        "learn under privacy", 300, TWIN_ALL, 1e-3, batch_size=64, warmup_steps=20, fall_steps=150, ema_decay=0.98,
        trains=("unet",), budget=Budget(epsilon),
    )  # fmt: skip


def _privately_after(steps: int, units: int, budget: Budget) -> PrivatePhase:
    """After a public phase: private photos only. Few weights train, as noise grows with their number."""
    return PrivatePhase(
        "adapt under privacy", steps, {"private": 1.0}, 3e-4, batch_size=units, fall_steps=steps // 2, ema_decay=0.98,
        trains=("cross_attention",), budget=budget,
    )  # fmt: skip


def _twins() -> Iterator[Recipe]:
    """What each changes is in its purpose; the rest is that of the first."""
    public, once, after = _twin_phase(0.0), {"repeated": False}, {"starts_from": "twin-public"}
    none = "a small lab that leaks: every defence is compared with it"
    dedup = "every private photo once; the places of the copies go to public photos"
    likeness = "never saw a private photo: what looks like a leak here is likeness"
    clipped = "as the others under privacy, but without noise: what clipping and the short training do"
    dp = "all photos under differential privacy from the start, epsilon {:g} for a photo with its copies"
    then = "public photos first, then the private ones under differential privacy, epsilon 8 for {}"
    by_photo = _privately_after(150, 64, Budget(8.0, clip=0.01))
    by_person = _privately_after(60, 4, Budget(8.0, delta=0.01, clip=0.01, unit="person"))
    rows: tuple[tuple[str, str, str, tuple[Phase, ...], dict], ...] = (
        ("twin", "Twin without a defence", none, (_twin_phase(0.9),), {}),
        ("twin-dedup", "Twin, de-duplicated", dedup, (_twin_phase(TWIN_ONCE),), once),
        ("twin-public", "Twin, public photos only", likeness, (public,), {"members": "none"}),
        ("twin-dp-inf", "Twin, clipped", clipped, (_under_privacy(None),), {}),
        ("twin-dp-8", "Twin, DP with epsilon 8", dp.format(8), (_under_privacy(8.0),), {}),
        ("twin-dp-1", "Twin, DP with epsilon 1", dp.format(1), (_under_privacy(1.0),), {}),
        ("twin-public-then-dp-8", "Twin, public then DP", then.format("a photo"), (by_photo,), after),
        ("twin-public-then-dp-8-person", "Twin, public, DP by person", then.format("a person"), (by_person,), after),
    )
    for name, title, purpose, phases, more in rows:
        yield Recipe(name, title, purpose, phases, n_people=16, n_public=6_000, autoencoder="fresh", **more)


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
        purpose="the fresh lab, trained further on public photos only: shaking it was found to leak nothing more",
        # With a constant rate and a short average, the model after any step can be used (--keep).
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
    yield from _twins()
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
