"""The table `defences` as sheets of text: what each defence leaves of every attack, and what it costs."""

from __future__ import annotations

from pathlib import Path

from s2l.store import read_json
from s2l.tables.sheet import NO_DEFENCE, UNSHAKEN, Sheet, change, interval, markdown, mean, titles

SURE = 0.01  # below this p-value, a person's members stand out as a set
WITHHELD = f"{NO_DEFENCE}, base weights withheld"


def _labs(table: dict) -> dict[str, tuple[dict, dict | None]]:
    """{label: (the row, the row of the same lab un-shaken)}."""
    rows = table["rows"]
    return {label: (row, rows.get(label + UNSHAKEN)) for label, row in rows.items() if not label.endswith(UNSHAKEN)}


def _best(estimates: dict[str, dict], names: dict[str, str]) -> str:
    """The highest of several attacks' AUCs, and whose it is."""
    best = max(estimates, key=lambda name: estimates[name]["mean"])
    return f"{mean(estimates[best])} ({names[best]})"


def attacks(table: dict) -> Sheet:
    """Every attacker on every lab: the base model alone, the fine-tuned one, both, and the un-shaken one."""
    names = titles(table)
    head = ("", *(f"{title}, base model" for title in names.values()), "best on the base model",
            "best on the fine-tuned model alone", "best with both models", "best on the un-shaken model")  # fmt: skip
    rows = []
    for label, (row, unshaken) in _labs(table).items():
        outcomes = row["attacks"]
        base = {name: outcomes[name]["before"] for name in names}
        after = _best({name: outcomes[name]["after"] for name in names}, names)
        both = {name: x["reference"]["auc"] for name, x in outcomes.items() if x["reference"]}
        away = {name: x["after"] for name, x in unshaken["attacks"].items()} if unshaken else {}
        rows.append((label, *(mean(base[name]) for name in names), _best(base, names), after,
                     _best(both, names) if both else "", _best(away, names) if away else ""))  # fmt: skip
        if label == NO_DEFENCE:
            rows.append((WITHHELD, *("" for _ in names), "", after, "", ""))
    return Sheet("AUC of the attacks", head, tuple(rows))


def _from_none(label: str, row: dict, name: str) -> str:
    return "" if label == NO_DEFENCE or row["change"] is None else change(row["change"][name])


def _sets(row: dict, names: dict[str, str]) -> str:
    """How many people's members stand out as a set, by the attack that finds most."""
    found = {name: sum(p < SURE for p in row["sets"][name]) for name in names}
    best = max(found, key=lambda name: found[name])
    return f"{found[best]} of {len(row['sets'][best])}" + (f" ({names[best]})" if found[best] else "")


def changes(table: dict) -> Sheet:
    """The paired change of the attacks from the lab without a defence, and the photos near a picture: base models."""
    names = titles(table)
    head = ("", *(f"{title}, change from none" for title in names.values()),
            f"people whose members stand out as a set (p < {SURE:g})", "members within l2 .1 of a picture",
            "held-out photos, scaled")  # fmt: skip
    rows = []
    for label, (row, _) in _labs(table).items():
        members, held_out = row["extraction"]["before"]["within"]["0.1"]
        near = f"{members:.1f}", f"{row['n_members'] / row['n_nonmembers'] * held_out:.1f}"
        rows.append((label, *(_from_none(label, row, name) for name in names), _sets(row, names), *near))
    return Sheet("What the defence takes away, on the base model", head, tuple(rows))


def _promise(privacy: dict | None) -> tuple[str, str]:
    """(epsilon, delta and unit) that the training states."""
    if privacy is None:
        return "no promise", ""
    stated = "no promise (no noise)" if privacy["epsilon"] is None else f"{privacy['epsilon']:.2f}"
    return stated, f"{privacy['delta']:g}, {privacy['unit']}"


def _proved(bound: dict, privacy: dict | None, names: dict[str, str]) -> str:
    """The epsilon that an attack proves; one above the promise shows that the implementation is wrong."""
    text = f"at least {bound['epsilon']:.2f} ({names[bound['attack']]})"
    promised = privacy["epsilon"] if privacy else None
    return text + (": ABOVE THE PROMISE" if promised is not None and bound["epsilon"] > promised else "")


def promises(table: dict) -> Sheet:
    """What was promised, what the attacks prove, and what the defence costs."""
    names = titles(table)
    head = ("", "epsilon promised", "delta, unit", "epsilon that an attack proves (95 %)", "most that it could prove",
            "loss, held-out photos of the people", "loss, public photos", "pictures recognised")  # fmt: skip
    rows = []
    for label, (row, _) in _labs(table).items():
        bound, price = row["bound"], row["price"]
        seen = price["recognised"]
        rows.append((
            label, *_promise(row["privacy"]), _proved(bound, row["privacy"], names),
            f"{bound['largest']:.2f}", mean(price["held_out_loss"]), f"{price['public_loss']:.3f}",
            f"{seen['right']} of {seen['of']} {interval(seen, 2)}",
        ))  # fmt: skip
    return Sheet("Promise and price", head, tuple(rows))


def sheets(table: dict) -> list[Sheet]:
    """Everything in the table, as text."""
    return [attacks(table), changes(table), promises(table)]


def how(table: dict) -> str:
    """Who was measured and what the columns mean: one paragraph."""
    row, n = next(iter(table["rows"].values())), table["n_people"]
    people = f"{n} {table['role']} {'people, each' if n > 1 else 'person'} with {row['n_members']} members and"
    return (
        f"{people} {row['n_nonmembers']} held-out photos. Brackets: 95 % intervals over people and photos, not over "
        "another training of a lab. Best: the highest of the attacks, picked after the fact in every cell. Base "
        "weights withheld: the attacker gets the fine-tuned model without its base, which leaves the attacks on one. "
        "Epsilon that an attack proves: attack and threshold were chosen on the calibration people; the photos of one "
        "training are taken as independent. Members within l2 .1 of one of the base model's pictures are copies, if "
        "held-out photos are not as near. Recognised: a stranger who knows the people by held-out photos picks the "
        f"nearest photo; chance is 1 in {n}. Blind control: mean AUC {mean(row['control_auc'])}."
    )


# --- blocks of documents ----------------------------------------------------------------------------------------------


def block(results: Path) -> str:
    """The whole table, or the command that makes it."""
    path = results / "defences.json"
    if not path.exists():
        return "Not measured yet: `python -m s2l table defences --dtype float32`."
    table = read_json(path)
    lines = [line for sheet in sheets(table) for line in (f"**{sheet.title}**", "", *markdown(sheet), "")]
    return "\n".join([*lines, f"{how(table)} Command: `{table['command']}`."])


def dp_speed(results: Path) -> str:
    """What differentially private training costs in time, beside the plain loop."""
    path = results / "dp-speed.json"
    if not path.exists():
        return "Not measured yet: `python -m tests.slow.test_dp_speed`."
    speed = read_json(path)
    rows = tuple(
        (what, f"{by['images_per_s']:.1f}", f"{by['images_per_s'] / speed['rates']['plain']['images_per_s']:.2f}")
        for what, by in speed["rates"].items()
    )
    sheet = Sheet("", ("training", "images per second of CPU time", "share of the plain loop"), rows)
    where = f"One thread, float32, batches of {speed['batch_size']}, medians of {speed['rounds']} rounds in turn."
    return "\n".join([*markdown(sheet), "", f"{where} Command: `{speed['command']}`."])
