#!/usr/bin/env python3
"""Set everything up in .venv, then run. Needs Python 3.11 or newer and nothing else.

    python3 start.py [--cpu]              open the app on http://127.0.0.1:7860
    python3 start.py [--cpu] test ...     run the linter, the type checker and the tests; ... goes to pytest
    python3 start.py [--cpu] COMMAND ...  run one command of `python -m s2l`; COMMAND --help says more

--cpu is for a Linux machine without a GPU: torch then comes from PyTorch's CPU index. COMMAND is one of

    run       the whole path and its report: generate, fine-tune, attack before and after
    audit     compare a model that was fine-tuned elsewhere with its base, and write the report
    sp-gen    step 1 alone: generate the synthetic private set into a folder
    finetune  step 2 alone: fine-tune on that folder (s2l is another name for it)
    attack    step 3a alone: membership inference on the base and the fine-tuned model
    extract   step 3b alone: generate, and find the training photos that come out
    split-check  how fair is a split into members and held-out photos?
    gate      check an upload before fine-tuning on it
    domains   list the people of a lab
    labs      list the labs that come with the program, for --model lab:NAME
    methods   list the fine-tuning methods and how they combine
    attacks   list the membership inference attacks
    lab       build, describe (info) or measure a lab
    search    run what is missing of a search for settings
    table     run the missing cells of a results table
    cell      run one committed cell of a table again, and compare
    frames    make the first screen of the app again
    showcase  make the example run of the app again
    docs      rewrite the figures in README and docs from the results
    warm      fill the app's cache before a lesson
    app       open the app; the same as no command
    bench     measure this machine: rates, memory, how cost grows
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


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
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if cpu:
        torch = next(line for line in text.splitlines() if line.startswith("torch"))
        subprocess.run([*command, "--index-url", CPU_INDEX, torch], check=True)
    subprocess.run([*command, "-r", str(ROOT / requirements)], check=True)
    marker.write_text(stamp)


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
