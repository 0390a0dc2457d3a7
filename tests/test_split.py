"""The choice of held-out photos: the second source, the statistics over its share, the table's cells, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from s2l import cli
from s2l.config import DomainConfig
from s2l.data.domain import ImageSet
from s2l.data.lab_domain import lab_domain, second_source_domain
from s2l.errors import UserError
from s2l.labs import find_lab
from s2l.measure.over_people import hierarchical_contrast, hierarchical_difference
from s2l.measure.split import SHARES, Parts, at_shares, blind_at_shares, from_second, mixture, shares_over_people
from s2l.store import read_json, write_json
from s2l.tables import cells, declared
from s2l.tables import view as table_view
from s2l.tables.declared import Row, Table
from s2l.worlds import people, second
from s2l.worlds.people import photo_hash
from s2l.worlds.second import DIRECTIONS, second_photos

PERSON = people.lab_people(1)[0]
N = 40
SMALL = {
    "sp_set": {"set_size": 2},
    "finetune": {"max_train_steps": 1},
    "audit": {"attacks": ("loss",)},
}


def images(photos) -> ImageSet:
    pixels = np.stack([each.pixels() for each in photos])
    ids = tuple(str(each.photo_seed) for each in photos)
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2), tuple(each.caption for each in photos), ids)


@pytest.fixture(scope="module")
def photos() -> dict[str, ImageSet]:
    """Members, held-out photos and both second sources of one person."""
    fair = {"members": people.member_photos(PERSON, N), "fair": people.held_out_photos(PERSON, N)}
    return {name: images(some) for name, some in (fair | {d: second_photos(PERSON, d, N) for d in DIRECTIONS}).items()}


# --- the second source ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_same_photos_every_time_and_others_for_other_people(direction):
    one, two = (second_photos(PERSON, direction, 3) for _ in range(2))
    assert one == two and all(np.array_equal(a.pixels(), b.pixels()) for a, b in zip(one, two, strict=True))
    assert second_photos(PERSON, direction, 2) == one[:2]  # more photos do not change the first ones
    other = second_photos(replace(PERSON, index=PERSON.index + 1), direction, 3)
    assert not any(np.array_equal(a.pixels(), b.pixels()) for a, b in zip(one, other, strict=True))


def test_no_photo_is_a_member_or_held_out(photos):
    hashes = [photo_hash(x.permute(1, 2, 0).numpy()) for some in photos.values() for x in some.images]
    assert len(set(hashes)) == len(hashes) == 4 * N
    seeds = [int(i) for some in photos.values() for i in some.ids]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_captions_have_the_labs_words_and_say_what_is_shown(direction):
    known = set(people.vocabulary())
    for photo in second_photos(PERSON, direction, 30):
        assert set(people.words_of(photo.caption)) <= known and PERSON.name in photo.caption
        if "background" in photo.caption:
            assert f"{second.second_shot(photo.photo_seed, direction).background_colour} background" in photo.caption


def test_the_directions_are_what_their_names_say(photos):
    def mean(what: str, direction: str) -> float:
        shots = [second.second_shot(int(i), direction) for i in photos[direction].ids]
        return float(np.mean([getattr(shot, what) for shot in shots]))

    assert mean("scale", "studio") > 1.1 > 0.95 > mean("scale", "street")
    assert mean("exposure", "studio") > 0.95 > mean("exposure", "street")
    shots = [second.second_shot(int(i), "studio") for i in photos["studio"].ids]
    assert {shot.background for shot in shots} == {"plain"} and max(abs(shot.dx) for shot in shots) <= 0.01
    bright = {name: some.images.float().mean().item() for name, some in photos.items()}
    assert bright["street"] < 0.95 * bright["fair"] < bright["studio"]


def test_impossible_photos_are_refused():
    with pytest.raises(ValueError, match="studio, street"):
        second_photos(PERSON, "beach", 1)
    with pytest.raises(ValueError, match="100,000"):
        second_photos(PERSON, "studio", 100_001)


# --- statistics over the share ----------------------------------------------------------------------------------------


def test_a_larger_share_only_adds_photos_and_their_number_stays():
    chosen = [from_second(30, share) for share in SHARES]
    assert [c.sum() for c in chosen] == [0, 8, 15, 22, 30]
    assert all((small <= large).all() for small, large in pairwise(chosen))
    fair, other = np.arange(30.0), 100 + np.arange(40.0)
    for share in SHARES:
        mixed = mixture(fair, other, share)
        assert len(mixed) == 30 and (mixed % 100 == fair).all() and (mixed >= 100).sum() == round(share * 30)
    with pytest.raises(ValueError, match="between 0 and 1, not 1.5"):
        from_second(3, 1.5)


def test_the_change_at_each_share_is_that_of_the_mixture():
    """Two members at 2; fair photos stay at 1 and 3 (AUC .5), second-source ones fall from 3 to 1 (AUC 0 to 1)."""
    members, fair, other = ([2, 2], [2, 2]), ([1, 3], [1, 3]), ([3, 3], [1, 1])
    rows = at_shares(members, fair, other, (0.0, 0.5, 1.0))
    assert [row.n_second for row in rows] == [0, 1, 2]
    assert [(row.auc_before, row.auc_after) for row in rows[::2]] == [(0.5, 0.5), (0.0, 1.0)]
    assert [row.difference.difference for row in rows[::2]] == [0.0, 1.0]
    middle = rows[1]  # one fair photo is replaced: the one at 1 (0 -> 1 with the other at 3) or the one at 3
    first = bool(from_second(2, 0.5)[0])
    assert (middle.auc_before, middle.auc_after) == ((0.0, 0.5) if first else (0.5, 1.0))
    assert middle.difference.difference == 0.5 and rows[0].difference.low <= 0 <= rows[0].difference.high


def people_of(moved: float, n: int = 4) -> list[Parts]:
    """`n` people whose second-source scores fall by `moved`; nothing else changes."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        m, f, s = rng.normal(0.3, 1, 30), rng.normal(0, 1, 60), rng.normal(0, 1, 60)
        made.append(Parts((m, m), (f, f), (s, s - moved)))
    return made


