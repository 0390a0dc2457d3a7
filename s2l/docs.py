"""Figures in README and docs are generated from committed result files, never typed.

A document holds blocks `<!-- figures: NAME -->` ... `<!-- end -->`; `python -m s2l docs` rewrites
what is between, and a test fails where a document differs from the results.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from s2l.config import unknown
from s2l.store import read_json

DOCUMENTS = ("README.md", "docs/lab.md", "assets/lab/README.md")
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)


def _interval(found: dict, digits: int = 3) -> str:
    return f"[{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _signed(found: dict) -> str:
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def lab_card(results: Path) -> str:
    """The shipped model's baseline, over all people."""
    lab = read_json(results / "lab.json")
    secmi, loss, blind = lab["auc"]["secmi"], lab["auc"]["loss"], lab["blind"]
    counters = lab["model"]["counters"]
    n, held = lab["protocol"]["people"], lab["protocol"]["n_nonmembers"]
    rows = [
        ("SecMI AUC (t=140, k=10), mean over people", f"{secmi['mean']:.3f} {_interval(secmi)}", "at least .58"),
        ("Loss AUC, mean over people", f"{loss['mean']:.3f} {_interval(loss)}", "at most .85"),
        (
            "Blind control (never sees the model), mean AUC",
            f"{blind['mean']:.3f} ± {blind['standard_error']:.3f}",
            ".5",
        ),
        ("VAE reconstruction l2 on held-out photos", f"{lab['vae_floor']:.4f}", "below .03"),
    ]
    lines = ["| measured on the shipped float16 weights | value [95 % interval] | wanted |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {wanted} |" for name, value, wanted in rows]
    lines.append("")
    lines.append(
        f"{n} people, all 40 members against {held} held-out photos each; training: {counters['step']:,} steps of 32, "
        f"{counters['private_seen']:,} private photo views, {counters['seconds'] / 60:.0f} minutes for the UNet. "
        f"Command: `{lab['protocol']['command']}` ({lab['seconds'] / 60:.0f} minutes)."
    )
    return "\n".join(lines)


def lab_repeats(results: Path) -> str:
    """How often a photo was repeated decides how exposed it is."""
    lab = read_json(results / "lab.json")
    repeats = list(lab["auc"]["secmi"]["by_repeats"])
    lines = ["| repeated in pre-training | " + " | ".join(f"{r} x" for r in repeats) + " |"]
    lines.append("|---" * (len(repeats) + 1) + "|")
    for attack, title in (("secmi", "SecMI AUC"), ("loss", "Loss AUC")):
        by = lab["auc"][attack]["by_repeats"]
        lines.append(f"| {title} | " + " | ".join(f"{by[r]:.2f}" for r in repeats) + " |")
    return "\n".join(lines)


def first(results: Path) -> str:
    """LoRA before and after on calibration people."""
    table = read_json(results / "first.json")
    row = table["rows"]["LoRA"]
    lines = [
        "| attack | AUC before | AUC after | paired difference [95 %] | AUC of the change alone |",
        "|---|---|---|---|---|",
    ]
    for name, found in row["attacks"].items():
        before, after = found["before"], found["after"]
        means = [sum(x["per_domain"]) / len(x["per_domain"]) for x in (before, after)]
        lines.append(
            f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {_signed(found['difference'])} | {found['shake_auc']:.3f} |"
        )
    extraction = row["extraction"]
    lines += [
        "",
        f"Distinct members extracted at delta = .1 (of 40, in 256 generations): before "
        f"{extraction['before']['distinct']}, after {extraction['after']['distinct']}; held-out photos, scaled to 40: "
        f"before {extraction['before']['mean_nonmembers_scaled']:.1f}, "
        f"after {extraction['after']['mean_nonmembers_scaled']:.1f}. "
        f"{table['n_people']} {table['role']} people ({', '.join(row['people'])}); command: `{table['command']}`.",
    ]
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "lab-card": lab_card,
    "lab-repeats": lab_repeats,
    "first": first,
}


def rendered(text: str, results: Path) -> str:
    """A document's text with every figures block made from `results`. Raises UserError for an unknown block."""

    def fill(match: re.Match) -> str:
        if match["name"] not in BLOCKS:
            raise unknown("figures block", match["name"], BLOCKS)
        return f"{match[1]}{BLOCKS[match['name']](results)}\n{match[4]}"

    return BLOCK.sub(fill, text)


def update(root: Path = Path(".")) -> list[str]:
    """Rewrite the figures of all documents; returns the names of those that changed."""
    changed = []
    for name in DOCUMENTS:
        path = root / name
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        new = rendered(text, root / "results")
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(name)
    return changed
