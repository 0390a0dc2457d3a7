"""Which lab a model's name means: `lab`, `lab:NAME`, or the folder of one. Loads no torch.

`lab:NAME` is a shipped lab, or else the one that `lab build --recipe NAME` has made in the cache.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from s2l.assets import ASSETS
from s2l.config import HUB, LAB
from s2l.environment import Program
from s2l.errors import UserError, unknown
from s2l.labs.lab import Lab
from s2l.labs.record import RECORD, read_record
from s2l.store import cache_root

SHIPPED = ASSETS / "labs"  # one folder per lab; its name is the lab's
DEFAULT = Program.model_fields["lab"].default  # what plain `lab` means unless S2L_LAB names another lab
PREFIX = f"{LAB}:"


def find_lab(model: str) -> Lab | None:
    """The lab that a model's name means; None for every other checkpoint.

    `lab` is the default lab, `lab:NAME` a shipped or a built one, and any folder with `lab.json` beside
    `model_index.json` is a lab too. Raises UserError for a name that no shipped lab has, and for a broken `lab.json`.
    """
    if model == LAB:
        return default_lab()
    if model.startswith(PREFIX):
        name = model.removeprefix(PREFIX)
        return _lab(built_folder(name), name) if _is_built(name) else shipped_lab(name)
    if model.startswith(HUB):
        return None
    folder = Path(model)
    return _lab(folder) if is_lab(folder) else None


def default_lab() -> Lab:
    """What plain `lab` means: the lab that S2L_LAB names (a shipped one or a folder), or else the lab `fresh`.

    Raises UserError if S2L_LAB names no lab.
    """
    setting = Program.read().lab
    name, folder = setting.removeprefix(PREFIX), Path(setting)
    if setting.startswith(PREFIX) or name in (DEFAULT, *_shipped_names()):
        return shipped_lab(name)
    if is_lab(folder):
        return _lab(folder)
    if folder.exists() or folder.name != setting:  # it is a folder, or looks like the path of one
        raise UserError(f"S2L_LAB: there is no lab in {folder}; `python -m s2l lab build` makes one")
    raise UserError(f"S2L_LAB: {unknown('lab', setting, _shipped_names())}, or the folder of another lab")


def shipped_labs() -> list[Lab]:
    """The labs that come with the program, the default first, the others by name."""
    return [shipped_lab(name) for name in _shipped_names()]


def shipped_lab(name: str) -> Lab:
    """The shipped lab of that name. Raises UserError with the nearest match and the list."""
    names = _shipped_names()
    if name not in names:
        raise unknown("lab", name, names) if names else UserError(f"this installation has no lab in {SHIPPED}")
    return _lab(SHIPPED / name, name)


def built_folder(recipe: str) -> Path:
    """Where `lab build` makes the lab of a recipe unless it is told otherwise."""
    return cache_root() / f"{LAB}-{recipe}"


def is_there(model: str) -> bool:
    """Whether a model's name means something that is here; only a `lab:NAME` that nobody has built is not."""
    name = model.removeprefix(PREFIX)
    return not model.startswith(PREFIX) or name in _shipped_names() or _is_built(name)


def _is_built(name: str) -> bool:
    return name == Path(name).name and name not in _shipped_names() and is_lab(built_folder(name))


def is_lab(folder: Path) -> bool:
    """Whether a folder holds a diffusers pipeline and a `lab.json`."""
    return (folder / RECORD).is_file() and (folder / "model_index.json").is_file()


def _shipped_names() -> list[str]:
    folders = SHIPPED.iterdir() if SHIPPED.is_dir() else ()
    return sorted((path.name for path in folders if is_lab(path)), key=lambda name: (name != DEFAULT, name))


def _lab(folder: Path, name: str | None = None) -> Lab:
    stat = (folder / RECORD).stat()
    return _read(folder, name, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _read(folder: Path, name: str | None, mtime_ns: int, size: int) -> Lab:
    """A lab, cached until its file changes: the page needs its lab at every click."""
    record = read_record(folder)
    return Lab(name or record.get("name") or folder.resolve().name, folder, record)