def test_what_the_source_adds_is_the_change_at_share_1_minus_that_at_0():
    outcome = shares_over_people(people_of(0.8))
    changes = [row.difference.difference for row in outcome.shares]
    assert changes[0] == 0 and changes == sorted(changes) and changes[-1] > 0.1
    assert outcome.inflation.difference == pytest.approx(changes[-1] - changes[0])
    assert 0 < outcome.inflation.low < outcome.inflation.difference < outcome.inflation.high
    assert outcome.inflation.confidence == 0.975 > outcome.shares[0].difference.confidence
    none = shares_over_people(people_of(0.0, 2), (0.0, 1.0)).inflation
    assert (none.difference, none.p_value) == (0, 1)


def test_a_contrast_of_two_conditions_is_the_paired_difference():
    rng = np.random.default_rng(1)
    before = [(rng.normal(0.5, 1, 20), rng.normal(0, 1, 30)) for _ in range(3)]
    after = [(m + rng.normal(0, 0.5, 20), n) for m, n in before]
    contrast = hierarchical_contrast(list(zip(before, after, strict=True)), (-1, 1))
    expected = hierarchical_difference(before, after)
    for field in ("difference", "low", "high", "p_value", "per_domain"):
        assert getattr(contrast, field) == pytest.approx(getattr(expected, field))
    with pytest.raises(ValueError, match="2 conditions and there are 3 weights"):
        hierarchical_contrast(list(zip(before, after, strict=True)), (1, -1, 1))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_blind_control_sees_the_second_source_and_not_the_fair_split(photos, direction):
    controls = blind_at_shares(photos["members"], photos["fair"], photos[direction], (0.0, 1.0))
    assert not controls[0].confounded and controls[0].auc < 0.65
    assert controls[1].confounded and controls[1].auc > 0.85


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_domain_adds_photos_behind_those_of_the_lab(tiny_lab):
    lab, config = find_lab("lab"), DomainConfig(name=PERSON.name, n_members=5, n_nonmembers=7)
    domain, parts = second_source_domain(lab, config)
    plain = lab_domain(lab, config)
    assert parts == {"fair": slice(0, 7), "never": slice(7, 12), "studio": slice(12, 19), "street": slice(19, 26)}
    assert domain.membership.members.ids == plain.membership.members.ids
    held_out = domain.membership.nonmembers
    assert held_out.ids[parts["fair"]] == plain.membership.nonmembers.ids and len(set(held_out.ids)) == 26
    assert domain.key != plain.key


