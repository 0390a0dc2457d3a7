"""What docs say of a lab's photos and its autoencoder: sentences with figures from results/lab.json. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from s2l.store import read_json
from s2l.tables.sheet import TITLES

COMMAND = "python -m s2l lab measure"
NOT_MEASURED = f"Not measured yet: `{COMMAND}`."


def photos_apart(results: Path) -> str:
    """How far two photos of one person are apart."""
    lab = read_json(results / "lab.json")
    if (apart := lab.get("photos_apart")) is None:
        return NOT_MEASURED
    return (
        f"Two different member photos of one person differ by an l2 of {apart['mean']:.2f} on average and of "
        f"{apart['smallest']:.3f} at the least ({apart['pairs']:,} pairs of {lab['protocol']['people']} people; "
        f"`{COMMAND}`). A generation within .1 of a photo is a copy or, "
        "rarely, a likeness: how often is measured among held-out photos, which the model cannot have copied."
    )


def word_l2(results: Path) -> str:
    """The glossary's entry on l2: how far apart two photos of one person are."""
    if (apart := read_json(results / "lab.json").get("photos_apart")) is None:
        known = NOT_MEASURED
    else:
        known = (
            f"Two different photos of one person are about {apart['mean']:.2f} apart, and never less than "
            f"{apart['smallest']:.2f}."
        )
    return (
        "- **l2**: the distance between two pictures, pixel by pixel. It is 0 for identical pictures and 1 for black\n"
        f"  and white. {known}"
    )


def posterior(results: Path) -> str:
    """How wide the posterior of the lab's autoencoder is, and what sampling it does to the attacks."""
    lab = read_json(results / "lab.json")
    if (measured := lab.get("posterior")) is None:
        return NOT_MEASURED
    aucs = ", ".join(f"{TITLES[a]} {by['mode']:.3f} and {by['sample']:.3f}" for a, by in measured["auc"].items())
    return (
        f"The lab `fresh`: an entry of a latent has a posterior standard deviation of {measured['std']:.3f} on "
        f"average, in units of the scaled latents. AUC before fine-tuning with the mode and with a sample, means over "
        f"{measured['people']} calibration people: {aucs} (`{COMMAND}`)."
    )


def batch_size(results: Path) -> str:
    """What the batch size changes, in float32 and in mixed precision."""
    effect = read_json(results / "lab.json").get("batch_size")
    if effect is None:
        return NOT_MEASURED
    parts = [
        f"in {dtype} a picture changes by at most {by['pictures']:.0f} of 255 and a LoRA's weights after ten steps by "
        f"at most {by['weights']:.1g} of the largest"
        for dtype, by in effect.items()
    ]
    return f"Images one by one instead of eight at once: {', '.join(parts)} (the lab `fresh`; `{COMMAND}`)."
