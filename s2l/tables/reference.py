"""Blocks of the documents that are made from the code itself: the annotated tree and the environment variables."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from s2l.environment import table
from s2l.jobs import limits  # noqa: F401  (its variables are declared by importing it)
from s2l.tables.view import Sheet, markdown

PACKAGE = Path(__file__).parents[1]
WIDTH = 26  # characters before the description

AROUND = (
    ("start.py", "sets up .venv and runs the app, the command line or the tests"),
    ("app.py", "the page, as a Space starts it"),
)
BESIDE = (
    ("results/", "committed results: one file per table, one per cell (`<table>/<row>/<subject>.json`)"),
    ("docs/", "pages that quote them"),
    ("tests/", "one file per subject; browser/ and slow/ have commands of their own"),
    ("cache/", "everything computed at run time; S2L_CACHE moves it"),
)


def environment(results: Path) -> str:
    """The variables that an owner may set."""
    rows = [(f"`{name}`", f"`{default}`" if default else "", text) for name, default, text in table()]
    return "\n".join(markdown(Sheet("", ("variable", "default", ""), tuple(rows))))


def tree(results: Path) -> str:
    """The package, each module with the first line of its docstring, in the order in which they may import."""
    lines = [_line(0, name, text) for name, text in AROUND]
    lines.append("s2l/")
    for name in _order(PACKAGE.parent / "pyproject.toml"):
        lines += _module(PACKAGE / name, 1) if (PACKAGE / name).is_dir() else _file(PACKAGE / f"{name}.py", 1)
    lines += [_line(0, name, text) for name, text in BESIDE]
    return "\n".join(["```", *lines, "```"])


def _order(project: Path) -> Iterator[str]:
    """Names of packages and modules directly below s2l, the ones that import the others first."""
    contracts = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers: Sequence[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    for line in layers:
        yield from (name.strip().removeprefix("s2l.") for name in line.replace("|", ":").split(":"))


def _module(folder: Path, depth: int) -> list[str]:
    """A package's own line, then its modules and the packages in it."""
    lines = [_line(depth, f"{folder.name}/", _about(folder / "__init__.py"))]
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            lines += _module(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            lines += _file(path, depth + 1)
    return lines


def _file(path: Path, depth: int) -> list[str]:
    return [_line(depth, path.name, _about(path))]


def _line(depth: int, name: str, text: str) -> str:
    return f"{'  ' * depth + name:<{WIDTH}}{text}"


def _about(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0].rstrip(".")
