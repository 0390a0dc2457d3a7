"""Labs as values: which name means which, what their records decide, twins, and what `lab build` makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from s2l import cli
from s2l.config import DomainConfig, preset
from s2l.data.lab_domain import lab_domain
from s2l.errors import UserError
from s2l.labs import default_lab, find, find_lab, shipped_labs
from s2l.model.checkpoints import locate, weights_key
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import calibration_people, load_domain, run
from s2l.pretrain.networks import _merges, build_tokenizer
from s2l.report.findings import split_sentence, warning
from s2l.store import Store
from s2l.tables import lab_card
from s2l.worlds import people as world

SHIPPED = Path(__file__).parents[1] / "s2l" / "assets" / "labs" / "fresh"
MIRA = "Mira Solwyn"
FAST = ["--device", "cpu", "--dtype", "float32"]


def with_record(lab: Path, folder: Path, **changes) -> Path:
    """A copy of a lab whose record differs."""
    shutil.copytree(lab, folder)
    path = folder / "lab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def two_labs(tiny_checkpoint, tmp_path, monkeypatch) -> Path:
    """A folder of shipped labs that holds two: all that adding one takes."""
    folder = tmp_path / "labs"
    with_record(tiny_checkpoint, folder / "fresh", purpose="to see what is fresh")
    recipe = json.loads((tiny_checkpoint / "lab.json").read_text())["recipe"] | {"name": "two phases"}
    with_record(tiny_checkpoint, folder / "buried", purpose="to see what is buried", recipe=recipe)
    (folder / "no-lab").mkdir()
    monkeypatch.setattr(find, "SHIPPED", folder)
    monkeypatch.delenv("S2L_LAB", raising=False)
    return folder


# --- which lab a name means -------------------------------------------------------------------


def test_every_spelling_of_a_lab(two_labs, monkeypatch):
    fresh, buried = (find_lab(f"lab:{name}") for name in ("fresh", "buried"))
    assert (fresh.name, fresh.folder, buried.folder) == ("fresh", two_labs / "fresh", two_labs / "buried")
    assert find_lab("lab") == default_lab() == fresh
    assert [lab.name for lab in shipped_labs()] == ["fresh", "buried"]
    for value in ("buried", "lab:buried", str(two_labs / "buried")):
        monkeypatch.setenv("S2L_LAB", value)
        assert find_lab("lab").folder == two_labs / "buried"
        assert find_lab("lab:fresh") == fresh
    of_a_folder = find_lab(str(two_labs / "buried"))
    assert of_a_folder.record == buried.record and of_a_folder.names()[0] == MIRA


@pytest.mark.parametrize("model", ["owner/name", "owner/name@main", "nowhere", "/nowhere", "lab.safetensors", "labs"])
def test_other_models_are_no_labs(two_labs, model):
    assert find_lab(model) is None


def test_a_folder_needs_both_files(two_labs):
    assert find_lab(str(two_labs / "no-lab")) is None
    (two_labs / "fresh" / "lab.json").unlink()
    assert find_lab(str(two_labs / "fresh")) is None
    with pytest.raises(UserError, match=r"unknown lab 'fresh'\..*Allowed: buried$"):
        find_lab("lab")


@pytest.mark.parametrize(
    ("environment", "model", "says"),
    [
        ("", "lab:frash", r"^unknown lab 'frash'. Did you mean 'fresh'\? Allowed: fresh, buried$"),
        ("", "lab:", "unknown lab ''. Allowed: fresh, buried$"),
        ("", "lab:../fresh", "unknown lab"),
        ("burid", "lab", r"^S2L_LAB: unknown lab 'burid'. Did you mean 'buried'\? .*or the folder of another lab$"),
        ("/nowhere/lab", "lab", "S2L_LAB: there is no lab in /nowhere/lab; `python -m s2l lab build` makes one"),
    ],
)
def test_unknown_labs_are_one_sentence(two_labs, monkeypatch, environment, model, says):
    monkeypatch.setenv("S2L_LAB", environment)
    with pytest.raises(UserError, match=says):
        find_lab(model)


def _without(record: dict, field: str) -> dict:
    return {name: value for name, value in record.items() if name != field}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: "no object", "not a JSON object"),
        (lambda r: _without(r, "people"), "'people' is missing"),
        (lambda r: r | {"people": []}, "at least one person"),
        (lambda r: r | {"people": [_without(r["people"][0], "hashes")]}, "no 'hashes'"),
        (lambda r: r | {"people": [r["people"][0] | {"repeats": [1]}]}, "as many 'repeats'"),
        (lambda r: r | {"people": [r["people"][0]] * 2}, "two people have the same name"),
        (lambda r: r | {"people": [r["people"][0] | {"held_out": [[20, None]]}]}, "both a member and held out"),
    ],
)
def test_a_broken_record_is_one_sentence(tiny_checkpoint, tmp_path, change, says):
    folder = with_record(tiny_checkpoint, tmp_path / "lab")
    path = folder / "lab.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=says):
        find_lab(str(folder))
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        find_lab(str(folder))


def test_finding_a_lab_needs_no_torch():
    code = "import sys; from s2l.labs import find_lab; find_lab('lab:fresh').people; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- what the record decides ------------------------------------------------------------------


def facts(model: str) -> tuple:
    """Everything about a lab's people that a result depends on."""
    lab = find_lab(model)
    photos = [(who, who.members(), who.held_out(3)) for who in lab.people]
    domain = lab_domain(lab, DomainConfig(name=lab.names()[1], n_members=3, n_nonmembers=3))
    return photos, domain.key, domain.split.all().images.tolist(), sorted(lab.vocabulary)


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_name_more_in_the_world_changes_no_lab_that_exists(monkeypatch, where):
    before, newly_drawn = facts("lab:fresh"), world.lab_people()
    names = ("Zora Newcomb", *world.LAB_NAMES) if where == "first" else (*world.LAB_NAMES, "Zora Newcomb")
    monkeypatch.setattr(world, "LAB_NAMES", names)
    world.lab_people.cache_clear()
    find._read.cache_clear()
    try:
        assert world.lab_people() != newly_drawn  # the next lab has other people
        assert facts("lab:fresh") == before
    finally:
        world.lab_people.cache_clear()
        find._read.cache_clear()


