"""What expires: visitors' photos, published reports, old jobs, and stage results beyond the disk's share."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from s2l.jobs.limits import Limits
from s2l.jobs.store import Jobs


def _older(folder: Path, hours: float) -> list[Path]:
    """What lies directly in `folder` and was not touched for so long."""
    old, before = [], time.time() - 3600 * hours
    for path in folder.glob("*"):
        with suppress(OSError):  # somebody else was faster
            if path.stat().st_mtime < before:
                old.append(path)
    return old


def sweep(jobs: Jobs) -> int:
    """Delete what has expired; returns how many files, folders and jobs went. Cheap when there is nothing to do.

    Photos of a job that still waits or runs stay: a queue may be longer than a photo's life.
    """
    limits, root = Limits.read(), jobs.store.root
    wanted = jobs.folders_in_use()
    expired = [p for p in _older(root / "uploads", limits.upload_hours) if not any(p in w.parents for w in wanted)]
    expired += _older(root / "public" / "results", limits.keep_hours)
    for path in expired:
        shutil.rmtree(path, ignore_errors=True)
    gone = len(expired) + jobs.forget(limits.keep_hours)
    if not jobs.running():  # a run reads stages that it finished an hour ago
        gone += len(jobs.store.trim(limits.cache_max_gb))
    return gone
