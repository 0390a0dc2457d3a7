"""The table `blind` as a sheet of text: what the blind controls catch, beside what the attacks claim."""

from __future__ import annotations

from s2l.tables.sheet import Sheet, mean, titles


def _share(rate: dict) -> str:
    return f"{100 * rate['rate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def sheets(table: dict) -> list[Sheet]:
    """How often either control warns, at each number of photos, and what each control sees on its own."""
    names, sizes = titles(table), list(next(iter(table["rows"].values()))["warned"])
    head = ("the two folders differ in", *(f"warned, {size}" for size in sizes))
    fixed = list(next(iter(table["rows"].values()))["fixed"])
    head += (*(f"{title} AUC" for title in names.values()), *(f"warned after --fix, {size}" for size in fixed))
    rows = [
        (
            label,
            *(_share(row["warned"][size]["either"]) for size in sizes),
            *(mean(row["attacks"][name], 2) for name in names),
            *(_share(row["fixed"][size]["either"]) for size in fixed),
        )
        for label, row in table["rows"].items()
    ]
    each = ("the two folders differ in", *(f"{what}, {size}" for what in ("finest scale", "coarse") for size in sizes))
    alone = [
        (label, *(_share(row["warned"][size][what]) for what in ("fine", "coarse") for size in sizes))
        for label, row in table["rows"].items()
    ]
    return [
        Sheet(
            "How often the blind controls warn, and what the attacks claim of photos that no model saw",
            head,
            tuple(rows),
        ),
        Sheet("Each control alone", each, tuple(alone)),
    ]


def how(table: dict) -> str:
    """On which photos, and what the brackets are: one paragraph."""
    warned = next(iter(table["rows"].values()))["warned"]
    splits = ", ".join(f"{each['splits']} at {size}" for size, each in warned.items())
    return (
        f"Held-out photos of {len(table['people'])} calibration people of the lab {table['lab']}, {table['photos']} of "
        f"each: nobody is a member, so the true AUC of every attack is .5. Warned: the share of random splits (members/"
        f"held-out photos; {splits}) in which either blind control warns, each at a level of 2.5 %, with exact 95 % "
        "intervals. AUC on the base model: every photo of one side against every other photo of the same person on the "
        f"other, {table['scored']} photos of each person, with a 95 % bootstrap interval over photos; without a "
        "difference it is .5 by construction. Far below .5 is as wrong as far above it. Warned after --fix: the same "
        f"photos, re-encoded as `split-check --fix` does it ({next(iter(table['rows'].values()))['treatment']})."
    )
