"""One audit for a run and for models from elsewhere: the same numbers, cached, calibrated, honest without photos."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from s2l import attacks, cli, finetune
from s2l.attacks import Combination
from s2l.cli import base
from s2l.config import AuditConfig, AuditRunConfig, DomainConfig, ExtractionConfig, preset
from s2l.data import lab_domain as lab_domains
from s2l.data.domain import Domain, ImageSet, MembershipSplit, folder_domain
from s2l.data.lab_domain import lab_domain
from s2l.errors import UserError
from s2l.labs import default_lab
from s2l.measure.operating_points import frozen_tpr, threshold_for_fpr
from s2l.model.diffusion import Runtime
from s2l.options import audit_config, read_config, reproduce_command
from s2l.pipeline import experiment
from s2l.pipeline.audit import audit
from s2l.pipeline.experiment import run, run_audit
from s2l.pipeline.membership import check_split, compare_attack
from s2l.pipeline.subject import Subject
from s2l.pretrain import build as lab_train
from s2l.pretrain.networks import build_pipeline
from s2l.report.render import outcome
from s2l.store import Store, write_json
from s2l.tables import docs
from s2l.tables import grid as tables
from s2l.tables.cells import cell_of
from tests.conftest import QUICK

NAME = "Mira Solwyn"
CPU = Runtime(device="cpu", dtype="float32", batch_size=8)
PARTS = ("attacks", "extraction", "blind", "control", "domain")
SMALL = {"audit": {"attacks": ["loss"]}, "extraction": {"n_generations": 4}}


@pytest.fixture(scope="module")
def lab(tiny_checkpoint):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2L_LAB", str(tiny_checkpoint))
        yield tiny_checkpoint


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory):
    """A quick run, whose fine-tuned weights are audited below."""
    return run(preset("quick", NAME, **SMALL), Store(tmp_path_factory.mktemp("audit") / "cache"), CPU)


@pytest.fixture(scope="module")
def tuned(whole):
    return whole.store.root / whole.record["folders"]["finetune"]


def settings_for(whole, tuned, **more) -> AuditRunConfig:
    config = whole.record["config"]
    shared = {part: config[part] for part in ("domain", "audit", "extraction", "preset")}
    return AuditRunConfig.model_validate(shared | {"tuned": str(tuned)} | more)


# --- the same comparison -------------------------------------------------------------------------


def test_an_audit_of_a_runs_weights_gives_the_runs_numbers(whole, tuned, tmp_path, monkeypatch):
    store, config = Store(tmp_path / "cache"), settings_for(whole, tuned)
    found = run_audit(config, store, CPU)
    assert found.record["kind"] == "audit" and whole.record["kind"] == "run"
    assert {part: found.record[part] for part in PARTS} == {part: whole.record[part] for part in PARTS}
    assert "sp_set" not in found.record["folders"] and found.record["finetune"] == whole.record["finetune"]
    json.dumps(found.record, allow_nan=False)

    # Again: all from the cache, and the tuned model is not even loaded.
    monkeypatch.setattr(finetune, "load_finetuned", lambda *arguments: pytest.fail("the tuned model was loaded"))
    again = run_audit(config, store, CPU)
    assert again.key == found.key and again.record["attacks"] == found.record["attacks"]
    assert all(stage.get("cached", True) for stage in again.record["stages"].values())


def test_attacks_that_share_predictions_run_together_and_resume_alone(whole, tuned, tmp_path, monkeypatch):
    asked, original = [], attacks.run_components

    def recorded(names, *arguments):
        asked.append(list(names))
        return original(names, *arguments)

    monkeypatch.setattr(attacks, "run_components", recorded)
    store = Store(tmp_path / "cache")
    config = settings_for(whole, tuned, audit={"attacks": ["pia", "loss", "pian"]})
    found = run_audit(config, store, CPU)
    assert asked == [["pia", "pian"], ["pia", "pian"], ["loss"], ["loss"]]  # each before and after
    asked.clear()
    more = run_audit(settings_for(whole, tuned, audit={"attacks": ["pia", "loss", "pian", "sima_mc"]}), store, CPU)
    assert asked == [["sima_mc"], ["sima_mc"]]
    assert more.record["attacks"]["pia"] == found.record["attacks"]["pia"]


def test_two_models_need_two_keys_and_a_split_needs_two_photos(tiny_model):
    domain = Domain("nobody", None, key="x")
    with pytest.raises(ValueError, match="the same key"):
        audit(Subject.of(tiny_model), Subject.of(tiny_model), domain)
    images = ImageSet(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), ("",) * 3, tuple("abc"))
    check_split(Domain("x", MembershipSplit(images, images)))
    with pytest.raises(UserError, match="at least 2 members and 2 held-out photos.*3 and 1"):
        check_split(Domain("x", MembershipSplit(images, images.subset([0]))))


def test_captions_are_judged_as_mapped_and_as_they_were(whole, tmp_path):
    """With the original captions a Textual Inversion model is the base model."""
    assert whole.record["attacks"]["loss"]["original_captions"] is None
    inversion = {"methods": ["textual_inversion"], "max_train_steps": 2}
    result = run(preset("quick", NAME, finetune=inversion, **SMALL), Store(tmp_path / "cache"), CPU)
    found = result.record["attacks"]["loss"]
    assert found["original_captions"]["after"]["auc"] == found["before"]["auc"]
    assert found["original_captions"]["difference"]["difference"] == 0 != found["scores"]["after"]["members"][0]
    assert found["scores"]["after"] != found["scores"]["before"]
    (row,) = [row for row in outcome(result) if "original captions" in row.what]
    assert row.difference.startswith("+0.000")


def test_the_relative_change_is_judged_where_scores_are_distances():
    before = -np.random.default_rng(0).uniform(1, 9, (2, 40))
    pair, stretched = tuple(before), tuple(1.5 * before)
    found = compare_attack("loss", AuditConfig(), pair, stretched)
    assert found["shake"]["auc"] == pytest.approx(found["before"]["auc"])  # the base score in disguise
    lowest, highest = found["shake_relative"]["delong"]["low"], found["shake_relative"]["delong"]["high"]
    assert lowest < 0.5 < highest
    assert compare_attack("pfami", AuditConfig(), pair, (pair[0] + 20, pair[1] + 20))["shake_relative"] is None


def test_a_shaken_model_that_forgot_its_photos_is_a_reference():
    """Photos differ in how hard they are; only members lose what was remembered, and only the pair of models tells."""
    rng = np.random.default_rng(0)
    hard, memory = np.exp(rng.normal(0, 1, (2, 300))), np.exp(-rng.uniform(0.3, 0.5, 300))
    before, after = (-hard[0] * memory, -hard[1]), (-hard[0], -hard[1])
    found = compare_attack("loss", AuditConfig(shake_weight=1), before, after)["shake_reference"]
    assert found["auc"] == 1.0 and found["weight"] == 1
    assert found["difference"]["low"] > 0.2
    assert found["difference"]["difference"] == pytest.approx(
        1 - compare_attack("loss", AuditConfig(), before, after)["before"]["auc"]
    )
    nothing = compare_attack("loss", AuditConfig(shake_weight=0), before, after)
    assert nothing["shake_reference"]["auc"] == nothing["before"]["auc"]
    assert compare_attack("pfami", AuditConfig(), before, (after[0] + 99, after[1] + 99))["shake_reference"] is None


# --- calibration -----------------------------------------------------------------------------------


def test_a_calibration_part_is_a_seeded_disjoint_split(lab):
    config = {"name": NAME, "n_members": 20, "n_nonmembers": 30}
    domain = lab_domain(default_lab(), DomainConfig(**config, seed=4))
    aside = lab_domain(default_lab(), DomainConfig(**config, calibration_share=0.3, seed=4))
    test, held = aside.split, aside.split.calibration
    assert [len(x) for x in (test.members, test.nonmembers, held.members, held.nonmembers)] == [14, 21, 6, 9]
    for part in ("members", "nonmembers"):
        ids = [set(getattr(split, part).ids) for split in (test, held)]
        assert not ids[0] & ids[1] and ids[0] | ids[1] == set(getattr(domain.split, part).ids)
    repeats = dict(zip(domain.split.members.ids, domain.repeats, strict=True))
    assert aside.repeats == tuple(repeats[i] for i in test.members.ids)
    again = lab_domain(default_lab(), DomainConfig(**config, calibration_share=0.3, seed=4))
    other = lab_domain(default_lab(), DomainConfig(**config, calibration_share=0.3, seed=5))
    assert again.key == aside.key and again.split.members.ids == test.members.ids
    assert other.key != aside.key and other.split.members.ids != test.members.ids
    assert len({domain.key, aside.key, aside.calibration().key}) == 3 and domain.calibration() is None
    with pytest.raises(UserError, match="leaves 1 of 20 members for calibration"):
        lab_domain(default_lab(), DomainConfig(**config, calibration_share=0.05))


def test_thresholds_are_frozen_on_the_calibration_part_alone(whole, tuned, tmp_path):
    store = Store(tmp_path / "cache")
    domain = {"name": NAME, "n_members": 10, "n_nonmembers": 40, "calibration_share": 0.5, "seed": 2}
    record = run_audit(settings_for(whole, tuned, domain=domain, audit={"attacks": ["clid"]}), store, CPU).record
    assert record["domain"]["n_calibration"] == [5, 20] and record["domain"]["n_nonmembers"] == 20
    found = record["attacks"]["clid"]
    assert found["calibration"]["fitted_on"] == 1  # the part set aside, not the lab's people

    held = lab_domain(default_lab(), DomainConfig(**domain)).calibration().split
    model = experiment.DiffusionModel.load("lab", CPU)
    columns = attacks.run_components(["clid"], model, attacks.make_query(model, held.all()), AuditConfig())["clid"]
    fitted = Combination.fit([(columns[:5], columns[5:])])
    assert fitted.alpha == found["calibration"]["alpha"]
    ten, _, thousandth = found["frozen"]["before"]
    assert ten["point"]["threshold"] == pytest.approx(threshold_for_fpr(fitted(columns[5:]), 0.1), rel=1e-4)
    members = np.array(found["scores"]["before"]["members"])
    assert ten["point"]["tpr"] == np.mean(members >= ten["point"]["threshold"]) and ten["n_calibration"] == 20
    assert thousandth["point"] is None and "needs at least 1000, has 20" in thousandth["note"]


def test_clid_is_weighed_on_other_people_only(whole, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(lab_domains, "CALIBRATION_HELD_OUT", 4)
    store, clid = Store(tmp_path / "cache"), {"attacks": ["clid"], "settings": {"clid": {"timesteps": [450]}}}
    others = [name for name in default_lab().names("calibration") if name != NAME]
    found = []
    for n in (6, 9):  # other images under test
        domain = {"name": NAME, "n_members": 6, "n_nonmembers": n}
        record = run_audit(settings_for(whole, tuned, domain=domain, audit=clid), store, CPU).record
        found.append(record["attacks"]["clid"])
        assert {f"attack clid before, {name}" for name in others} < set(record["stages"])
        assert f"attack clid before, {NAME}" not in record["stages"]
    assert found[0]["calibration"] == found[1]["calibration"] and found[0]["calibration"]["fitted_on"] == len(others)
    # The score is equation 16 with the frozen weights, before and after.
    combination = Combination.model_validate(found[0]["calibration"])
    model = experiment.DiffusionModel.load("lab", CPU)
    photos = lab_domain(default_lab(), DomainConfig(name=NAME, n_members=6, n_nonmembers=6)).split.all()
    config = AuditConfig.model_validate(clid)
    columns = attacks.run_components(["clid"], model, attacks.make_query(model, photos), config)["clid"]
    np.testing.assert_allclose(found[0]["scores"]["before"]["members"], combination(columns)[:6], rtol=1e-3, atol=1e-3)


def test_pooled_tpr_of_a_table_uses_the_frozen_threshold():
    rng = np.random.default_rng(0)

    def cell(person: int) -> dict:
        scores = {
            when: {"members": (rng.normal(size=30) + shift).tolist(), "nonmembers": rng.normal(size=50).tolist()}
            for when, shift in (("before", 0.5), ("after", 1.0))
        }
        side = {
            "distinct": 0, "nonmembers_scaled": 0.0, "within": {"0.1": [0, 0]}, "flags": [0, 0],
            "cost": {"unet_evaluations": 1, "per_1000": 0.0, "nonmembers_per_1000": 0.0},
        }  # fmt: skip
        return {
            "config": preset("quick", NAME).model_dump(mode="json"), "person": str(person),
            "attacks": {"loss": {"scores": scores, "shake_auc": 0.5}},
            "extraction": {"before": side, "after": side}, "seconds": {"total": 1.0},
            "trained_parameters": 1, "loss_first_last": None, "n_members": 30, "n_nonmembers": 50,
            "control_auc": 0.5, "model": {"key": "model"},
        }  # fmt: skip

    cells, calibration = [cell(i) for i in range(3)], rng.normal(size=400)
    point = tables.summarise(cells, {"loss": calibration})["attacks"]["loss"]["frozen"]["after"][1]
    threshold = threshold_for_fpr(calibration, 0.01)
    members = np.concatenate([c["attacks"]["loss"]["scores"]["after"]["members"] for c in cells])
    assert point["point"]["threshold"] == threshold and point["point"]["tpr"] == np.mean(members >= threshold)
    assert point["point"]["n_domains"] == 3 and point["point"]["tpr_cluster"] is not None
    assert tables.summarise(cells)["attacks"]["loss"]["frozen"] is None
    few = frozen_tpr(calibration[:50], [members], [calibration], 0.01)
    assert few.point is None and "needs at least 100, has 50" in few.note


def test_calibration_people_freeze_a_tables_thresholds(whole, tmp_path, monkeypatch):
    from s2l.pipeline.stages import Stages

    monkeypatch.setattr(lab_domains, "CALIBRATION_HELD_OUT", 3)
    cell = cell_of(whole, "row")
    found = tables.calibration_nonmembers(cell, CPU, Stages(Store(tmp_path / "cache")))
    others = len(default_lab().names("calibration")) - 1
    assert set(found) == {"loss"} and found["loss"].shape == (3 * others,)


# --- the page of attacks -------------------------------------------------------------------------


def test_the_documents_list_every_attack_with_and_without_figures(tmp_path):
    text = docs.attacks(tmp_path)
    for name, attack in attacks.ATTACKS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert attack.formula in line and attack.source in line
        assert f"| {attack.evaluations(attack.settings())} |" in line and line.count("|") == 9
    assert "54 evaluations" in text and "python -m s2l table attacks" in text
    mean = {"mean": 0.61, "low": 0.55, "high": 0.66}
    figures = {
        "before": mean,
        "after": mean,
        "shake_auc": 0.5,
        "difference": {"difference": 0.1, "low": 0, "high": 0.2},
    }
    table = {"rows": {"LoRA": {"attacks": {"pia": figures}}}, "n_people": 8, "role": "calibration", "preset": "demo"}
    write_json(tmp_path / "attacks.json", table | {"command": "python -m s2l table attacks"})
    (line,) = [line for line in docs.attacks(tmp_path).splitlines() if line.startswith("| `pia` |")]
    assert "0.610 [0.550, 0.660]" in line and "+0.100 [+0.000, +0.200]" in line


def test_the_table_of_attacks_has_them_all_on_calibration_people(lab):
    table = tables.get_table("attacks")
    ((_, config),) = tables.configs(table, people=1)
    assert set(config.audit.attacks) == set(attacks.ATTACKS) and table.role == "calibration"


# --- the command -----------------------------------------------------------------------------------

FAST = ["--device", "cpu", "--dtype", "float32", "--preset", "quick", "--n-generations", "3"]


def photos(folder, n: int, seed: int):
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Another checkpoint of the same shape: an auditor's own tuned model."""
    folder = tmp_path_factory.mktemp("own") / "model"
    lab_train.save_checkpoint(build_pipeline(QUICK.size, seed=2), QUICK, folder, {"step": 0})
    (folder / "lab.json").unlink()  # nobody says whom it was trained on
    return folder


