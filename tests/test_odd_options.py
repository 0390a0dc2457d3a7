"""Options of the command line that leave something open, contradict another or cannot be met: one sentence, code 2."""

from __future__ import annotations

import re

import pytest

from s2l.cli import main

NAME = "Mira Solwyn"
ATTACK = ["attack", "--domain", NAME, "--attacks", "loss", "--preset", "quick"]
GATE = ["gate", "--upload", "x", "--out", "{}/out"]


@pytest.fixture
def refused(tiny_lab, tmp_path, capsys):
    """The sentence that refuses a command; `{}` in a word is an empty folder."""

    def run(words) -> str:
        assert main([word.replace("{}", str(tmp_path)) for word in words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("Error: ") and said.count("\n") == 1 and "Traceback" not in said
        return said

    return run


@pytest.mark.brings(
    "Folders",
    "An output file or folder with too long a name, or where nothing can be stored (`/proc`)",
    "refused before any work",
)
@pytest.mark.parametrize(
    "words, reason",
    [
        ([*ATTACK, "--out", "{}/" + "n" * 252], "251 bytes for a name"),
        ([*ATTACK, "--out", "{}/" + "n" * 300], "251 bytes for a name"),
        ([*ATTACK, "--out", "{}/" + "n" * 300 + "/x.json"], "251 bytes for a name"),
        ([*ATTACK, "--out", "/proc/x.json"], "/proc cannot be written to: nothing can be stored there"),
        (["sp-gen", "--domain", NAME, "--out", "{}/" + "n" * 300], "251 bytes for a name"),
        (["sp-gen", "--domain", NAME, "--out", "/proc/x"], "/proc/x cannot be written to"),
        (
            [*ATTACK, "--out", "{}/x.json", "--members", "{}/" + "n" * 300, "--nonmembers", "{}"],
            "name too long|no folder",
        ),
    ],
)
def test_a_place_that_takes_no_file_is_a_sentence(refused, words, reason):
    assert re.search(reason, refused(words), re.IGNORECASE)


@pytest.mark.brings("Models", "The name of a lab in capitals, or with a typing error", "refused: what is meant")
@pytest.mark.parametrize("model, meant", [("LAB", "'lab'"), ("Lab:fresh", "'lab:fresh'"), ("lab:fresj", "'fresh'")])
def test_a_misspelt_lab_is_a_sentence(refused, model, meant):
    assert f"id you mean {meant}?" in refused([*ATTACK, "--model", model, "--out", "{}/x.json"])


@pytest.mark.parametrize("alpha", ["0", "0.5", "-1", "nan"])
def test_the_ends_of_alpha_are_named(refused, alpha):
    assert "--alpha: should be above 0 and below 0.5" in refused([*GATE, "--alpha", alpha])
