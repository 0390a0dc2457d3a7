"""What expires: visitors' photos, published reports, old jobs and classes, and stages beyond the cache's limit."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from s2l.jobs import uploads
from s2l.jobs.classroom import Classroom
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


def sweep_uploads(jobs: Jobs) -> int:
    """Delete photos that are too old and, the oldest first, those beyond the size limit; returns how many folders.

    Photos of waiting and running jobs are kept and not counted: a job may wait longer than photos are kept otherwise.
    """
    limits, in_use, found = Limits.read(), jobs.folders_in_use(), []
    for folder in uploads.folders(jobs.store.root):
        if not any(folder in used.parents for used in in_use):
            with suppress(OSError):  # another process deleted it first
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                found.append((folder.stat().st_mtime, size, folder))
    before, total, n_deleted = time.time() - 3600 * limits.upload_hours, sum(size for _, size, _ in found), 0
    for modified, size, folder in sorted(found):
        if modified < before or total > 1e9 * limits.upload_max_gb:
            uploads.discard(folder)
            total, n_deleted = total - size, n_deleted + 1
    return n_deleted


def sweep(jobs: Jobs) -> int:
    """Delete what has expired; returns how many folders and jobs were deleted. Cheap if there is nothing to do."""
    limits, root = Limits.read(), jobs.store.root
    expired = _older(root / "public" / "results", limits.keep_hours)
    for path in expired:
        shutil.rmtree(path, ignore_errors=True)
    n_deleted = sweep_uploads(jobs) + len(expired) + jobs.forget(limits.keep_hours)
    n_deleted += Classroom(jobs).forget(limits.keep_hours)
    if not jobs.running():  # a run may still read a stage that it finished an hour ago
        n_deleted += len(jobs.store.trim(limits.cache_max_gb))
    return n_deleted
