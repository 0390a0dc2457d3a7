#!/usr/bin/env python3
"""Set everything up in .venv, then run. Needs Python 3.11 or newer and nothing else.

    python3 start.py [--cpu]              open the app on http://127.0.0.1:7860
    python3 start.py [--cpu] test ...     run the linter, the type checker and the tests; ... goes to pytest
    python3 start.py [--cpu] test --newest    try the newest versions that the ranges allow, in .venv-newest
    python3 start.py [--cpu] test --oldest    try the oldest ones, in .venv-oldest
    python3 start.py advisories [FOLDER]  look for security advisories of what is installed in .venv, .venv-newest, ...
    python3 start.py [--cpu] COMMAND ...  run one command of `python -m s2l`; COMMAND --help says more

--cpu is for a Linux machine without a GPU: torch then comes from PyTorch's CPU index. COMMAND is one of

    run       the whole path and its report: generate, fine-tune, attack before and after
    audit     compare a model that was fine-tuned elsewhere with its base, and write the report
    sp-gen    step 1 alone: generate the synthetic private set into a folder
    finetune  step 2 alone: fine-tune on that folder (s2l is another name for it)
    attack    step 3a alone: membership inference on the base and the fine-tuned model
    extract   step 3b alone: generate, and find the training photos that come out
    split-check  how fair is a split into members and held-out photos?
    gate      check an upload before fine-tuning on it, and the tuned weights before they are handed out
    domains   list the people of a lab
    labs      list the labs that come with the program, for --model lab:NAME
    methods   list the fine-tuning methods and how they combine
    attacks   list the membership inference attacks
    lab       build, describe (info) or measure a lab
    search    run what is missing of a search for settings
    table     run the missing cells of a results table
    blind     measure which differences between two folders the blind controls see
    gate-study    measure what the gate catches, and what gets past it
    cell      run one committed cell of a table again, and compare
    frames    make the first screen of the app again
    showcase  make the example run of the app again
    docs      rewrite the figures in README and docs from the results
    warm      fill the app's cache before a lesson
    matrix    make the finished runs that ship with the app again
    app       open the app; the same as no command
    bench     measure this machine: rates, memory, how cost grows
    card      is this card as fast as it should be, and what would a study cost on it?
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


PYTHON = python_in(VENV)


def pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words], check=True)


def wanted(*files: str) -> list[str]:
    """The requirements in some files: "torch>=2.8,<2.14", ..."""
    lines = (line.strip() for name in files for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def install(requirements: str, cpu: bool) -> None:
    """Create .venv and install the requirements, once for each version of the requirement files."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.txt", requirements))
    marker = VENV / f"installed-{requirements}"
    stamp = hashlib.sha256(text.encode()).hexdigest()
    if marker.exists() and marker.read_text() == stamp:
        return
    if not PYTHON.exists():
        print(f"creating {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    print(f"installing {requirements} (minutes the first time)", flush=True)
    if cpu:
        pip(PYTHON, "--index-url", CPU_INDEX, next(each for each in wanted("requirements.txt") if "torch" in each))
    pip(PYTHON, "-r", str(ROOT / requirements))
    marker.write_text(stamp)


def oldest(requirements: list[str]) -> str:
    """A constraints file with every requirement at its lower bound, which has to be a release."""
    bounds = (re.match(r"([\w-]+)>=([\w.]+)", each) for each in requirements)
    return "".join(f"{bound[1]}=={bound[2]}\n" for bound in bounds if bound)


def try_versions(which: str, cpu: bool, words: list[str]) -> int:
    """Install the "newest" or the "oldest" versions into an environment of their own and run the smoke tests."""
    folder = ROOT / f".venv-{which}"
    python, files = python_in(folder), ("requirements.txt", "requirements-dev.txt")
    print(f"creating {folder} and installing the {which} versions (minutes)", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(oldest(wanted(*files)) if which == "oldest" else "")
    if cpu:
        torch = next(each for each in wanted("requirements.txt") if "torch" in each)
        pip(python, "--index-url", CPU_INDEX, "-c", str(constraints), torch)
    pip(python, "-r", str(ROOT / files[1]), "-c", str(constraints))
    subprocess.run([str(python), "-m", "pip", "check"], check=True)
    subprocess.run([str(python), "-m", "pip", "list", "--disable-pip-version-check"], check=True)
    words = words or ["-m", "smoke"]
    return subprocess.run([str(python), "-m", "pytest", *words], cwd=ROOT).returncode


def advisories(name: str) -> int:
    """Compare the versions installed in a folder with known advisories, by pip-audit, which gets its own environment.

    Exit code 1: there is one. 2: the folder is not an environment, or the advisory service does not answer.
    """
    sites = sorted((ROOT / name).glob("lib/python*/site-packages")) or sorted((ROOT / name).glob("Lib/site-packages"))
    if not sites:
        print(f"{name} holds no installed packages: run `start.py test` first, or name another folder", file=sys.stderr)
        return 2
    tool = ROOT / ".venv-audit"
    if not python_in(tool).exists():
        venv.create(tool, with_pip=True)
    pip(python_in(tool), "pip-audit>=2.9,<3")
    command = [str(python_in(tool)), "-m", "pip_audit", "--path", str(sites[0]), "--progress-spinner", "off"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    return told(packages, done.stderr)


def told(packages: list[dict], reason: str = "") -> int:
    """Print what pip-audit found in its JSON form; returns the exit code of `advisories`."""
    looked_up = [each for each in packages if "skip_reason" not in each]
    if not looked_up:
        why = packages[0]["skip_reason"] if packages else (reason.strip().splitlines() or ["no reason given"])[-1]
        print(f"the advisory service gave no answer, so nothing was compared: {why[:200]}", file=sys.stderr)
        return 2
    known = [(each["name"], each["version"], found["id"]) for each in looked_up for found in each.get("vulns", [])]
    for row in known:
        print(*row)
    left = [each["name"] for each in packages if "skip_reason" in each]
    print(f"{len(looked_up)} packages compared, {len(known)} advisories; not looked up: {', '.join(left) or 'none'}")
    return int(bool(known))


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (this script meets older Pythons)
        print(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    cpu = "--cpu" in arguments[:1]
    arguments = arguments[1:] if cpu else arguments
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    testing = arguments[:1] == ["test"]
    try:
        if testing and arguments[1:2] in (["--newest"], ["--oldest"]):
            return try_versions(arguments[1].removeprefix("--"), cpu, arguments[2:])
        if arguments[:1] == ["advisories"]:
            return advisories(arguments[1] if len(arguments) > 1 else VENV.name)
        install("requirements-dev.txt" if testing else "requirements.txt", cpu)
    except subprocess.CalledProcessError as error:
        print("the installation failed; pip's message above says why", file=sys.stderr)
        return error.returncode
    if testing:
        checks = [["ruff", "check", "."], ["mypy"]]  # lint-imports is one of the tests
        failed = [check[0] for check in checks if subprocess.run([str(PYTHON), "-m", *check], cwd=ROOT).returncode]
        # The whole suite runs in two processes with half of the cores each; with arguments pytest is as it is.
        words, environment = arguments[1:] or ["-n", "2", "--dist", "loadfile"], dict(os.environ)
        if not arguments[1:]:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
        tests = subprocess.run([str(PYTHON), "-m", "pytest", *words], cwd=ROOT, env=environment).returncode
        if failed:
            print(f"{' and '.join(failed)} found what is listed above the tests", file=sys.stderr)
        return tests or int(bool(failed))
    command = [str(PYTHON), "-m", "s2l", *arguments] if arguments else [str(PYTHON), "app.py"]
    try:
        return subprocess.run(command, cwd=ROOT).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
