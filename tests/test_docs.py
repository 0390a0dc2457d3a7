"""README and docs say what the committed results say."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from s2l.cli.base import app
from s2l.errors import UserError
from s2l.store import read_json
from s2l.tables import brought, docs
from s2l.tables.search import SEARCHES, configs

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", docs.DOCUMENTS)
def test_figures_agree_with_the_results(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert docs.rendered(text, ROOT / "results") == text, "run `python -m s2l docs`"
    assert docs.BLOCK.search(text), "this document shows no measured figure"


def test_every_block_is_shown_somewhere():
    shown = {m["name"] for name in docs.DOCUMENTS for m in docs.BLOCK.finditer((ROOT / name).read_text())}
    assert shown == set(docs.BLOCKS)


def test_the_matrix_of_inputs_has_every_section_and_no_other(tmp_path):
    assert {row.section for row in brought.marked(ROOT / "tests")} <= set(brought.SECTIONS)
    mark = '@pytest.mark.brings("Weather", "rain", "wet")\ndef test_x(): ...\n'
    (tmp_path / "test_x.py").write_text(mark)
    with pytest.raises(UserError, match="Weather"):
        list(brought.marked(tmp_path))


# --- every committed result has a command ---------------------------------------------------------

REPRODUCE = (ROOT / "runs" / "reproduce.sh").read_text(encoding="utf-8")


def command_of(path: Path) -> str:
    record = read_json(path)
    return record.get("command") or record["protocol"]["command"]


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_names_a_command_that_the_script_runs(path):
    command = command_of(path).replace("URL", "http://127.0.0.1:7860")
    assert REPRODUCE.splitlines().count(command) == 1


def test_every_command_of_the_script_exists():
    """A command of the program answers `--help` and knows each option; a module can be found."""
    for line in REPRODUCE.splitlines():
        words = line.removesuffix(" &").split()
        if words[:2] != ["python", "-m"]:
            continue
        if words[2] != "s2l":
            assert find_spec(words[2]), line
            continue
        command, rest = get_command(app), words[3:]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options, line


def test_the_committed_search_is_the_declared_one():
    committed = {row["shake"]: row["people"] for row in read_json(ROOT / "results" / "search.json")["rows"]}
    search = SEARCHES["search"]
    declared: dict[str, list[str]] = {}
    for trial, config in configs(search):
        declared.setdefault(trial.label, []).append(config.domain.name)
    assert list(committed) == list(declared)
    assert {label: sorted(names) for label, names in committed.items()} == {
        label: sorted(names) for label, names in declared.items()
    }
