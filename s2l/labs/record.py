"""A lab's `lab.json`: its recipe, people, photo seeds, repeats and hashes; read and checked. Loads no torch.

resolution      side of a photo in pixels
n_members       photos per person
people          one object per person: index, name, identity_seed, role, photo_seeds, repeats, hashes and, where the
                held-out photos are not the usual ones, held_out: half-open ranges [first, stop] of photo seeds; the
                last one may have no end, [first, null]
recipe          the settings of the training; its "name" is shown in the list of labs
counters        numbers that the training recorded, such as its steps
title, purpose  optional: the lab in a few words, and what it is for
vocabulary      optional: every word of its captions
privacy         optional: what differentially private training promises (see privacy.py)
"""

from __future__ import annotations

import json
from pathlib import Path

from s2l.errors import UserError

RECORD = "lab.json"
PERSON_FIELDS = ("index", "name", "identity_seed", "role", "photo_seeds", "repeats", "hashes")


def read_record(folder: Path) -> dict:
    """The content of a folder's `lab.json`. Raises UserError when it does not describe a lab."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read as JSON: a lab's folder needs the {RECORD} of its training") from None
    if reason := _fault(record):
        raise UserError(f"{path} does not describe a lab: {reason}")
    return record


def _fault(record) -> str:
    """What is wrong with a record, or ""."""
    if not isinstance(record, dict):
        return "it is not a JSON object"
    if missing := [name for name in ("resolution", "n_members", "people") if name not in record]:
        return f"{missing[0]!r} is missing"
    people = record["people"]
    if not (isinstance(people, list) and people and all(isinstance(row, dict) for row in people)):
        return "'people' should be a list of at least one person"
    for row in people:
        if missing := [name for name in PERSON_FIELDS if name not in row]:
            return f"a person has no {missing[0]!r}"
        if not len(row["photo_seeds"]) == len(row["repeats"]) == len(row["hashes"]) > 0:
            return f"{row['name']} should have as many 'repeats' and 'hashes' as 'photo_seeds', and at least one"
        for first, stop in row.get("held_out", ()):
            if any(first <= seed and (stop is None or seed < stop) for seed in row["photo_seeds"]):
                return f"a photo of {row['name']} is both a member and held out"
    if len({row["name"].lower() for row in people}) < len(people):
        return "two people have the same name"
    return ""