def test_the_table_keeps_one_cell_per_person_which_can_be_made_again(tiny_lab, tmp_path, monkeypatch, capsys):
    assert declared.TABLES["split"].kind == "split" and declared.TABLES["split"].role == "reporting"
    table = Table("Split", (Row("LoRA", SMALL),), role="calibration", people=1, preset="quick", kind="split")
    monkeypatch.setitem(declared.TABLES, "split", table)
    words = ["table", "split", "--results", str(tmp_path), "--device", "cpu", "--dtype", "float32"]
    assert cli.main(words) == 0, capsys.readouterr().err
    (path,) = (tmp_path / "split" / "lora").glob("*.json")
    cell = cells.read_cell(path)  # checks the key
    scores = cell["attacks"]["loss"]["scores"]["after"]
    assert list(scores) == ["members", "fair", "never", "studio", "street"]
    assert {len(x) for x in scores.values()} == {12}

    summary = read_json(tmp_path / "split.json")
    studio = summary["rows"]["LoRA"]["attacks"]["loss"]["studio"]
    assert [at["share"] for at in studio["members"]["shares"]] == list(SHARES) and "inflation" in studio["never"]
    assert table_view.document("split", summary) == (tmp_path / "split.md").read_text()
    assert "What the second source adds" in (tmp_path / "split.md").read_text()
    assert (tmp_path / "split.png").stat().st_size > 10_000

    capsys.readouterr()
    assert cli.main(["cell", str(path), "--device", "cpu"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(lines) == len(cells.numbers_of(cell)) and {line[-1] for line in lines} == {"+0"}

    write_json(path, cell | {"config": cell["config"] | {"audit": cell["config"]["audit"] | {"seed": 7}}})
    with pytest.raises(UserError, match="does not match its key"):
        cells.read_cell(path)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(photos, tmp_path_factory):
    """Members, held-out photos and a studio as folders, 16 pictures each."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("members", "fair", "studio"):
        (root / name).mkdir()
        for i, image in enumerate(photos[name].images[:16]):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / name / f"{i:02}.png")
    return root


def test_split_check_without_a_model(folders, tmp_path, capsys):
    words = ["split-check", "--members", folders / "members", "--nonmembers", folders / "fair"]
    assert cli.main([str(w) for w in words]) == 0
    out = capsys.readouterr().out
    assert "finds no difference" in out and "25 %" not in out
    file = tmp_path / "deep" / "split.json"
    words += ["--second", folders / "studio", "--out", file]
    assert cli.main([str(w) for w in words]) == 0
    out = capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["shares"] == list(SHARES) and record["n_nonmembers"] == {"fair": 16, "second": 16}
    assert len(record["blind"]) == 5 and record["blind"][4]["confounded"] and record["attacks"] == {}
    assert "16 members against 16 held-out photos" in out and "recognises the second source" in out
    assert "100 %" in out


def test_split_check_with_two_models(folders, tiny_lab, tmp_path, capsys):
    sp, tuned, fast = tmp_path / "sp", tmp_path / "tuned", ["--device", "cpu", "--dtype", "float32"]
    assert (
        cli.main(["sp-gen", "--domain", PERSON.name, "--set-size", "2", "--preset", "quick", "--out", str(sp), *fast])
        == 0
    )
    words = ["finetune", "--sp-set", sp, "--logdir", tuned, "--steps", 1, "--preset", "quick", "--domain", PERSON.name]
    assert cli.main([str(w) for w in words] + fast) == 0
    words = ["split-check", "--members", folders / "members", "--nonmembers", folders / "fair", "--second"]
    words += [folders / "studio", "--tuned", tuned, "--attacks", "loss", "--out", tmp_path / "s.json", *fast]
    assert cli.main([str(w) for w in words]) == 0
    (rows,) = json.loads((tmp_path / "s.json").read_text())["attacks"].values()
    assert [row["n_second"] for row in rows] == [0, 4, 8, 12, 16]
    for row in rows:
        assert row["difference"]["difference"] == pytest.approx(row["auc_after"] - row["auc_before"])
    assert "loss: AUC before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--members", "M"], "give both folders, --members and --nonmembers"),
        (["--members", "M", "--nonmembers", "nowhere"], "not a folder of images"),
        (["--members", "M", "--nonmembers", "F", "--second", "nowhere"], "not a folder of images"),
        (["--members", "M", "--nonmembers", "F", "--second", "F"], "at least 2 second-source photos"),
        (["--members", "M", "--nonmembers", "F", "--model", "lab"], "--model: the attacks compare two models"),
        (["--members", "M", "--nonmembers", "F", "--attacks", "loss"], "--attacks: the attacks compare two models"),
        (["--members", "M", "--nonmembers", "F", "--tuned", "nowhere"], "is not a fine-tuned model"),
        (["--members", "M", "--nonmembers", "F", "--out", "M"], "is a folder: --out names a JSON file"),
        (["--members", "M", "--nonmembers", "F", "--preset", "dmo"], "unknown preset"),
    ],
)
def test_bad_input_is_one_sentence(folders, tiny_lab, capsys, words, says):
    places = {"M": str(folders / "members"), "F": str(folders / "fair")}
    assert cli.main(["split-check", *(places.get(word, word) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1 and says in err
