"""The tables, as data: rows times people. `grid.py` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from s2l.attacks import ATTACKS
from s2l.config import merged
from s2l.errors import unknown
from s2l.finetune import FINETUNERS, legal_combinations
from s2l.tables.sheet import NO_DEFENCE, NO_MITIGATION, UNSHAKEN


@dataclass(frozen=True)
class Row:
    """One row: a label and what it changes in the preset. Each `together` people of the list share one shake."""

    label: str
    overrides: dict = field(default_factory=dict)
    together: int = 1


@dataclass(frozen=True)
class Table:
    """Rows times people.

    role    whose runs these are: settings are chosen on "calibration" people, results are of "reporting" people
    people  how many of them, in the order of the lab's list
    kind    what is measured of each run (KINDS in cells.py)
    also    what is measured of a whole row: "defences" (defences.py: promise and price of labs), "sampler"
            (mitigations.py: the change from the sampler without a mitigation, and the price)
    """

    title: str
    rows: tuple[Row, ...]
    role: str = "reporting"
    people: int = 8
    preset: str = "demo"
    kind: str = "run"
    also: Literal["", "defences", "sampler"] = ""


def _extraction_rows() -> tuple[Row, ...]:
    """Ways to spend about 10,240 UNet evaluations after fine-tuning, as many as 256 plain generations of 20 steps take.

    A plain generation costs 40 evaluations. Choosing seeds adds 2 for every seed of the pool; a generation that is
    extrapolated from both models costs 80.
    """
    return (
        Row("plain"),
        Row("seeds chosen from 4 x", {"extraction": {"n_generations": 213, "seed_pool": 852}}),
        *(Row(f"w = {w:g}", {"extraction": {"n_generations": 128, "guidance_w": w}}) for w in (1.5, 3.0)),
    )


# The attacks of the outcomes in docs/protocol.md; PIA and SimA add three UNet evaluations per photo to the preset's.
ATTACKS_OF_TABLES = {"audit": {"attacks": ["secmi", "loss", "pia", "sima"]}}
# The committed cells were measured with noise by a photo's place in its list: rows of one table must agree.
OF_TABLES: dict = {"audit": {"noise": "position"}}
OUT_OF_DOMAIN = {"sp_set": {"prompts": [{"template": "a photo of a person"}]}}  # the paper's control


def _methods(*names: str) -> tuple[Row, ...]:
    """One row per method or combination, labelled with its name."""
    return tuple(Row(name, {"finetune": {"methods": name.split("+")}} | ATTACKS_OF_TABLES) for name in names)


def _finetune_rows(what: str, values: Iterable, overrides: Callable[[Any], dict]) -> tuple[Row, ...]:
    return tuple(Row(what.format(value), {"finetune": overrides(value)} | ATTACKS_OF_TABLES) for value in values)


# Eight people share one shake: 4,096 pictures, averaged weights (EMA), few steps (see docs/protocol.md).
TOGETHER = 8
SHAKE: dict = {
    "finetune": {
        "methods": ["end_to_end"], "learning_rate": 1e-4, "max_train_steps": 300, "train_batch_size": 64,
        "ema_decay": 0.99,
    },
    # Unguided: with guidance, generations copy only the few photos that the base model leaks anyway.
    "extraction": {"sampler": {"guidance_scale": 1.0}},
}  # fmt: skip


def _shaken(label: str, model: str, guidance: float, w: float | None = None) -> Row:
    """Eight people shaken together; with `w`, the un-shaken model is attacked."""
    overrides: dict = {"model": model, "sp_set": {"set_size": 512, "sampler": {"guidance_scale": guidance}}}
    unshake = {"unshake": {"w": w}} if w is not None else {}
    return Row(label, overrides | SHAKE | unshake | ATTACKS_OF_TABLES, TOGETHER)


def _lab_rows() -> Iterator[Row]:
    """On every lab, the two attackers of protocol 2: a guided shake, and the step away from an unguided one."""
    for lab in ("buried", "swapped", "fresh"):
        yield _shaken(f"{lab}, shaken", f"lab:{lab}", 4.0)
        yield _shaken(lab + UNSHAKEN, f"lab:{lab}", 1.0, 1.0)


# Small, so that one lab takes minutes; a row whose label ends in UNSHAKEN shares its shake with the one before it.
DEFENCES = {
    NO_DEFENCE: "twin",
    "de-duplicated": "twin-dedup",
    "public only": "twin-public",
    "clipped, no noise": "twin-dp-inf",
    "DP, epsilon 8": "twin-dp-8",
    "DP, epsilon 1": "twin-dp-1",
    "public, then DP, epsilon 8": "twin-public-then-dp-8",
    "public, then DP by person, epsilon 8": "twin-public-then-dp-8-person",
}
SMALL_SHAKE: dict = {
    "domain": {"n_nonmembers": 80},
    "sp_set": {"set_size": 64},
    "finetune": {"methods": ["lora"], "max_train_steps": 100},
    "audit": {"attacks": ["secmi", "loss", "sima"]},
    "extraction": {"n_generations": 16},
}


def _defence_rows() -> Iterator[Row]:
    for label, lab in DEFENCES.items():
        overrides: dict = {"model": f"lab:{lab}"} | SMALL_SHAKE
        yield Row(label, overrides)
        yield Row(label + UNSHAKEN, overrides | {"unshake": {"w": 1.0}})
    # The wrong defence: it protects the pictures that the model itself has drawn.
    private = merged({"model": f"lab:{DEFENCES[NO_DEFENCE]}"} | SMALL_SHAKE, {"finetune": {"epsilon": 8.0}})
    yield Row("DP fine-tuning, epsilon 8", private)
    yield Row("DP fine-tuning, epsilon 8" + UNSHAKEN, private | {"unshake": {"w": 1.0}})


def _sampler_rows() -> Iterator[Row]:
    """The same extraction with and without a defence; one attack on scores is there for the controls."""
    for mitigation in (None, "late_guidance", "flat_start"):
        extraction = {"n_generations": 64, "sampler": {"mitigation": mitigation}}
        overrides = merged(SMALL_SHAKE, {"audit": {"attacks": ["loss"]}, "extraction": extraction})
        yield Row(mitigation.replace("_", " ") if mitigation else NO_MITIGATION, overrides)


TABLES: dict[str, Table] = {
    "defences": Table(
        "What protects people: every defence on a twin of one lab", tuple(_defence_rows()), also="defences"
    ),
    "sampler": Table("Defences at sampling time", tuple(_sampler_rows()), also="sampler"),
    "labs": Table("Where shaking leaks: the same shake on every lab", tuple(_lab_rows()), people=16),
    "main": Table(
        "Every method of the paper",
        (
            Row(
                "end_to_end, out of domain",
                {"finetune": {"methods": ["end_to_end"]}} | OUT_OF_DOMAIN | ATTACKS_OF_TABLES,
            ),
            *_methods("end_to_end", "dreambooth", "textual_inversion", "hypernetwork", "lora"),
            *_methods("hypernetwork+dreambooth", "lora+dreambooth"),
        ),
    ),
    "methods": Table(
        "Every method and legal combination, one demo run each",
        _methods(*("+".join(names) for names in legal_combinations(FINETUNERS.own))),
        role="calibration",
        people=1,
    ),
    "tokens": Table(
        "Tokens of Textual Inversion",
        _finetune_rows(
            "{} tokens",
            (4, 8, 12, 17),
            lambda n: {"methods": ["textual_inversion"], "settings": {"textual_inversion": {"num_vectors": n}}},
        ),
        people=4,
    ),
    "noise": Table(
        "Gaussian noise on the weights",
        _finetune_rows(
            "sigma {:g}",
            (2e-4, 8e-4, 3.2e-3, 6.4e-3, 1.28e-2),
            lambda sigma: {"methods": ["gaussian_noise"], "settings": {"gaussian_noise": {"noise_sigma": sigma}}},
        ),
        people=4,
    ),
    "extraction": Table(
        "Cheaper extraction: what the same UNet evaluations extract", _extraction_rows(), role="calibration", people=3
    ),
    "attacks": Table(
        "Every attack before and after LoRA; few generations, since the attacks need none",
        (Row("LoRA", {"audit": {"attacks": sorted(ATTACKS.own)}, "extraction": {"n_generations": 16}}),),
        role="calibration",
        people=3,
    ),
    "first": Table(
        "LoRA at the demo preset, the first before/after on the lab", (Row("LoRA"),), role="calibration", people=3
    ),
    "rank": Table(
        "Rank of LoRA",
        _finetune_rows(
            "rank {}", (1, 4, 8, 16, 32), lambda r: {"settings": {"lora": {"rank": r, "lora_alpha": 4.0 * r}}}
        ),
        people=4,
    ),
    "sp-size": Table(
        "Size of the SP set",
        tuple(Row(f"{n} images", {"sp_set": {"set_size": n}} | ATTACKS_OF_TABLES) for n in (32, 64, 128, 512)),
        people=4,
    ),
    "split": Table(
        "What the choice of held-out photos does to an audit",
        (Row("LoRA", {"finetune": {"methods": ["lora"]}} | ATTACKS_OF_TABLES),),
        kind="split",
    ),
}


def get_table(name: str) -> Table:
    """The table of that name. Raises UserError with the nearest match."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]
