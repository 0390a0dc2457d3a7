"""The package: what importing it costs, what it declares, and a wheel that works where the repository is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import s2l

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def listed(file: str) -> set[str]:
    lines = (line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line and not line.startswith(("#", "-r "))}


def test_the_requirement_files_are_the_package_s_own():
    """Spaces and start.py read the files, pip reads pyproject.toml."""
    extras = PROJECT["optional-dependencies"]
    assert listed("requirements.txt") == {*PROJECT["dependencies"], *extras["app"]}
    assert listed("requirements-dev.txt") == set(extras["dev"])
    assert PROJECT["version"] == s2l.__version__


def test_importing_the_package_loads_no_torch():
    code = "import sys, s2l; s2l.preset('quick', 'Mira Solwyn'); s2l.find_lab('lab'); s2l.load_result, s2l.Lab; "
    code += "assert 'torch' not in sys.modules; assert set(s2l.__all__) <= set(dir(s2l))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert all(callable(getattr(s2l, name)) for name in s2l.__all__ if name != "__version__")


def test_a_name_that_the_package_does_not_offer():
    with pytest.raises(AttributeError, match="module 's2l' has no attribute 'runn'"):
        _ = s2l.runn


def test_the_page_without_gradio_is_one_sentence(monkeypatch, capsys):
    from s2l.cli import main, page

    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert capsys.readouterr().err.strip() == "Error: the page needs gradio: install it with `pip install 's2l[app]'`"
    assert main(["app", "--port", "0"]) == 2
    assert "--port: should be between 1 and 65535" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The `s2l` command of an environment into which the wheel was installed; the libraries are this one's."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "s2l", source / "s2l", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", str(place), str(source)], check=True)
    (wheel,) = place.glob("s2l-*.whl")
    shutil.rmtree(source)
    venv.create(place / "venv", with_pip=False)
    scripts = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(place / "venv"), "platbase": str(place / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([*pip, "--python", str(scripts / "python"), "install", *offline, str(wheel)], check=True)
    return scripts / "s2l"


def call(command: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("S2L_", "PYTHON"))}
    return subprocess.run([str(command), *arguments], cwd=folder, env=env, capture_output=True, text=True)


def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    labs = call(installed, tmp_path, "labs")
    assert labs.returncode == 0 and "fresh" in labs.stdout, labs.stderr
    where = subprocess.run(
        [str(installed.with_name("python")), "-c", "import s2l; print(s2l.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not Path(where.stdout.strip()).is_relative_to(ROOT)
    options = ["--domain", "Taro Quillan", "--preset", "quick", "--attacks", "loss", "--device", "cpu"]
    options += ["--set-size", "4", "--steps", "2", "--n-generations", "4"]
    run = call(installed, tmp_path, "run", *options, "--out", "out")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
    scores = json.loads((tmp_path / "out" / "result.json").read_text())["attacks"]["loss"]["scores"]
    assert len(scores["after"]["members"]) == 12 and scores["after"] != scores["before"]


def test_the_wheel_has_the_page_and_the_types(installed):
    site = next(installed.parents[1].glob("**/s2l/py.typed")).parent
    for part in ("ui/style.css", "ui/page.js", "report/templates/report.html.j2", "assets/showcase/result.json"):
        assert (site / part).is_file(), part
