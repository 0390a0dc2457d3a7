"""The matrix of what people bring: one row per test that carries the marker `brings`.

The tests are read as text, not run: a row names the test that proves it. `docs/inputs.md` shows the matrix.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s2l.errors import unknown
from s2l.tables.sheet import Sheet, markdown

SECTIONS = ("Models", "Tuned models", "Pictures", "Captions", "Folders", "Numbers", "Visitors", "Clusters")


class Brought(NamedTuple):
    """One kind of input: under which heading it stands, what it is, what happens, and the test that shows it."""

    section: str
    what: str
    outcome: str
    test: str


def marked(tests: Path) -> Iterator[Brought]:
    """Every `@pytest.mark.brings(SECTION, WHAT, OUTCOME)` below `tests`. Raises UserError for an unknown section."""
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.brings":
                    section, what, outcome = (ast.literal_eval(argument) for argument in mark.args)
                    if section not in SECTIONS:
                        raise unknown("section of inputs", section, SECTIONS)
                    yield Brought(section, what, outcome, f"{path.relative_to(tests.parent).as_posix()}::{node.name}")


def matrix(results: Path) -> str:
    """One Markdown table per section that has a row."""
    rows = list(marked(results.parent / "tests"))
    lines: list[str] = []
    for section in SECTIONS:
        if own := [row for row in rows if row.section == section]:
            cells = tuple((row.what, row.outcome, f"`{row.test}`") for row in own)
            sheet = Sheet("", ("what is brought", "what happens", "shown by the test"), cells)
            lines += [f"### {section}", "", *markdown(sheet), ""]
    return "\n".join(lines).rstrip()
