"""A table of text (`Sheet`), and numbers with their intervals written out."""

from __future__ import annotations

from dataclasses import dataclass

# Of the attacks that sentences name; the registry of attacks (`titles`) would load torch.
TITLES = {"loss": "Loss", "secmi": "SecMI", "pia": "PIA", "sima": "SimA"}

# Labels of rows that others look up: the lab without a defence, what is added for its un-shaken model, and
# the sampler without a mitigation.
NO_DEFENCE, UNSHAKEN = "none", ", un-shaken"
NO_MITIGATION = "no mitigation"


@dataclass(frozen=True)
class Sheet:
    """A title above a table of text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def interval(estimate: dict, digits: int = 3, sign: str = "") -> str:
    """ "[low, high]"; empty for a single person, who has no interval; words if all people have the same value."""
    if estimate["low"] is None:
        return ""
    if estimate["low"] == estimate["high"]:
        return "(the same for every person)"
    return f"[{estimate['low']:{sign}.{digits}f}, {estimate['high']:{sign}.{digits}f}]"


def value_of(estimate: dict) -> float:
    """The value of a paired difference: "difference" for AUCs, "mean" (over people) for counts."""
    return estimate["difference"] if "difference" in estimate else estimate["mean"]


def change(estimate: dict, digits: int = 3) -> str:
    """A paired difference with its interval."""
    return f"{value_of(estimate):+.{digits}f} {interval(estimate, digits, '+')}".strip()


def mean(estimate: dict, digits: int = 3) -> str:
    """A mean with its interval."""
    return f"{estimate['mean']:.{digits}f} {interval(estimate, digits)}".strip()


def markdown(sheet: Sheet) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(sheet.head)} |", "|---" * len(sheet.head) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in sheet.rows]


def in_words(label: str) -> str:
    """A row's label as readers see it: "lora+dreambooth" becomes "LoRA + DreamBooth", other labels stay."""
    from s2l.finetune import FINETUNERS

    names, comma, rest = label.partition(", ")
    if not all(name in FINETUNERS for name in names.split("+")):
        return label
    return " + ".join(FINETUNERS[name].title for name in names.split("+")) + comma + rest


def titles(table: dict) -> dict[str, str]:
    """{name: title} of the attacks of a finished table; an attack that is not installed keeps its name."""
    from s2l.attacks import ATTACKS  # loads torch: the app's first picture must not wait for it

    names = next(iter(table["rows"].values()))["attacks"]
    return {name: ATTACKS[name].title if name in ATTACKS else name for name in names}


def ends(estimate: dict) -> tuple[float, float, float]:
    """(value, low, high) of a paired difference; the interval of a single person has no width."""
    value = value_of(estimate)
    return (value, value, value) if estimate["low"] is None else (value, estimate["low"], estimate["high"])
