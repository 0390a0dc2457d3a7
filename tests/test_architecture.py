"""The laws of the architecture: import-linter reads them from pyproject.toml, and every package has its place there."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Files of a method package that are no method and may be shared by its methods.
SHARED = {"attacks": {"registry", "query"}, "finetune": {"catalogue", "method", "trainer"}}


def imports(path: Path) -> set[str]:
    """Full names of the s2l modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("s2l")}


def sources():
    return sorted((ROOT / "s2l").rglob("*.py"))


def test_imports_go_one_way_and_gradio_stays_in_the_page():
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout


def test_every_package_has_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    known = {name.strip() for line in layers for name in line.replace("|", ":").split(":")}
    top = {p.relative_to(ROOT / "s2l").parts[0].removesuffix(".py") for p in sources()} - {"__init__"}
    assert {f"s2l.{name}" for name in top} <= known


def test_no_method_imports_its_sibling():
    wrong = []
    for package, shared in SHARED.items():
        modules = {p.stem for p in (ROOT / "s2l" / package).glob("*.py")} - {"__init__"}
        for path in (ROOT / "s2l" / package).glob("*.py"):
            if path.stem == "__init__" or path.stem in shared:
                continue
            for name in imports(path):
                parts = name.split(".")
                if parts[1:2] == [package] and len(parts) > 2 and parts[2] in modules - shared - {path.stem}:
                    wrong.append(f"{path.name} imports {name}")
    assert not wrong, wrong


LONG = {"s2l/record.py": "one type for each part of result.json: declarations, read one at a time"}


def test_no_file_is_long_without_a_reason():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / "s2l").rglob("*.py")}
    assert {name for name, lines in lengths.items() if lines > 420} == set(LONG)
