"""The cache: every stage's result in a folder named by what it depends on.

A stage works in `KEY.partial`, and the folder is renamed to `KEY` when it is complete. So a reader never sees half a
result, and a killed run continues from what it had. One lock per key makes sure that work is done only once: thirty
students with the same configuration cost one run. An entry with a damaged file (a full disk, a power cut, a bad copy)
is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from s2l.damage import damaged_files
from s2l.environment import Program
from s2l.errors import UserError


def cache_root() -> Path:
    """`$S2L_CACHE`, else `cache/` in the working directory."""
    return Program.read().cache.resolve()


class Store:
    """Cached stage results below `root`."""

    def __init__(self, root: Path | None = None):
        self.root = Path(root) if root is not None else cache_root()

    def path(self, stage: str, key: str) -> Path:
        return self.root / "stages" / stage / key

    def has(self, stage: str, key: str) -> bool:
        return self.path(stage, key).is_dir()

    @contextmanager
    def _locked(self, stage: str, key: str) -> Iterator[None]:
        lock = self.root / "locks" / f"{stage}-{key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def stage(self, stage: str, key: str, work: Callable[[Path], object]) -> tuple[Path, bool]:
        """The finished folder of a stage, and whether it was already there.

        `work(folder)` fills the folder; it finds what an interrupted run left in it. A finished folder with a damaged
        file becomes an unfinished one without that file, so that `work` makes what is missing; stderr gets a note.
        """
        final, partial = self.path(stage, key), self.partial(stage, key)
        if final.is_dir() and not damaged_files(final):
            os.utime(final)  # used just now, so it is deleted last
            return final, True
        with self._locked(stage, key):
            if final.is_dir():
                if not (problems := damaged_files(final)):  # another process finished it while this one waited
                    return final, True
                shutil.rmtree(partial, ignore_errors=True)
                os.replace(final, partial)
            else:
                partial.mkdir(parents=True, exist_ok=True)
                problems = damaged_files(partial)
            for file, problem in problems.items():
                (partial / file).unlink(missing_ok=True)
                print(f"cache: {stage}/{key}/{file} {problem}; it is made again", file=sys.stderr, flush=True)
            work(partial)
            os.replace(partial, final)
        return final, False

    def partial(self, stage: str, key: str) -> Path:
        """Where an unfinished stage keeps its work (for live pictures)."""
        return self.path(stage, key).with_name(key + ".partial")

    def size(self) -> int:
        """Bytes in the cache."""
        return sum(f.stat().st_size for f in self.root.rglob("*") if f.is_file())

    def trim(self, max_gb: float) -> list[str]:
        """Delete the least recently used stage folders until the cache fits; returns their keys."""
        folders = [d for d in (self.root / "stages").glob("*/*") if d.is_dir()]
        folders.sort(key=lambda d: d.stat().st_mtime)
        sizes = {d: sum(f.stat().st_size for f in d.rglob("*") if f.is_file()) for d in folders}
        total, removed = sum(sizes.values()), []
        for folder in folders:
            if total <= max_gb * 1e9:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]
            removed.append(folder.name)
        return removed


def write_json(path: Path, value) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path):
    """The content of a JSON file. Raises UserError with its name if it is cut or garbled, OSError if it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is cut or garbled ({error}): delete it, and the command that wrote it makes it again"
        ) from None
