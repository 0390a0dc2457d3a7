"""The table `sampler` as text: what a defence at sampling time leaves of the extraction, and what it costs."""

from __future__ import annotations

from pathlib import Path

from s2l.store import read_json
from s2l.tables.sheet import NO_MITIGATION, Sheet, change, interval, markdown, mean

WHEN = {"before": "base model", "after": "after the shake"}


def sheets(table: dict) -> list[Sheet]:
    """One line per defence."""
    columns = ("members extracted, {}", "held-out photos, scaled", "change from none")
    head = ("", *(column.format(model) for model in WHEN.values() for column in columns),
            "pictures recognised", "UNet evaluations per picture")  # fmt: skip
    return [Sheet("Extraction within l2 = .1, per person", head, tuple(_line(*item) for item in table["rows"].items()))]


def _line(label: str, row: dict) -> tuple[str, ...]:
    cells = []
    for when in WHEN:
        outcome = row["extraction"][when]
        found, held_out = mean(outcome["distinct_over_people"], 1), f"{outcome['mean_nonmembers_scaled']:.1f}"
        is_first = label == NO_MITIGATION or row["change"] is None
        cells += [found, held_out, "" if is_first else change(row["change"][when], 1)]
    seen = row["price"]["recognised"]
    cost = row["extraction"]["before"]["unet_evaluations"] / row["n_generations"]
    return (label, *cells, f"{seen['right']} of {seen['of']} {interval(seen, 2)}", f"{cost:,.0f}")


def how(table: dict) -> str:
    """Who was measured and what the columns mean: one paragraph."""
    row, n = next(iter(table["rows"].values())), table["n_people"]
    people = f"{n} {table['role']} {'people' if n > 1 else 'person'}"
    return (
        f"{people}, {row['n_generations']} generations of each model, {row['n_members']} members and "
        f"{row['n_nonmembers']} held-out photos each; preset {table['preset']}. The prompts, seeds and weights of all "
        "lines are the same; brackets: 95 % intervals over people. The settings are those of the authors of each "
        "defence; none was chosen here. Recognised: a stranger who knows the people by held-out photos picks the "
        f"nearest photo; chance is 1 in {n}. A backward pass counts as two evaluations."
    )


def block(results: Path) -> str:
    """The whole table, or the command that makes it."""
    path = results / "sampler.json"
    if not path.exists():
        return "Not measured yet: `python -m s2l table sampler --dtype float32`."
    table = read_json(path)
    return "\n".join([*markdown(sheets(table)[0]), "", f"{how(table)} Command: `{table['command']}`."])
