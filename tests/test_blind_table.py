"""The table `blind`: what the blind controls catch, beside what attacks claim of photos that no model saw."""

from __future__ import annotations

import numpy as np
import pytest

from s2l import cli
from s2l.store import read_json
from s2l.tables import blind, view


def test_the_versions_are_what_their_names_say():
    photo = blind.find_lab("lab:fresh").person("Mira Solwyn").held_out(1)[0]
    plain = blind.VERSIONS["as drawn"](photo).astype(int)
    for name, change in blind.VERSIONS.items():
        other = change(photo)
        assert other.shape == plain.shape and other.dtype == np.uint8
        difference = np.abs(other - plain).mean()
        assert (difference == 0) == (name == "as drawn") and difference < 20, name
    assert {v for kind in blind.KINDS.values() for v in (kind.ours, kind.theirs)} == set(blind.VERSIONS)


def test_a_photo_is_never_compared_with_itself():
    same = np.random.default_rng(0).normal(size=(2, 6))
    assert blind._claim(same, same)["mean"] == 0.5
    found = blind._claim(same, same - 10)
    assert (found["mean"], found["low"], found["high"]) == (1, 1, 1)
    # Every score a little higher than the photo's own, which does not count.
    steps = np.arange(6.0)[None]
    assert blind._claim(steps, steps + 0.5)["mean"] == pytest.approx(0.5)
    assert blind._diluted({"mean": 1.0}, 0.25) == {"mean": 0.625}


def test_only_the_share_that_differs_is_changed():
    ours, theirs = (blind.Seen(np.full((9, 2), x), np.full((9, 3), x)) for x in (0.0, 1.0))
    changed = np.array([True, False, False])
    seen = blind._mixed(ours, theirs, 4, np.arange(7), changed)
    assert seen.fine[:, 0].tolist() == seen.coarse[:, 0].tolist() == [0, 0, 0, 0, 1, 0, 0]


def test_rows_are_kept_and_the_document_says_what_they_say(tiny_lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(blind, "SIDE", 32)  # of the tiny lab
    monkeypatch.setattr(blind, "run_blind", small := _small(blind.run_blind))
    out = tmp_path / "blind.json"
    assert cli.main(["blind", "--out", str(out), "--only", "JPEG 75 "]) == 0, capsys.readouterr().err
    (label,) = read_json(out)["rows"]
    row = read_json(out)["rows"][label]
    assert row["share"] == 0.25 and row["warned"]["6/8"]["splits"] == 4 and set(row["attacks"]) == set(blind.ATTACKS)
    table = read_json(out)
    table["rows"][label]["warned"]["6/8"]["either"]["rate"] = 0.5
    blind.write_json(out, table)
    assert list(small(out, only="none")["rows"]) == ["none", label]
    none = read_json(out)["rows"]["none"]
    assert read_json(out)["rows"][label] == table["rows"][label]  # what is there is kept
    assert {claim["mean"] for claim in none["attacks"].values()} == {0.5}
    document = view.document("blind", read_json(out))
    assert f"| {label} | 50 % [" in document and "Command: `python -m s2l blind`" in document
    # Of photos that were re-encoded in another way than now, that part alone is measured again.
    table = read_json(out)
    table["rows"]["none"] |= {"treatment": "another", "fixed": {}, "attacks": {"kept": True}}
    blind.write_json(out, table)
    again = small(out, only="none")["rows"]["none"]
    assert again == none | {"attacks": {"kept": True}} and again["treatment"].startswith("JPEG 40, blur")


def _small(whole):
    sizes = {(6, 8): 4}
    return lambda path, only="", **how: whole(path, only, sizes=sizes, people=1, photos=14, scored=3, **how)


@pytest.mark.parametrize(
    ("words", "says"), [(["--only", "weather"], "contains 'weather'"), (["--out", "x.txt"], "is not a .json file")]
)
def test_bad_input_is_one_sentence(tiny_lab, capsys, words, says):
    assert cli.main(["blind", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1 and says in err
