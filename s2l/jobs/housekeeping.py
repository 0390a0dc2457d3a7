"""What expires: visitors' photos, published reports, old jobs, and stage results beyond the cache's limit."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from s2l.jobs.limits import Limits
from s2l.jobs.store import Jobs


def _older(folder: Path, hours: float) -> list[Path]:
    """Everything directly in `folder` that has not changed for `hours`."""
    old, before = [], time.time() - 3600 * hours
    for path in folder.glob("*"):
        with suppress(OSError):  # another process deleted it first
            if path.stat().st_mtime < before:
                old.append(path)
    return old


def sweep(jobs: Jobs) -> int:
    """Delete what has expired; returns how many files, folders and jobs were deleted. Cheap if there is nothing to do.

    Photos of waiting and running jobs are kept: a job may wait longer than photos are kept otherwise.
    """
    limits, root = Limits.read(), jobs.store.root
    in_use = jobs.folders_in_use()
    expired = [p for p in _older(root / "uploads", limits.upload_hours) if not any(p in w.parents for w in in_use)]
    expired += _older(root / "public" / "results", limits.keep_hours)
    for path in expired:
        shutil.rmtree(path, ignore_errors=True)
    n_deleted = len(expired) + jobs.forget(limits.keep_hours)
    if not jobs.running():  # a run may still read a stage that it finished an hour ago
        n_deleted += len(jobs.store.trim(limits.cache_max_gb))
    return n_deleted