def test_the_command_judges_a_whole_checkpoint_on_folders(lab, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(base.PERMISSION, "1")
    inside, outside = photos(tmp_path / "Ann Other", 8, 0), photos(tmp_path / "out", 9, 1)
    words = ["audit", "--model", lab, "--tuned", checkpoint, "--members", inside, "--nonmembers", outside]
    words += ["--attacks", "pia", "--calibration-share", "0.3", *FAST, "--out", tmp_path / "audit"]
    assert cli.main([str(word) for word in words]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert "PIA: AUC" in out and "Comparison: done" in err
    names = {"result.json", "roc.png", "histograms.png", "extractions.png", "report.html"}
    assert {p.name for p in (tmp_path / "audit").iterdir()} == names
    record = json.loads((tmp_path / "audit" / "result.json").read_text())
    assert record["kind"] == "audit" and record["finetune"] is None and record["domain"]["name"] == "Ann Other"
    page = (tmp_path / "audit" / "report.html").read_text()
    assert ": a whole checkpoint" in page and "What was trained" not in page and "frozen" in page
    # The page's command gives the same result, now from the cache.
    assert shlex.split(record["command"])[:4] == ["python", "-m", "s2l", "audit"]
    again = shlex.split(record["command"])[3:-1] + [str(tmp_path / "again"), *FAST[:4]]
    assert cli.main(again) == 0
    assert "computed" not in capsys.readouterr().out
    assert json.loads((tmp_path / "again" / "result.json").read_text())["key"] == record["key"]
    settings = read_config(tmp_path / "audit" / "result.json", AuditRunConfig)  # what --config reads
    assert settings.model_dump(mode="json") == record["config"]


def test_a_folder_says_what_it_could_not_use(tmp_path):
    inside, outside = photos(tmp_path / "in", 4, 0), photos(tmp_path / "out", 4, 1)
    (inside / "broken.png").write_text("no picture")
    Image.new("RGB", (9, 9)).save(inside / "small.png")
    for folder, name in ((inside, "twice.png"), (outside, "overlap.png")):
        (folder / name).write_bytes((inside / "0.png").read_bytes())
    domain = folder_domain(DomainConfig(name="x", members=str(inside), nonmembers=str(outside)), 32)
    assert (len(domain.split.members), len(domain.split.nonmembers)) == (4, 4)
    notes = " ".join(domain.notes)
    for said in (
        "broken.png: unreadable",
        "small.png: 9x9 pixels, too small",
        "the same picture as 0.png",
        "also members",
    ):
        assert said in notes, notes


def test_without_photos_only_the_blind_part_remains(foreign_checkpoint, tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(base.PERMISSION, "1")
    words = [
        "audit",
        "--model",
        foreign_checkpoint,
        "--tuned",
        tuned,
        "--attacks",
        "loss",
        *FAST,
        "--out",
        tmp_path / "audit",
    ]
    assert cli.main([str(word) for word in words]) == 0, capsys.readouterr().err
    assert "cannot be measured" in capsys.readouterr().out
    record = json.loads((tmp_path / "audit" / "result.json").read_text())
    assert record["domain"]["name"] == NAME  # the tuned folder says so
    assert record["attacks"] == {} and record["extraction"] is None and record["blind"]["after"]["score"] is None
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Why there is no ROC curve" in page and "without the photos this cannot be checked" in page
    assert not (tmp_path / "audit" / "roc.png").exists()


def test_bad_input_is_one_sentence(lab, tuned, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(base.PERMISSION, "1")
    (tmp_path / "empty").mkdir()
    cases = [
        ([], "--tuned is missing"),
        (["--tuned", tmp_path / "nowhere"], "there is no file or folder"),
        (["--tuned", tmp_path / "empty"], "--name is missing"),
        (["--tuned", tmp_path / "empty", "--name", NAME], "not a fine-tuned model"),
        (["--tuned", tuned, "--members", tmp_path], "give both folders"),
        (["--tuned", tuned, "--domain", "Mira Solwin"], "Did you mean 'Mira Solwyn'?"),
        (["--tuned", tuned, "--attacks", "secmy"], "Did you mean 'secmi'?"),
        (["--tuned", tuned, "--n-generations", "0"], "--n-generations"),
        (["--tuned", tuned, "--calibration-share", "1"], "--calibration-share"),
        (["--tuned", tuned, "--calibration-share", "0.01"], "at least 2 are needed"),
        (["--tuned", tuned, "--model", checkpoint, "--name", "x"], "from another model"),
        (["--tuned", lab, "--name", NAME], "nothing to compare"),
        (["--config", tmp_path / "nothing.json"], "cannot be read"),
    ]
    for arguments, says in cases:
        code = cli.main([str(word) for word in ["audit", *arguments, *FAST[:4], "--out", tmp_path / "out"]])
        err = capsys.readouterr().err
        assert code == 2 and says in err, (arguments, err)
        assert err.splitlines()[-1].startswith("Error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7, "guidance": 1.0},
        {"attacks": ("loss", "clid"), "calibration-share": 0.25, "n-generations": 20},
        {"members": "my photos", "nonmembers": "other's", "model": "sd", "seed-pool": 900},
    ],
)
def test_the_command_of_an_audit_round_trips(options):
    config = audit_config("demo", NAME, "a folder", options)
    words = shlex.split(reproduce_command(config))
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given.pop("--domain") == NAME and given.pop("--tuned") == "a folder" and given.pop("--preset") == "demo"
    assert given.pop("--out") == "DIR"
    as_text = {
        f"--{name}": ",".join(value) if isinstance(value, tuple) else str(value) for name, value in options.items()
    }
    assert given == as_text
    odd = config.model_copy(update={"extraction": ExtractionConfig(delta=0.2)})
    assert "--config result.json" in reproduce_command(odd)
