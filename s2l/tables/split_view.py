"""The table `split` as sheets of text and as a plot: what the choice of held-out photos does to an audit."""

from __future__ import annotations

from s2l.figures import Dose, dose_figure
from s2l.tables.sheet import Sheet, change, interval, mean, titles

ALT = "Blind control, SecMI AUC before and its change, against the share of second-source photos"
SHOWN = "secmi"  # the attack of the plot
DIRECTIONS = {"studio": "studio (easier pictures)", "street": "street (harder pictures)"}


def _row(table: dict) -> dict:
    (row,) = table["rows"].values()
    return row


def sheets(table: dict) -> list[Sheet]:
    """What each direction adds to the change, then one sheet per attack."""
    row, names = _row(table), titles(table)
    parts = [_of_attack(row, name, title) for name, title in names.items()]
    return [_inflation(row, names), *parts]


def _of_attack(row: dict, name: str, title: str) -> Sheet:
    head = (
        "second source", "share", "blind control", "AUC before", "AUC after", "change",
        "never-seen photos as members: AUC before", "never-seen: change",
    )  # fmt: skip
    rows = []
    for direction, words in DIRECTIONS.items():
        outcome, blind = row["attacks"][name][direction], row["blind"][direction]["members"]
        never = outcome["never"]["shares"]
        for i, at in enumerate(outcome["members"]["shares"]):
            share = f"{100 * at['share']:g} %" if at["share"] else "0 % (fair)"
            rows.append((
                words, share, mean(blind[i]), mean(at["before"]), mean(at["after"]), change(at["difference"]),
                mean(never[i]["before"]), change(never[i]["difference"]),
            ))  # fmt: skip
    return Sheet(title, head, tuple(rows))


def _inflation(row: dict, names: dict[str, str]) -> Sheet:
    first = row["attacks"][next(iter(names))]["studio"]["members"]["inflation"]
    level = f"[{100 * first['confidence']:g} %]"
    head = ("attack", "second source", "change, fair split", "change, second source only",
            f"what the source adds {level}", f"never-seen photos as members: what the source adds {level}")  # fmt: skip
    rows = []
    for name, title in names.items():
        for direction, words in DIRECTIONS.items():
            members, never = (row["attacks"][name][direction][who] for who in ("members", "never"))
            ends = (change(members["shares"][i]["difference"]) for i in (0, -1))
            rows.append((title, words, *ends, change(members["inflation"]), change(never["inflation"])))
    return Sheet("What the second source adds to the change of the AUC", head, tuple(rows))


def how(table: dict) -> str:
    """Who was measured, on which photos, and what the intervals cover: one paragraph."""
    row, n = _row(table), table["n_people"]
    people = f"{n} {table['role']} people, each with" if n > 1 else f"1 {table['role']} person with"
    covers = "people and photos (blind control: over people)" if n > 1 else "the photos of one person only"
    control = row["blind"]["studio"]["members"][0]
    fair = f"{control['mean']:.3f} {interval(control)}".strip()
    return (
        f"{people} {row['n_members']} members and {row['n_nonmembers']} photos that the model never saw, of which the "
        f"given share comes from the second source; preset {table['preset']}, {next(iter(table['rows']))}. At share 0 "
        f"the split is fair, and the mean AUC of the blind control is {fair}. Never-seen photos as members: held-out "
        f"photos in the members' place, whose change cannot be memory. Brackets: 95 % intervals, or as the column "
        f"says, over {covers}, not over another pre-training of the model. Every change is paired: the same photos and "
        "noise before and after."
    )


def _curve(points: list[dict]) -> tuple[list[float], list[float], list[float]]:
    """(values, lower ends, upper ends); a single person's mean has no interval."""
    values = [point["difference"] if "difference" in point else point["mean"] for point in points]
    ends = ([v if point[end] is None else point[end] for v, point in zip(values, points, strict=True)]
            for end in ("low", "high"))  # fmt: skip
    low, high = ends
    return values, low, high


def plot(table: dict, dark: bool = False):
    """Blind control, AUC before and change against the share, one line per direction, with the never-seen photos'."""
    row, doses = _row(table), []
    name = SHOWN if SHOWN in row["attacks"] else next(iter(row["attacks"]))
    for direction in DIRECTIONS:
        outcome = row["attacks"][name][direction]
        members, never = outcome["members"]["shares"], outcome["never"]["shares"]
        doses.append(
            Dose(
                direction,
                [100 * point["share"] for point in members],
                _curve(row["blind"][direction]["members"]),
                _curve([point["before"] for point in members]),
                _curve([point["difference"] for point in members]),
                _curve([point["difference"] for point in never]),
            )
        )
    return dose_figure(doses, titles(table)[name], table["n_people"], dark)
