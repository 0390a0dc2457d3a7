"""Text and plot of a table whose rows are runs on several labs, each with its own base model.

It shows all attacks side by side and the photos near a generation. There are no paper's figures to compare with.
"""

from __future__ import annotations

from s2l.figures import changes_figure
from s2l.tables.sheet import Sheet, change, ends, in_words, mean, titles

ALT = "Changes with 95 % intervals"
NEAR = ("0.1", "0.12")  # l2 within which a photo counts as near a generation


def is_by_lab(table: dict) -> bool:
    """Whether the rows of a finished table have different base models, or one of them is un-shaken."""
    rows = table["rows"].values()
    return len({row["model_key"] for row in rows if "model_key" in row}) > 1 or any(r.get("unshaken") for r in rows)


def changes(table: dict) -> Sheet:
    """The AUC of every attack on each row's base model, and its paired change."""
    names = titles(table)
    head = ("", *(text for title in names.values() for text in (f"{title} before", "change")))
    rows = []
    for label, row in table["rows"].items():
        outcomes = [row["attacks"][name] for name in names]
        cells = [text for x in outcomes for text in (f"{x['before']['mean']:.3f}", change(x["difference"]))]
        rows.append((in_words(label), *cells))
    return Sheet("Membership inference", head, tuple(rows))


def copies(table: dict) -> Sheet:
    """How many members, and held-out photos scaled to the same number, lie near a generation, before and after."""
    head = ("", *(f"within {d}: {what}" for d in NEAR for what in ("members", "held-out")), "extracted, change")
    rows = []
    for label, row in table["rows"].items():
        scale = row["n_members"] / row["n_nonmembers"]
        near = [[row["extraction"][when]["within"][d] for when in ("before", "after")] for d in NEAR]
        cells = []
        for (members0, held0), (members1, held1) in near:
            cells += [f"{members0:.1f} to {members1:.1f}", f"{scale * held0:.1f} to {scale * held1:.1f}"]
        rows.append((in_words(label), *cells, change(row["extraction"]["difference"], 1)))
    return Sheet("Photos near a generation, per person", head, tuple(rows))


def sheets(table: dict) -> list[Sheet]:
    """Everything in the table, as text."""
    return [changes(table), copies(table)]


def how(table: dict) -> str:
    """Who was measured and what the intervals cover: one paragraph."""
    row = next(iter(table["rows"].values()))
    controls = ", ".join(f"{label} {mean(r['control_auc'])}" for label, r in table["rows"].items())
    return (
        f"{table['n_people']} {table['role']} people, each with {row['n_members']} members and {row['n_nonmembers']} "
        f"held-out photos of the row's lab. Brackets: 95 % intervals over people and photos, not over another "
        f"training of the lab. Every change is paired: the same photos, noise and seeds before and after. "
        f"Blind control, mean AUC: {controls}."
    )


def plot(table: dict, dark: bool = False):
    """The change of every attack's AUC, one line per row, with 95 % intervals."""
    names = titles(table)
    rows = [
        (in_words(label), {title: ends(row["attacks"][name]["difference"]) for name, title in names.items()})
        for label, row in table["rows"].items()
    ]
    return changes_figure(rows, table["n_people"], dark)
