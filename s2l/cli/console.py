"""What the command line shows: progress bars and sentences on stderr, tables on stdout.

On a terminal every stage has a bar. Elsewhere (a log, a pipe) a stage reports its progress in plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from s2l.progress import Event, Progress

if TYPE_CHECKING:  # it draws figures, which loads torch
    from s2l.report.render import Row

SHORT, LONG = 2.0, 30.0  # seconds between two lines of a running stage: at least, and at most


def say(message: str) -> None:
    """One line on stderr."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)


def say_folders(report: Mapping[str, Any] | None) -> None:
    """The report of the two folders, a line each on stderr; None for a lab's photos, which need none."""
    from s2l.data.folder_report import folder_lines

    for line in folder_lines(report):
        say(line)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def outcome_table(rows: Sequence[Row]) -> str:
    """The short table: the rows without `detail`."""
    cells = [("", "before", "after", "after - before", "p")]
    for row in rows:
        if not row.detail:
            what = f"{row.group}: {row.what}" if row.what.startswith("AUC") else row.what
            cells.append((what, row.before, row.after, row.difference, row.p_value))
    return columns(cells)


def stage_table(stages: dict) -> str:
    """Seconds per stage, and whether it came from the cache."""
    rows = [("stage", "seconds", "")]
    for name, stage in stages.items():
        source = "" if "cached" not in stage else "from the cache" if stage["cached"] else "computed"
        rows.append((stage.get("title", name), f"{stage['seconds']:.1f}", source))
    return columns(rows)


def _title(event: Event) -> str:
    """The stage's title; work outside a run has none, so its name is used."""
    return event.title or event.stage


def _extras(info: dict) -> str:
    """What a stage reports besides its count: the loss and the speed."""
    texts = [f"loss {info['loss']:.4f}"] if "loss" in info else []
    texts += [f"{info['images_per_s']:.1f} images/s"] if info.get("images_per_s", 0) > 0 else []
    return "  ".join(texts)


class _Lines:
    """A line when a stage begins and ends, and in between after every tenth of its work or every 30 seconds."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.last: dict[str, tuple[int, float]] = {}  # running stage: step and time of its last line

    def __call__(self, event: Event) -> None:
        now, name = time.monotonic(), event.stage
        if "cached" in event.info:  # only the event that closes a stage has it
            how = "from the cache" if event.info["cached"] else f"done, {now - self.since:.1f} s"
            self.since = now
            self.last.pop(name, None)
            say(f"{_title(event)}: {how}")
        elif name not in self.last or self._due(*self.last[name], event, now):
            self.last[name] = event.step, now
            say("  ".join([f"{_title(event)}: {event.step:,} of {event.total:,}", _extras(event.info)]))

    @staticmethod
    def _due(step: int, then: float, event: Event, now: float) -> bool:
        tenth = 10 * (event.step - step) >= event.total and now - then >= SHORT
        return tenth or now - then >= LONG or (event.step == event.total != step)


class _Bars:
    """One bar per stage, with rich."""

    def __init__(self, display):
        self.display, self.tasks = display, {}

    def __call__(self, event: Event) -> None:
        cached, name = event.info.get("cached"), event.stage
        if name not in self.tasks:
            self.tasks[name] = self.display.add_task(_title(event), total=event.total, extras="")
        task = self.tasks[name]
        if cached is None:
            self.display.update(task, completed=event.step, total=event.total, extras=_extras(event.info))
            return
        total = self.display.tasks[self.display.task_ids.index(task)].total
        extras = {"extras": "from the cache"} if cached else {}
        self.display.update(task, completed=total, **extras)
        del self.tasks[name]  # the next row of a table has the same stages


@contextmanager
def progress() -> Iterator[Progress]:
    """A listener for the stages of a run: bars on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    parts = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[extras]}", style="dim"),
    )  # fmt: skip
    with Display(*parts, console=Console(stderr=True)) as display:
        yield _Bars(display)