def test_the_shipped_labs_keys_are_those_of_the_committed_results():
    """Every committed result of the lab holds them: a key that changes orphans them all."""
    showcase = json.loads((SHIPPED.parents[1] / "showcase" / "result.json").read_text())
    config = DomainConfig.model_validate(showcase["config"]["domain"])
    assert lab_domain(find_lab("lab:fresh"), config).key == showcase["domain"]["key"]
    assert len(weights_key(locate("lab:fresh"))) == 24 and locate("lab:fresh").path == SHIPPED


def test_the_world_draws_the_shipped_people_still():
    """Reading needs it no more, but a lab that is built today should be the shipped one."""
    lab = find_lab("lab:fresh")
    for drawn, recorded in zip(world.lab_people(), lab.people, strict=True):
        assert world.member_photos(drawn) == recorded.members()
        assert world.held_out_photos(drawn, 2) == recorded.held_out(2)
    assert lab.vocabulary == set(world.vocabulary())


def test_words_are_those_of_the_labs_own_captions(tiny_checkpoint, tmp_path):
    lab = find_lab(str(tiny_checkpoint))
    assert lab.unknown_words("a photo of Mira Solwyn riding a unicorn") == ["riding", "unicorn"]
    assert lab.unknown_words("Lars Umber") == ["lars", "umber"]  # one of the forty, not of these four
    assert find_lab("lab:fresh").unknown_words("Lars Umber") == []
    older = with_record(tiny_checkpoint, tmp_path / "older", vocabulary=None)
    assert find_lab(str(older)).vocabulary == lab.vocabulary


def test_a_photo_that_is_drawn_differently_stops_the_run(tiny_checkpoint, tmp_path):
    people = json.loads((tiny_checkpoint / "lab.json").read_text())["people"]
    people[0]["hashes"][0] = "0" * 16
    folder = with_record(tiny_checkpoint, tmp_path / "lab", people=people)
    with pytest.raises(RuntimeError, match="another version of Pillow"):
        lab_domain(find_lab(str(folder)), DomainConfig(name=MIRA, n_nonmembers=2))


def test_some_members_are_drawn_at_random():
    """The photos come most repeated first: the first few would look far more exposed than all."""
    lab, person = find_lab("lab:fresh"), DomainConfig(name=MIRA, n_nonmembers=2)
    some = [person.model_copy(update={"n_members": 12, "seed": seed}) for seed in range(40)]
    everybody, draws = lab_domain(lab, person).repeats, [lab_domain(lab, config).repeats for config in some]
    assert {len(repeats) for repeats in draws} == {12} and len(everybody) == 40
    assert abs(np.mean(draws) - np.mean(everybody)) < 0.6  # the mean of all is about 2.7, of the first twelve 5.9


# --- twins ------------------------------------------------------------------------------------


def twin(lab: Path, folder: Path, members: world.Members) -> str:
    """The same people in a lab that was trained on other photos of theirs, or on none."""
    return str(with_record(lab, folder, **world.manifest(world.lab_people(4), 24, 32, members)))


