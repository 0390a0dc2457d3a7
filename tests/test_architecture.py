"""The laws of the architecture, read off the source: imports go one way, gradio stays in s2l/ui."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A module may import from layers before its own. Packages are one layer, with an exception below.
LAYERS = [
    {"progress", "store", "config"},
    {"lab", "memory", "batches"},
    {"photos"},
    {"domain", "stages"},
    {"checkpoints"},
    {"model"},
    {"sp_set"},
    {"guidance"},
    {"distances", "intervals", "result"},
    {"finetune", "attacks", "extraction", "blind", "metrics", "control"},
    {"audit"},
    {"experiment"},
    {"options", "figures", "jobs", "findings", "report", "showcase", "lab_card", "bench"}
    | {"table_view", "tables", "docs"},
    {"ui", "cli", "__main__"},
]
SAME_LAYER = {  # inside one layer: who may import whom
    "store": {"config"},
    "findings": {"options"},
    "report": {"figures", "findings", "options"},
    "table_view": {"figures"},
    "tables": {"table_view"},
    "docs": {"tables", "table_view", "lab_card", "bench"},
    "__main__": {"cli"},
}
# Files of a method package that are no method and may be shared by its methods.
SHARED = {"attacks": {"registry", "query"}, "finetune": {"registry", "trainer"}}


def imports(path: Path) -> set[str]:
    """Full names of the s2l modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("s2l")}


def layer(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


def sources():
    return sorted((ROOT / "s2l").rglob("*.py"))


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    top = {p.relative_to(ROOT / "s2l").parts[0].removesuffix(".py") for p in sources()} - {"__init__"}
    assert top <= known, f"give these a place in LAYERS: {sorted(top - known)}"


def test_imports_go_one_way():
    wrong = []
    for path in sources():
        mine = path.relative_to(ROOT / "s2l").parts[0].removesuffix(".py")
        if mine == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            theirs = parts[1] if len(parts) > 1 else ""
            if theirs in ("", mine, "__version__") or theirs not in set().union(*LAYERS):
                continue
            if layer(theirs) > layer(mine) or (
                layer(theirs) == layer(mine) and theirs not in SAME_LAYER.get(mine, set())
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


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


def test_only_the_ui_imports_gradio():
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(n.split(".")[0] == "gradio" for n in names) and "ui" not in path.parts:
                wrong.append(str(path))
    assert not wrong, wrong
