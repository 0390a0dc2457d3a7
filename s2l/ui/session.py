"""What the page remembers of a visitor, and what an address opens.

The browser keeps {"visitor", "job", "quiz", "form", "class"}: a random id, the job that is watched, the answers, the
fields and the code of the class. The address keeps `?run=` (a job's id or "showcase"), `&tab=` and `&class=` (a code,
or 1 for a lesson without one). A visitor can edit both.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from s2l.jobs import Job
from s2l.jobs.classroom import Classroom
from s2l.ui import quiz
from s2l.ui.backend import SHOWCASE, Backend

EMPTY = {"visitor": "", "job": "", "quiz": {}, "form": {}, "class": ""}


@dataclass(frozen=True)
class Opening:
    """What to show when the page opens."""

    visitor: str
    job: Job | None  # to watch on the Fine-tune tab
    shown: str  # the run of the result tabs
    tab: str
    quiz: dict
    form: dict
    gone: bool  # the address names a run that no longer exists
    classroom: bool  # a lesson: only the simple fields
    code: str  # of the class, if there is one with it


def changed(kept: object, **changes: object) -> dict:
    """What the browser should keep from now on: `kept`, whatever a visitor made of it, with changes."""
    return EMPTY | (kept if isinstance(kept, dict) else {}) | changes


def opening(kept: object, address: dict[str, str], backend: Backend, tabs: tuple[str, ...], first: dict) -> Opening:
    """What to show: what the browser kept and what the address asks for, without anything invalid."""
    kept = changed(kept)
    visitor = kept["visitor"] if isinstance(kept["visitor"], str) and len(kept["visitor"]) >= 20 else ""
    visitor = visitor or secrets.token_urlsafe(16)
    asked = address.get("run") or address.get("job") or ""
    own = str(kept["job"] or "")
    job = backend.jobs.job(asked if asked and asked != SHOWCASE else own)
    gone = bool(asked) and asked != SHOWCASE and job is None
    if (not asked or asked == SHOWCASE) and job is not None and job.visitor != visitor:
        job = None  # somebody else's run, which this visitor once opened by its link
    fallback = SHOWCASE if backend.showcase is not None else ""
    shown = job.id if job is not None and job.state == "done" and asked != SHOWCASE else fallback
    tab = address.get("tab", "")
    if tab not in tabs:
        tab = ("attack" if job.state == "done" else "finetune") if job is not None and not address.get("class") else ""
    lesson = address.get("class", "")
    found = Classroom(backend.jobs).find(lesson if lesson not in ("", "1") else kept["class"])
    return Opening(
        visitor, job, shown, tab or tabs[0], quiz.clean(kept["quiz"]), _fields(kept["form"], first), gone,
        bool(lesson), found.code if found is not None else "",
    )  # fmt: skip


def _fields(kept: object, first: dict) -> dict:
    """The kept fields that are of the right kind: a text stays a text, a number a number."""
    if not isinstance(kept, dict):
        return {}

    def fits(value: object, model: object) -> bool:
        if isinstance(model, bool) or isinstance(value, bool):
            return isinstance(value, bool) and isinstance(model, bool)
        if model is None or isinstance(model, (int, float)):  # None: a number that may be left out
            return isinstance(value, (int, float))
        if isinstance(model, (list, tuple)):
            return isinstance(value, list) and all(isinstance(x, str) for x in value)
        return isinstance(value, str) and len(value) <= 1000

    return {name: value for name, value in kept.items() if name in first and fits(value, first[name])}
