"""Blocks of documents generated from the code: the tree, the environment variables, result.json."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from s2l import record
from s2l.environment import table
from s2l.jobs import limits  # noqa: F401  (its variables are declared by importing it)
from s2l.tables.sheet import Sheet, markdown

PACKAGE = Path(__file__).parents[1]
WIDTH = 26  # characters before the description

AROUND = (
    ("start.py", "sets up .venv and runs the app, the command line or the tests"),
    ("app.py", "the page, as a Space starts it"),
)
BESIDE = (
    ("runs/reproduce.sh", "every committed figure from an empty folder, each command once"),
    ("results/", "committed results: one file per table, one per cell (`<table>/<row>/<person>.json`)"),
    ("docs/", "documents that quote them"),
    ("tests/", "one file per topic; browser/ and slow/ have commands of their own"),
    ("cache/", "everything computed at run time; S2L_CACHE moves it"),
)


def environment(results: Path) -> str:
    """The environment variables that a server's owner may set."""
    rows = [(f"`{name}`", f"`{default}`" if default else "", text) for name, default, text in table()]
    return "\n".join(markdown(Sheet("", ("variable", "default", ""), tuple(rows))))


def tree(results: Path) -> str:
    """The package's tree, each module with the first line of its docstring; a module stands above those it imports."""
    lines = [_line(0, name, text) for name, text in AROUND]
    lines.append("s2l/")
    for name in _order(PACKAGE.parent / "pyproject.toml"):
        lines += _module(PACKAGE / name, 1) if (PACKAGE / name).is_dir() else _file(PACKAGE / f"{name}.py", 1)
    lines += [_line(0, name, text) for name, text in BESIDE]
    return "\n".join(["```", *lines, "```"])


def _order(project: Path) -> Iterator[str]:
    """Names of packages and modules directly below s2l, each before those that it may import."""
    contracts = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers: Sequence[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    for line in layers:
        yield from (name.strip().removeprefix("s2l.") for name in line.replace("|", ":").split(":"))


def _module(folder: Path, depth: int) -> list[str]:
    """A package's line, then its modules and subpackages."""
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


PLAIN = {float: "number", int: "whole number", str: "text", bool: "true or false", NoneType: "null", Any: "value"}


def schema(results: Path) -> str:
    """result.json: one section per type of record.py, one line per field."""
    return "\n\n".join(_section(kind) for kind in record.SECTIONS)


def heading(kind: type) -> str:
    """ "OperatingPoint" -> "Operating point"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).capitalize()


def _section(kind: type) -> str:
    rows = []
    for name, field in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(field) is NotRequired
        value, text = get_args(get_args(field)[0] if optional else field)
        rows.append((f"`{name}`{' (may be absent)' if optional else ''}", _words(value), text))
    return "\n".join(
        [f"## {heading(kind)}", "", kind.__doc__ or "", "", *markdown(Sheet("", ("field", "", ""), tuple(rows)))]
    )


def _words(value: Any) -> str:
    """A type in words, with a link where it has its own section."""
    if value in PLAIN:
        return PLAIN[value]
    if value in record.SECTIONS:
        return f"[{heading(value)}](#{heading(value).lower().replace(' ', '-')})"
    origin, arguments = get_origin(value), get_args(value)
    if origin is UnionType:
        return " or ".join(map(_words, arguments))
    if origin is list:
        return (
            f"list of {_words(arguments[0])}{'' if arguments[0] in record.SECTIONS or get_args(arguments[0]) else 's'}"
        )
    if origin is dict:
        key, content = arguments
        names = " and ".join(f"`{name}`" for name in get_args(key))
        return f"{_words(content)}{f' for {names}' if names else ' by name'}"
    raise TypeError(f"no words for {value}")
