"""An upload checked by several gates, as the record that becomes gate.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from s2l.config import SCHEMA_VERSION
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import protected_photos
from s2l.data.photos import read_photos
from s2l.errors import UserError
from s2l.gates.apart import check_apart
from s2l.gates.registry import GATES, Upload, get_gate
from s2l.gates.verdict import ALPHA, MIN_GROUPS, honest_groups, judge
from s2l.labs import Lab
from s2l.model.diffusion import DiffusionModel
from s2l.progress import Event, Progress, silent


def gate_names(text: str | None, has_private: bool) -> list[str]:
    """The names in a list such as "own_output, near_members"; for None, all gates that can run.

    `has_private` says whether there are private photos to compare with. Raises UserError for an unknown gate, an empty
    list, and a gate whose private photos are missing.
    """
    if text is None:
        return [name for name, gate in GATES.items() if has_private or not gate.needs_private]
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UserError(f"name at least one gate. Allowed: {', '.join(GATES)}", field="gates")
    for name in names:
        if get_gate(name).needs_private and not has_private:
            raise UserError(f"the gate {name!r} compares with private photos: give their folder", field="private")
    return names


def _resized(folder: Path, sizes: Sequence[tuple[int, int]], resolution: int) -> list[str]:
    """A note on pictures of another size than the model's: resizing hides a part of what `own_output` looks for."""
    n = sum(size != (resolution, resolution) for size in sizes)
    if not n:
        return []
    return [f"{n} of {len(sizes)} pictures in {folder} were resized, because the model works on {resolution} x "
            f"{resolution} pixels: the gate sees less in them (docs/gate.md)"]  # fmt: skip


def check_upload(
    model: DiffusionModel,
    lab: Lab | None,
    upload: Path,
    private: Path | None = None,
    honest: Sequence[Path] = (),
    gates: str | None = None,
    alpha: float = ALPHA,
    seed: int = 0,
    progress: Progress = silent,
) -> dict:
    """Judge the pictures in `upload`. A lab has private photos and honest uploads of its own, which folders replace.

    Returns what `s2l gate` writes (docs/result-schema.md). Raises UserError for folders without usable pictures, for
    fewer than three honest groups or such as share pictures with others, and for an unknown gate or one that lacks its
    private photos.
    """
    names = gate_names(gates, has_private=private is not None or lab is not None)
    if not honest and lab is None:
        raise UserError(f"honest pictures of at least {MIN_GROUPS} people are needed", field="honest")
    notes: list[str] = []

    def read(folder: Path) -> ImageSet:
        photos = read_photos(folder, model.resolution, "", what="")
        sides = [(found.width, found.height) for found in photos.account.traits]
        notes.extend((*photos.notes, *_resized(folder, sides, model.resolution)))
        return ImageSet(photos.images, photos.captions, photos.names)

    pictures = read(upload)
    groups = honest_groups(lab) if lab is not None and not honest else [read(folder) for folder in honest]
    protected = None
    if any(GATES[name].needs_private for name in names):
        protected = read(private) if private is not None else protected_photos(lab) if lab is not None else None
    if honest or private is not None:  # a lab's own are apart
        named = map(str, honest) if honest else (f"the lab's honest upload {i}" for i in range(1, len(groups) + 1))
        check_apart(pictures, protected, list(zip(named, groups, strict=True)))
    verdicts = []
    for i, name in enumerate(names):
        verdicts.append(judge(name, model, Upload(pictures, protected), groups, alpha=alpha, seed=seed))
        progress(Event("gates", i + 1, len(names)))
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "gate",
        "model": model.key,
        "upload": str(upload),
        "pictures": list(pictures.ids),
        "private": 0 if protected is None else len(protected),
        "honest": [len(group) for group in groups],
        "alpha": alpha,
        "seed": seed,
        "refused": any(verdict.refused for verdict in verdicts),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "notes": notes,
    }
