"""start.py: the versions that `test --oldest` asks for, and what the advisories command says without an environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start():
    spec = importlib.util.spec_from_file_location("start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_oldest_versions_are_the_lower_bounds():
    module = start()
    assert module.oldest(["torch>=2.8,<2.14", "safetensors>=0.6.2,<1"]) == "torch==2.8\nsafetensors==0.6.2\n"
    wanted = module.wanted("requirements.txt", "requirements-dev.txt")
    constraints = module.oldest(wanted).splitlines()
    assert len(constraints) == len(wanted) and all("==" in line for line in constraints)


def test_every_requirement_has_both_bounds_and_every_close_upper_bound_a_reason():
    lines = [line.strip() for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()]
    bounds = [line for line in lines if ">=" in line and line.startswith('"') and ",<" in line]
    assert len(bounds) > 25
    for line in bounds:
        upper = line.split(",<")[1].split('"')[0]
        assert "." not in upper or "#" in line, line  # not merely the next major version


def test_advisories_need_an_environment(capsys):
    assert start().advisories(".venv-of-nobody") == 2
    assert ".venv-of-nobody holds no installed packages" in capsys.readouterr().err


def test_packages_that_nobody_looked_up_are_not_called_safe(capsys):
    told, skipped = start().told, {"name": "s2l", "skip_reason": "not on PyPI"}
    assert told([skipped, skipped], "WARNING: x\nNo known vulnerabilities found") == 2
    assert "nothing was compared" in capsys.readouterr().err
    assert told([], "Connection refused") == 2 and "Connection refused" in capsys.readouterr().err
    clean = {"name": "rich", "version": "15", "vulns": []}
    assert told([clean, skipped]) == 0
    assert capsys.readouterr().out == "1 packages compared, 0 advisories; not looked up: s2l\n"
    assert told([clean | {"vulns": [{"id": "CVE-1"}]}]) == 1 and "rich 15 CVE-1" in capsys.readouterr().out