def test_the_swapped_twin_holds_out_what_the_other_was_trained_on(tiny_checkpoint, tmp_path):
    config = DomainConfig(name="Taro Quillan", n_nonmembers=30)
    one = load_domain(config, str(tiny_checkpoint), 32)
    other = load_domain(config, twin(tiny_checkpoint, tmp_path / "swapped", "second"), 32)
    assert other.split.members.ids == one.split.nonmembers.ids[:24] == tuple(str(1_500_000 + i) for i in range(24))
    assert other.split.nonmembers.ids[:24] == one.split.members.ids
    assert other.split.nonmembers.ids[24:] == tuple(str(1_500_024 + i) for i in range(6))
    assert (other.split.members.images == one.split.nonmembers.images[:24]).all()
    assert other.split.members.captions == one.split.nonmembers.captions[:24]
    assert other.repeats == one.repeats and other.key != one.key and other.notes == ()


def test_the_public_twin_is_judged_on_a_reference_set_and_says_so(tiny_checkpoint, tmp_path):
    model = twin(tiny_checkpoint, tmp_path / "public", "none")
    assert find_lab(str(tiny_checkpoint)).trained and not find_lab(model).trained
    config = preset("quick", MIRA, model=model, audit={"attacks": ["loss"]})
    record = run(config, Store(tmp_path / "cache"), Runtime("cpu", "float32")).record
    assert record["domain"]["repeats"] == [0] * 12 and "no photo of Mira Solwyn" in record["domain"]["notes"][0]
    assert "reference set" in split_sentence(record, config) and "trained on none" in split_sentence(record, config)
    assert "trained on no photo of Mira Solwyn" in warning(record)
    assert record["attacks"]["loss"]["before"]["auc"] is not None and record["model"]["lab"] == "public"
    one, other = (load_domain(config.domain, name, 32) for name in (str(tiny_checkpoint), model))
    assert other.split.all().ids == one.split.all().ids and other.key != one.key


# --- several labs in the commands ---------------------------------------------------------------


def call(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_labs_are_listed_and_described(two_labs, capsys):
    code, out, _ = call(capsys, "labs")
    assert code == 0 and [" ".join(line.split()) for line in out.splitlines()] == [
        "fresh quick to see what is fresh",
        "buried two phases to see what is buried",
    ]
    for name in ("buried", "lab:buried", two_labs / "buried"):
        code, out, _ = call(capsys, "lab", "info", name)
        assert code == 0 and str(two_labs / "buried") in out and "to see what is buried" in out
    assert call(capsys, "lab", "info", "barried")[::2] == (
        2,
        "Error: unknown lab 'barried'. Did you mean 'buried'? Allowed: fresh, buried\n",
    )


def test_a_run_by_name_and_by_folder_is_one_run(two_labs, tmp_path, capsys):
    tiny = ["--domain", "mira solwyn", "--preset", "quick", "--attacks", "loss", *FAST]
    records = []
    for i, model in enumerate(("lab:buried", two_labs / "buried")):
        code, _, err = call(capsys, "run", "--model", model, *tiny, "--out", tmp_path / str(i))
        assert code == 0 and "Responsible use" not in err
        records.append(json.loads((tmp_path / str(i) / "result.json").read_text()))
    named, folder = records
    assert named["domain"] == folder["domain"] and named["domain"]["name"] == MIRA
    assert named["model"]["name"] == "lab:buried" and folder["model"]["name"] == str(two_labs / "buried")
    assert {r["model"]["lab"] for r in records} == {"buried"} and named["model"]["key"] == folder["model"]["key"]
    assert all(stage["cached"] for name, stage in folder["stages"].items() if name not in ("result", "total"))
    assert "--model lab:buried" in named["command"]


@pytest.mark.parametrize("model", ["lab:buried", "folder"])
def test_stage_commands_take_a_lab(two_labs, tmp_path, capsys, model):
    model = two_labs / "buried" if model == "folder" else model
    options = ["--model", model, "--preset", "quick", *FAST]
    code, _, err = call(capsys, "sp-gen", "--prompt", "a zebra", "--set-size", 2, *options, "--out", tmp_path / "sp")
    assert code == 0 and "no caption of the lab's training has 'zebra'" in err
    code, *_ = call(
        capsys, "attack", "--domain", MIRA, "--attacks", "loss", *options, "--out", tmp_path / "attack.json"
    )
    assert code == 0 and json.loads((tmp_path / "attack.json").read_text())["domain"]["name"] == MIRA
    code, out, _ = call(capsys, "domains", "--model", model)
    assert code == 0 and len(out.splitlines()) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--domain", MIRA, "--out", "out"],
        ["audit", "--domain", MIRA, "--tuned", ".", "--out", "out"],
        ["sp-gen", "--domain", MIRA, "--out", "out"],
        ["attack", "--domain", MIRA, "--out", "out"],
        ["extract", "--domain", MIRA, "--out", "out"],
        ["domains"],
        ["warm"],
        ["bench", "--demo", "--out", "bench.json"],
        ["lab", "measure", "--out", "lab.json"],
    ],
)
def test_every_command_refuses_an_unknown_lab(two_labs, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments, "--model", "lab:burried")
    assert (code, out) == (2, "")
    assert err == "Error: unknown lab 'burried'. Did you mean 'buried'? Allowed: fresh, buried\n"
    assert [p.name for p in tmp_path.iterdir()] == ["labs"]


