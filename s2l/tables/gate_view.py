"""The table of `gate-study` as text: what the gate catches, whom it stops wrongly, and which signal is best."""

from __future__ import annotations

from pathlib import Path

from s2l.store import read_json
from s2l.tables.sheet import Sheet, markdown, mean


def share(rate: dict) -> str:
    """ "94 % [87, 98]"."""
    return f"{100 * rate['rate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def _caught(table: dict, size: str) -> Sheet:
    head = ("pictures of the model's own", "caught", *(f"by {title}" for title in table["gates"].values()))
    head += tuple(f"AUC against {kind}" for kind in table["negatives"])
    rows = tuple(
        (
            label,
            share(row[size]["tpr"]),
            *(f"{100 * row[size]['by_gate'][gate]:.0f} %" for gate in table["gates"]),
            *(mean(row[size]["auc"][kind], 2) for kind in table["negatives"]),
        )
        for label, row in table["rows"].items()
    )
    n = next(iter(table["rows"].values()))[size]["uploads"]
    return Sheet(f"Uploads of {size} pictures ({n} of each kind)", head, rows)


def sheets(table: dict) -> list[Sheet]:
    """What is caught, who is stopped wrongly, and the signals that were compared on calibration people."""
    sizes = list(table["thresholds"])
    wrongly = tuple(
        (kind, *(share(row[size]["fpr"]) for size in sizes)) for kind, row in table["negatives"].items()
    )  # fmt: skip
    head = ("honest uploads, and those of another lab", *(f"refused, {size} pictures" for size in sizes))
    parts = [*(_caught(table, size) for size in sizes), Sheet("Who is stopped wrongly", head, wrongly)]
    return [*parts, *_signals(table)]


def _signals(table: dict) -> list[Sheet]:
    found = []
    for model in next(iter(table["signals"]))["auc"] if table["signals"] else ():
        first = table["signals"][0]["auc"][model]
        pairs = [(own, other) for own, others in first.items() for other in others]
        head = ("signal", *(f"{own} against {other}" for own, other in pairs))
        rows = tuple(
            (signal["name"], *(f"{signal['auc'][model][own][other]:.2f}" for own, other in pairs))
            for signal in table["signals"]
        )
        found.append(Sheet(f"Candidate signals on calibration people, AUC per picture, model {model}", head, rows))
    return found


def how(table: dict) -> str:
    """On which pictures, and what the brackets are: one paragraph."""
    return (
        f"{table['n_people']} reporting people of the lab {table['lab']}, {table['pictures']} pictures of each kind; "
        f"SP sets of {table['steps']} sampler steps; another lab's pictures are those of {table['other']} at guidance "
        "1. "
        f"Thresholds are frozen on the {len(table['calibration'])} calibration people's honest uploads (held-out "
        f"photos, also as JPEG, and public photos), so that the gates together refuse {100 * table['fpr']:g} % of "
        "them; caught is the share above them. Brackets: 95 % intervals over people (for shares, the wider one of that "
        "and the exact one over uploads). AUC: of the surest gate's distance from its threshold."
    )


def block(results: Path) -> str:
    """What is caught at the smallest size of an upload, and who is stopped wrongly, for a document."""
    path = results / "gate.json"
    if not path.exists():
        return "Not measured yet: `python -m s2l gate-study`."
    table = read_json(path)
    parts = sheets(table)
    shown = (parts[0], parts[len(table["thresholds"])])
    lines = [line for sheet in shown for line in (f"**{sheet.title}**", "", *markdown(sheet), "")]
    return "\n".join([*lines, f"{how(table)} Command: `{table['command']}`."])