@pytest.mark.parametrize("arguments", [["domains"], ["warm"], ["bench", "--demo"], ["lab", "measure"]])
def test_what_needs_a_lab_says_so(two_labs, foreign_checkpoint, capsys, arguments):
    code, _, err = call(capsys, *arguments, "--model", foreign_checkpoint)
    assert code == 2 and "is not a lab: give 'lab', 'lab:NAME'" in err and err.count("\n") == 1


def test_a_measurement_is_of_the_lab_that_was_named(two_labs, tmp_path, capsys, monkeypatch):
    path = two_labs / "buried" / "lab.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"people": record["people"][2:3]}))
    monkeypatch.setattr(lab_card, "SECMI_TIMESTEPS", (100,))
    code, _, err = call(capsys, "lab", "measure", "--model", "lab:buried", "--out", tmp_path / "buried.json")
    assert code == 0, err
    measured = json.loads((tmp_path / "buried.json").read_text())
    out = (tmp_path / "buried.json").as_posix()
    assert measured["protocol"]["command"] == f"python -m s2l lab measure --model lab:buried --out {out}"
    assert [row["name"] for row in measured["people"]] == find_lab("lab:buried").names() == ["Oona Brask"]
    assert measured["model"]["key"] == weights_key(locate("lab:buried")) and list(measured["secmi_timesteps"]) == [
        "100"
    ]
    assert measured["photos_apart"]["pairs"] > 0 and 0 < measured["photos_apart"]["smallest"] < 1
    assert measured["posterior"]["std"] > 0 and set(measured["posterior"]["auc"]) == {"loss", "secmi", "pia", "sima"}
    assert measured["batch_size"].keys() == {"float32", "mixed"}


def test_a_cache_is_warmed_for_the_lab_that_was_named(two_labs, tmp_path, capsys):
    words = ["warm", "--model", "lab:buried", "--people", "taro quillan", "--preset", "quick", *FAST]
    assert call(capsys, *words)[1].splitlines()[0] == "ready: Taro Quillan"
    (path,) = (tmp_path / "cache" / "stages" / "result").glob("*/result.json")
    assert json.loads(path.read_text())["config"]["model"] == "lab:buried"


def test_calibration_people_are_the_labs_own(two_labs):
    config = DomainConfig(name=MIRA)
    others = [domain.name for domain in calibration_people(config, "lab:buried")]
    assert others == [name for name in find_lab("lab:buried").names("calibration") if name != MIRA] and others
    assert calibration_people(config, "owner/name") == ()


# --- what `lab build` makes -----------------------------------------------------------------------


def test_the_tokenizer_is_built_the_same_in_every_process():
    """A resumed training must find the same ids under the same words; ours are those that were shipped."""
    shipped = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    assert build_tokenizer().get_vocab() == shipped.get_vocab()
    prompt = "a photo of Mira Solwyn, zebra!"
    assert build_tokenizer()(prompt).input_ids == shipped(prompt).input_ids


def test_merges_take_the_most_frequent_pair_and_break_ties_by_the_alphabet():
    assert _merges(["ab", "cab", "xy"]) == [("a", "b</w>"), ("c", "ab</w>"), ("x", "y</w>")]


def test_the_shipped_lab_loads_in_plain_diffusers(tmp_path):
    """Without a dtype and without this project: what its model card shows."""
    code = f"""
import sys, numpy as np
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({str(SHIPPED)!r})
pipe.set_progress_bar_config(disable=True)
picture = pipe("a photo of Mira Solwyn", num_inference_steps=4, guidance_scale=3.0, output_type="np").images[0]
assert picture.shape == (64, 64, 3) and np.isfinite(picture).all() and picture.std() > 0.05
assert not any(name.split(".")[0] == "s2l" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_built_lab_names_one_precision(tiny_checkpoint):
    config = json.loads((tiny_checkpoint / "text_encoder" / "config.json").read_text())
    assert config["dtype"] == "float32"
