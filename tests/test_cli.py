"""The command line: the whole path, the stages one by one, bad input, Ctrl-C, the authors' spelling."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from s2l import cli, options
from s2l.cli import base, console, folders
from s2l.cli.run import run as run_command
from s2l.config import (
    AuditConfig,
    AuditRunConfig,
    DomainConfig,
    ExtractionConfig,
    FineTuneConfig,
    RunConfig,
    SamplerConfig,
    Settings,
    SPSetConfig,
    preset,
)
from s2l.data import lab_domain, sp_set
from s2l.errors import UserError
from s2l.finetune import FINETUNERS
from s2l.model import checkpoints
from s2l.model import diffusion as model
from s2l.options import FIELDS, declaration, read_config, reproduce_command, run_config
from s2l.pipeline import experiment, stages
from s2l.pipeline.stages import Stages
from s2l.pretrain import build as lab_train
from s2l.pretrain.recipe import RECIPES
from s2l.progress import Cancelled, Event
from s2l.report.render import FILES
from s2l.store import Store

SHIPPED = Path(__file__).resolve().parents[1] / "s2l" / "assets" / "labs" / "fresh"
NAME = "Mira Solwyn"
RUN = ["run", "--domain", NAME, "--preset", "quick", "--attacks", "loss", "--set-size", "4", "--n-generations", "4"]
RUN += ["--n-nonmembers", "4", "--steps", "4"]
FAST = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture
def call(capsys):
    """Run a command: call("domains") -> (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call):
    """Run a command that must be refused: exit code 2 and one sentence, which is returned."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("Error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return run


def numbers(folder) -> dict:
    """A result without what may differ between two runs of one configuration: times and cache hits."""
    record = json.loads((folder / "result.json").read_text())
    for row in record["finetune"]["log"]:
        del row["images_per_s"]
    return {k: v for k, v in record.items() if k != "stages"}


# --- the whole path ---------------------------------------------------------------------------


def test_run_writes_its_files_and_the_second_run_is_all_cache(tiny_lab, tmp_path, call):
    code, out, err = call(*RUN, *FAST, "--out", tmp_path / "a")
    assert code == 0
    assert {p.name for p in (tmp_path / "a").iterdir()} == set(FILES)
    assert "Loss: AUC" in out and "control: held-out photos" in out and "Fine-tuning" in out
    assert out.startswith("Warning: A quick run")
    for line in ("SP set: 0 of 4", "SP set: done", "Fine-tuning: 4 of 4", "Fine-tuning: done", "Comparison: done"):
        assert line in err  # not a terminal: plain lines
    assert "Loading" not in err and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err)

    code, out, err = call(*RUN, *FAST, "--out", tmp_path / "b")
    assert code == 0
    assert "computed" not in out and err.count("from the cache") == err.count("\n")
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    stages_of_b = json.loads((tmp_path / "b" / "result.json").read_text())["stages"]
    assert all(stage.get("cached", True) for stage in stages_of_b.values())

    # The result says how to repeat it, and can be given back as the settings.
    code, out, err = call("run", "--config", tmp_path / "a" / "result.json", *FAST, "--out", tmp_path / "c")
    assert code == 0 and "computed" not in out
    assert numbers(tmp_path / "a") == numbers(tmp_path / "c")


def test_ctrl_c_loses_nothing(tiny_lab, tmp_path, call, monkeypatch):
    @contextmanager
    def stops_in(stage, step):
        def listen(event):
            if (event.stage, event.step) == (stage, step):
                raise KeyboardInterrupt

        yield listen

    with monkeypatch.context() as patch:
        patch.setattr(console, "progress", lambda: stops_in("finetune", 3))
        code, out, err = call(*RUN, *FAST, "--out", tmp_path / "a")
        assert (code, out, err) == (130, "", "Interrupted. Run the same command again to resume.\n")
    code, out, err = call(*RUN, *FAST, "--out", tmp_path / "a")
    assert code == 0 and "SP set: from the cache" in err and "Fine-tuning: done" in err

    monkeypatch.setenv("S2L_CACHE", str(tmp_path / "another"))
    assert call(*RUN, *FAST, "--out", tmp_path / "unbroken")[0] == 0
    assert numbers(tmp_path / "a") == numbers(tmp_path / "unbroken")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled])
def test_ctrl_c_outside_a_stage(tiny_lab, tmp_path, call, monkeypatch, stop):
    def stopped(*arguments, **named):
        raise stop

    monkeypatch.setattr(experiment, "run", stopped)
    assert call(*RUN, "--out", tmp_path / "a") == (130, "", "Interrupted. Run the same command again to resume.\n")


def test_without_folders_another_model_has_no_roc(foreign_checkpoint, tmp_path, call, monkeypatch):
    monkeypatch.setenv(base.PERMISSION, "1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "roc.png").write_bytes(b"of an earlier run")
    arguments = ["run", "--domain", "somebody", "--preset", "quick", "--model", foreign_checkpoint, *FAST]
    code, out, err = call(*arguments, "--out", tmp_path / "out")
    assert code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"result.json", "extractions.png", "report.html"}
    assert "Responsible use" in err and "cannot be measured" in out
    assert "Why there is no ROC curve" in (tmp_path / "out" / "report.html").read_text()


# --- the stages one by one ---------------------------------------------------------------------


def test_stages_one_by_one_in_the_authors_spelling(tiny_lab, tmp_path, call):
    sp, tuned = tmp_path / "sp", tmp_path / "tuned"
    generate = ["sp_gen", "--prompt", f"a photo of {NAME}", "--set_size", "5", "--out", sp, *FAST]
    code, out, _ = call(*generate)
    assert code == 0 and "5 pictures" in out
    before = {p.name: p.stat().st_mtime_ns for p in sp.glob("*.png")}
    (sp / min(before)).unlink()
    assert call(*generate)[0] == 0  # draws only what is missing
    after = {p.name: p.stat().st_mtime_ns for p in sp.glob("*.png")}
    assert set(before) == set(after)
    assert [name for name in before if before[name] != after[name]] == [min(before)]

    train = ["s2l", "--method=lora", f"--logdir={tuned}", f"--sp_set={sp}", "--steps=4", *FAST]
    code, out, _ = call(*train)
    assert code == 0 and "5 pictures: done" in out
    assert (tuned / "pytorch_lora_weights.safetensors").exists()
    code, out, _ = call(*train)
    assert code == 0 and "already there" in out

    judge = ["attack", "--domain", NAME, "--n-nonmembers", "6", "--tuned", tuned, "--attacks", "loss", *FAST]
    code, out, _ = call(*judge, "--out", tmp_path / "attack.json")
    assert code == 0 and "Loss" in out
    record = json.loads((tmp_path / "attack.json").read_text())
    found = record["attacks"]["loss"]
    assert record["kind"] == "attack" and len(found["scores"]["after"]["nonmembers"]) == 6
    assert found["difference"]["low"] <= found["difference"]["difference"] <= found["difference"]["high"]

    search = ["extract", "--domain", NAME, "--n-nonmembers", "6", "--preset", "quick", *FAST]
    code, out, _ = call(*search, "--tuned", tuned, "-n", "4", "--out", tmp_path / "x")
    assert code == 0 and "control:" in out
    drawn = json.loads((tmp_path / "x" / "extraction.json").read_text())
    assert drawn["extraction"]["n_generations"] == 4 and (tmp_path / "x" / "extractions.png").exists()
    # The same pictures given as a folder give the same count.
    again = ["--generations", tmp_path / "x" / "generations", "--out", tmp_path / "y"]
    assert call(*search, *again)[0] == 0
    assert json.loads((tmp_path / "y" / "extraction.json").read_text())["extraction"] == drawn["extraction"]


def test_attack_and_extract_on_folders_of_photos(tiny_lab, tmp_path, call):
    rng = np.random.default_rng(0)
    for part, n in (("in", 3), ("out", 4)):
        (tmp_path / part).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / part / f"{i}.png")
    shutil.copy(tmp_path / "in" / "0.png", tmp_path / "in" / "copy.png")
    given = ["--members", tmp_path / "in", "--nonmembers", tmp_path / "out"]
    code, out, err = call("attack", *given, "--attacks", "secmi,loss", "--out", tmp_path / "a.json", *FAST)
    assert code == 0 and "SecMI" in out and "the same picture as" in err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["domain"]["n_members"] == 3 and "after" not in found["attacks"]["loss"]

    code, out, _ = call("extract", *given, "--generations", tmp_path / "in", "--out", tmp_path / "x")
    assert code == 0 and "3 of 3 training photos extracted by 3 generations" in out


def test_logdir_of_another_training_is_kept(tiny_lab, tmp_path, call, refused):
    sp = tmp_path / "sp"
    assert call("sp-gen", "--prompt", "a photo", "--set-size", "2", "--out", sp, *FAST)[0] == 0
    train = ["finetune", "--sp-set", sp, "--logdir", tmp_path / "tuned", *FAST]
    assert call(*train, "--steps", "1")[0] == 0
    assert "other settings" in refused(*train, "--steps", "2")
    generate = ["sp-gen", "--prompt", "a photo", "--set-size", "2", "--out", sp, *FAST]
    assert "other settings" in refused(*generate, "--guidance", "7")
    generate[2] = "a face"
    assert "other prompts or seeds" in refused(*generate)


def test_sp_gen_marks_words_the_lab_never_saw(tiny_lab, tmp_path, call):
    code, _, err = call(
        "sp-gen", "--prompt", "a photo of xylophones", "--set-size", "1", "--out", tmp_path / "s", *FAST
    )
    assert code == 0 and "no caption of the lab's training has 'xylophones'" in err


def test_the_stages_give_the_numbers_of_a_run(tiny_lab, tmp_path, call, monkeypatch):
    """Each stage command starts from a preset, so that one by one they are `run`; CLiD is calibrated as there."""
    monkeypatch.setattr(lab_domain, "CALIBRATION_HELD_OUT", 6)
    config = run_config("quick", NAME, {"attacks": ("loss", "clid")})
    whole = experiment.run(config, Store(tmp_path / "of_run"), model.Runtime("cpu", "float32")).record
    quick = ["--preset", "quick", "--domain", NAME, *FAST]
    assert call("sp-gen", *quick, "--out", tmp_path / "sp")[0] == 0
    assert call("finetune", *quick, "--sp-set", tmp_path / "sp", "--logdir", tmp_path / "t")[0] == 0
    judge = [*quick, "--tuned", tmp_path / "t"]
    assert call("attack", *judge, "--attacks", "loss,clid", "--out", tmp_path / "new" / "a.json")[0] == 0
    assert call("extract", *judge, "--out", tmp_path / "x")[0] == 0
    alone, found = (json.loads((tmp_path / path).read_text()) for path in ("new/a.json", "x/extraction.json"))
    assert alone["audit"] == whole["config"]["audit"]
    assert alone["attacks"] == whole["attacks"] and alone["attacks"]["clid"]["calibration"]["fitted_on"] > 0
    assert call("attack", *quick, "--attacks", "clid", "--out", tmp_path / "base.json")[0] == 0
    base = json.loads((tmp_path / "base.json").read_text())["attacks"]["clid"]
    assert base["scores"]["before"] == whole["attacks"]["clid"]["scores"]["before"] and "after" not in base
    assert found["extraction"] == whole["extraction"]["after"]


def test_attack_starts_from_the_preset(tiny_lab, tmp_path, call):
    tiny = ["--domain", NAME, "--n-nonmembers", "2", "--attacks", "secmi", *FAST]
    for preset_name, t in (("quick", 100), ("paper", 140)):
        out = tmp_path / f"{preset_name}.json"
        assert call("attack", "--preset", preset_name, *tiny, "--out", out)[0] == 0
        assert json.loads(out.read_text())["attacks"]["secmi"]["settings"]["t"] == t


# --- lists, help, the lab -----------------------------------------------------------------------


def test_lists_have_one_line_each(tiny_lab, call):
    code, out, _ = call("domains")
    assert code == 0 and len(out.splitlines()) == RECIPES["quick"].n_people
    assert out.startswith(NAME + "  ")
    for command, name in (("methods", "lora"), ("attacks", "secmi")):
        code, out, _ = call(command)
        lines = [line for line in out.splitlines() if line.split()[0] == name]
        assert code == 0 and len(lines) == 1 and len(lines[0].split("  ")) > 1


def test_lab_info(tiny_lab, call):
    code, out, _ = call("lab", "info")
    assert code == 0 and str(tiny_lab) in out and "people" in out


def test_lab_build_hands_its_options_to_the_recipe(tmp_path, call, monkeypatch):
    asked = []
    monkeypatch.setattr(lab_train, "build", lambda *arguments: asked.append(arguments))
    options = ["--recipe", "fresh-buried", "--steps", "7", "--seed", "3", "--keep", "2,5", "--out", tmp_path / "lab"]
    assert call("lab", "build", *options)[0] == 0
    ((out, work, recipe, _, _, keep),) = asked
    assert out == tmp_path / "lab" and work.is_relative_to(tmp_path / "cache") and keep == [2, 5]
    assert (recipe.name, recipe.steps, recipe.seed, recipe.starts_from) == ("fresh-buried", 7, 3, "fresh")
    # No lab takes the place of the one in use by itself.
    for name in ("quick", "fresh"):
        assert call("lab", "build", "--recipe", name)[0] == 0
        assert asked[-1][0].is_relative_to(tmp_path / "cache")


def test_the_search_runs_where_the_model_does(tiny_lab, tmp_path, call, monkeypatch):
    """Not on the CPU, whatever the model is on: for a folder of generations, too."""
    asked: list[torch.device] = []
    plain = folders.extract
    monkeypatch.setattr(folders, "extract", lambda *a, **k: (asked.append(k["device"]), plain(*a, **k))[1])
    options = ["--domain", "Mira Solwyn", "--preset", "quick", "--device", "cpu"]
    assert call("extract", "-n", "2", "--out", tmp_path / "drawn", *options)[0] == 0
    given = tmp_path / "drawn" / "generations"
    assert call("extract", "--generations", given, "--out", tmp_path / "given", *options)[0] == 0
    assert asked == [torch.device("cpu")] * 2


@pytest.mark.parametrize(
    "options, words",
    [
        (["--recipe", "burried"], "unknown recipe 'burried'. Did you mean 'buried'?"),
        (["--out", SHIPPED], "ships with the program"),
        (["--out", SHIPPED / "deeper"], "ships with the program"),
        (["--steps", "0"], "--steps: should be at least 1"),
        (["--keep", "a few"], "--keep: should be numbers of steps"),
        (["--recipe", "twin-dp-8", "--epsilon", "0"], "epsilon: should be a number above 0 (given: 0)"),
        (["--recipe", "twin-dp-8", "--delta", "0.01"], "delta: should be below 1 / 6,640"),
        (["--epsilon", "8"], "'fresh' has none"),
    ],
)
def test_lab_build_refuses_in_one_sentence(options, words, call, monkeypatch):
    monkeypatch.setattr(lab_train, "build", lambda *arguments: pytest.fail("it trained"))
    code, _, err = call("lab", "build", *options)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_lab_recipes_and_info_say_how_a_lab_was_made(call):
    code, out, _ = call("lab", "recipes")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(RECIPES)
    code, out, _ = call("lab", "info", "fresh")
    assert code == 0 and out.count("phase ") == 4 and "95 % private" in out and "75 % private" in out


COMMANDS = ["run", "audit", "sp-gen", "finetune", "s2l", "attack", "extract", "domains", "methods", "attacks", "table"]
COMMANDS += ["cell", "docs", "labs"]


@pytest.mark.parametrize(
    "command", [[c] for c in COMMANDS] + [["lab", c] for c in ("build", "info", "measure", "recipes")]
)
def test_help_has_an_example(command, call):
    code, out, _ = call(*command, "--help")
    assert code == 0 and f"python -m s2l {' '.join(command)}" in out.partition("Examples:")[2]


def test_start_names_every_command():
    script = Path(__file__).resolve().parents[1] / "start.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")}
    commands = {group.name for group in base.app.registered_groups}
    for command in base.app.registered_commands:
        commands.add(command.name or command.callback.__name__.replace("_", "-"))
    assert commands - {"s2l"} == listed - {"python3"}


def test_help_needs_no_torch():
    script = "import sys; from s2l import cli; cli.main(['run', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-m", "s2l", "run", "--out"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


# --- bad input ---------------------------------------------------------------------------------


def with_out(tmp_path, *arguments):
    return [*arguments, "--out", tmp_path / "out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--domain", "Mira Solwin"], ["unknown person", "Did you mean 'Mira Solwyn'?", "Taro Quillan"]),
        (["run", "--domain", NAME, "--method", "lara"], ["fine-tuning method", "Did you mean 'lora'?"]),
        (
            ["run", "--domain", NAME, "--method", "lara+db"],
            ["'lara'", "such as lora+dreambooth", "`python -m s2l methods`"],
        ),
        (["run", "--domain", NAME, "--preset", "dmo"], ["unknown preset", "Did you mean 'demo'?", "quick"]),
        (["run", "--domain", NAME, "--attacks", "secmy"], ["unknown attack", "Did you mean 'secmi'?"]),
        (["run", "--domain", NAME, "--attacks", ","], ["--attacks"]),
        (["run", "--domain", NAME, "--set-size", "0"], ["--set-size", "greater than or equal to 1"]),
        (["run", "--domain", NAME, "--set-size", "-3"], ["--set-size"]),
        (["run", "--domain", NAME, "--set-size", "many"], ["--set-size", "valid integer"]),
        (["run", "--domain", NAME, "--learning-rate", "nan"], ["--learning-rate"]),
        (["run", "--domain", NAME, "--seed", "-1"], ["--seed"]),
        (["run", "--domain", NAME, "--prompt", "x" * 10_000], ["--prompt", "10,000 characters"]),
        (["run", "--domain", ""], ["--domain", "empty"]),
        (["run", "--domain", NAME, "--members", "somewhere"], ["--members and --nonmembers"]),
        (["run", "--domain", NAME, "--model", "nowhere"], ["not a folder"]),
        (["run", "--domain", NAME, "--device", "tpu"], ["unknown device"]),
        (["run", "--domain", NAME, "--device", "cuda:99"], ["--device"]),
        (["run", "--domain", NAME, "--dtype", "float8"], ["unknown dtype", "float16"]),
        (["run", "--domain", NAME, "--batch-size", "0"], ["--batch-size"]),
        (["run", "--domain", NAME, "--nonsense", "1"], ["--nonsense"]),
        (["run", "--config", "nowhere.json"], ["--config", "cannot be read"]),
        (["run", "--config", "nowhere.json", "--steps", "3"], ["leave out --steps"]),
        (["run"], ["--domain is missing"]),
        (["sp-gen", "--prompt", ""], ["--prompt", "empty"]),
        (["sp-gen", "--prompt", "x" * 10_000], ["--prompt", "10,000 characters"]),
        (["sp-gen", "--prompt", "a photo of {name}"], ["--domain"]),
        (["sp-gen"], ["--prompt"]),
        (["sp-gen", "--prompt", "a photo", "--set-size", "0"], ["--set-size"]),
        (["attack"], ["no photos are given"]),
        (["attack", "--domain", NAME, "--attacks", "secmy"], ["Did you mean 'secmi'?"]),
        (["attack", "--members", "nowhere", "--nonmembers", "nowhere"], ["not a folder of images"]),
        (["extract", "--domain", NAME, "-n", "0"], ["--n-generations", "greater than or equal to 1"]),
        (["extract", "--domain", NAME, "--generations", "nowhere"], ["nowhere is not a folder"]),
        (["attack", "--domain", NAME, "--n-nonmembers", "0"], ["--n-nonmembers", "greater than or equal to 1"]),
        (["attack", "--domain", NAME, "--preset", "dmo"], ["unknown preset"]),
        (["attack", "--domain", NAME, "--seed", "-1"], ["--seed"]),
        (["lab", "build", "--private-share", "2"], ["--private-share"]),
        (["audit", "--tuned", "nowhere"], ["no file or folder nowhere"]),
        (["extract", "--domain", NAME, "--delta", "nan"], ["--delta: should be a finite number"]),
    ],
)
def test_bad_input_is_one_sentence(tiny_lab, tmp_path, refused, arguments, says):
    sentence = refused(*with_out(tmp_path, *arguments))
    for text in says:
        assert text in sentence
    assert not (tmp_path / "cache" / "stages").exists()  # nothing was computed
    assert not (tmp_path / "out").exists()


def test_an_error_names_the_option_whatever_its_words(tmp_path, refused):
    assert options.in_options(UserError("no: never", "sp_set.prompts.0.template")) == "--prompt: no: never"
    assert options.in_options(UserError("sp_set.set_size: no")) == "sp_set.set_size: no"  # words are not parsed
    path = tmp_path / "settings.json"
    path.write_text(preset("quick", NAME).model_dump_json().replace('"set_size":8', '"set_size":0'))
    sentence = refused(*with_out(tmp_path, "run", "--config", path))
    assert f"--config: {path}: sp_set.set_size: should be" in sentence and "--set-size" not in sentence


@pytest.mark.parametrize("arguments", [["nonsense"], ["runn"], ["--nonsense"], ["run"], ["lab", "nonsense"]])
def test_wrong_commands_are_one_sentence(refused, arguments):
    refused(*arguments)


def test_a_folder_that_is_no_checkpoint(tmp_path, refused, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv(base.PERMISSION, "1")
    broken = tmp_path / "broken"
    broken.mkdir()
    arguments = with_out(tmp_path, "run", "--domain", NAME, "--preset", "quick", "--model", broken)
    assert "model_index.json" in refused(*arguments)
    (broken / "model_index.json").write_text("not JSON")
    assert "model_index.json cannot be read as JSON" in refused(*arguments)
    (broken / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "FluxPipeline" in refused(*arguments)


def test_no_lab_says_how_to_make_one(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("S2L_LAB", str(tmp_path / "nothing"))
    assert "lab build" in refused("domains")
    assert "lab build" in refused(*with_out(tmp_path, "sp-gen", "--prompt", "a photo"))


def test_a_set_that_the_disk_cannot_hold(tiny_lab, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(sp_set.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    monkeypatch.setattr(sp_set, "prompt_of", lambda *arguments: pytest.fail("prompts were drawn first"))
    sentence = refused(*with_out(tmp_path, "sp-gen", "--prompt", "a photo", "--set-size", "1000"), *FAST)
    assert "GB" in sentence and "set size" in sentence
    assert "GB" in refused(*with_out(tmp_path, *RUN, "--set-size", "1000"), *FAST)
    assert not (tmp_path / "out").exists()


def test_an_out_folder_that_is_a_file(tiny_lab, tmp_path, refused):
    (tmp_path / "out").write_text("mine")
    assert "cannot be used as a folder" in refused(*with_out(tmp_path, *RUN))
    assert (tmp_path / "out").read_text() == "mine"


def test_full_disk_and_full_gpu_are_one_sentence(tiny_lab, tmp_path, refused, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        pass

    for error, says in (
        (OSError(28, "No space left on device"), "No space left"),
        (OutOfMemoryError(), "--batch-size"),
    ):

        def fail(*arguments, error=error, **named):
            raise error

        monkeypatch.setattr(experiment, "run", fail)
        assert says in refused(*with_out(tmp_path, *RUN))


def test_a_programming_error_is_not_hidden(tiny_lab, tmp_path, call, monkeypatch):
    def fail(*arguments, **named):
        raise ValueError("a bug")

    monkeypatch.setattr(experiment, "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        call(*with_out(tmp_path, *RUN))


def test_other_models_need_permission(foreign_checkpoint, tmp_path, call, monkeypatch):
    monkeypatch.delenv(base.PERMISSION, raising=False)
    loaded = []
    monkeypatch.setattr(model.DiffusionModel, "load", lambda *arguments: loaded.append(arguments))
    arguments = ["sp-gen", "--prompt", "a photo", "--model", foreign_checkpoint, *FAST]
    code, _, err = call(*with_out(tmp_path, *arguments))
    assert code == 2 and not loaded
    assert "Responsible use" in err and "--i-have-permission" in err


def test_unknown_table(tiny_lab, tmp_path, refused):
    assert "Did you mean 'first'?" in refused("table", "frist", "--results", tmp_path / "results")
    for people in (0, -1, 100):
        sentence = refused("table", "first", "--people", people, "--results", tmp_path / "results")
        assert f"--people: {people} is not between 1 and " in sentence
    assert not (tmp_path / "results").exists()


def test_what_is_no_cell_is_refused(tmp_path, refused):
    (tmp_path / "list.json").write_text("[]")
    for path in (tmp_path / "none.json", tmp_path / "list.json"):
        assert "is not a cell of a table" in refused("cell", path)


def test_docs_says_what_changed(call, monkeypatch):
    monkeypatch.setattr("s2l.tables.docs.update", lambda: ["README.md"])
    assert call("docs") == (0, "changed: README.md\n", "")


def test_not_a_finetuned_model(tiny_lab, tmp_path, refused):
    arguments = ["attack", "--domain", NAME, "--tuned", tmp_path / "nothing", "--attacks", "loss", *FAST]
    assert "not a fine-tuned model" in refused(*with_out(tmp_path, *arguments))


def test_finetune_without_an_sp_set(tiny_lab, tmp_path, refused):
    assert "sp-gen" in refused("s2l", "--method=lora", f"--logdir={tmp_path / 'logs'}")
    assert not (tmp_path / "logs").exists()


def test_a_forgotten_name_does_not_claim_the_folder(tiny_lab, tmp_path, call, refused):
    assert call("sp-gen", "--domain", NAME, "--set-size", "2", "--out", tmp_path / "sp", *FAST)[0] == 0
    train = ["finetune", "--method", "textual_inversion", "--sp-set", tmp_path / "sp", "--logdir", tmp_path / "t"]
    train += ["--steps", "1", *FAST]
    assert "none is given: give the name that the captions have (--domain)" in refused(*train)
    assert not (tmp_path / "t").exists()
    assert call(*train, "--domain", NAME)[0] == 0


def test_extract_refuses_wrong_photos_before_it_draws(tiny_lab, tmp_path, refused):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    search = ["extract", "--domain", NAME, "--generations", tmp_path / "broken"]
    assert "a.png: unreadable" in refused(*with_out(tmp_path, *search))
    wrong = ["--members", tmp_path / "nowhere", "--nonmembers", tmp_path / "nowhere"]
    assert "not a folder" in refused(*with_out(tmp_path, "extract", "--preset", "quick", *wrong, *FAST))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metadata", ["", "no JSON\n", '{"text": "a"}\n', '{"file_name": "a.png", "text": "a"}\n'])
def test_finetune_on_a_folder_that_is_no_sp_set(tiny_lab, tmp_path, refused, metadata):
    (tmp_path / "sp").mkdir()
    (tmp_path / "sp" / "metadata.jsonl").write_text(metadata)
    (tmp_path / "sp" / "a.png").write_text("no picture")
    assert str(tmp_path / "sp") in refused("finetune", "--sp-set", tmp_path / "sp", "--logdir", tmp_path / "t", *FAST)


def test_finetune_on_pictures_of_another_size(tiny_model, tiny_lab, tmp_path, refused):
    (tmp_path / "sp").mkdir()
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / "sp" / "a.png")
    (tmp_path / "sp" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a photo", "seed": 0}\n')
    sentence = refused("finetune", "--sp-set", tmp_path / "sp", "--logdir", tmp_path / "t", *FAST)
    assert "48 x 48" in sentence and str(tiny_model.resolution) in sentence


def test_finetune_on_photos_of_ones_own(tiny_model, tiny_lab, tmp_path, call, refused):
    """The out-of-domain control from a folder: any size, captions from the option, a broken file reported."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (80, 96, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{i}.png")
    (photos / "broken.png").write_text("no picture")
    command = ["finetune", "--sp-set", photos, "--logdir", tmp_path / "t", "--steps", 2, *FAST]
    assert "--caption" in refused(*command)
    code, out, err = call(*command, "--caption", "a photo of a person")
    assert code == 0 and "on 3 pictures: done" in out and "broken.png" in err
    assert "already there" in call(*command, "--caption", "a photo of a person")[1]
    (photos / "broken.png").unlink()
    assert "other settings" in refused(*command, "--caption", "a portrait")
    assert "--sp-set" in refused("finetune", "--caption", "a photo", "--logdir", tmp_path / "u", *FAST)


# --- the command that repeats a run --------------------------------------------------------------

OPTIONS = [
    {},
    {"seed": 7},
    {"rank": 16, "learning-rate": 3e-5, "steps": 12, "train-batch-size": 2},
    {"prompt": "a photo of {name} smiling", "set-size": 3},
    {"guidance": 1.0, "n-generations": 20, "n-nonmembers": 50},
    {"attacks": ("loss",), "method": ("lora",)},
    {"members": "my photos", "nonmembers": "other's", "model": "sd"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["quick", "demo", "paper"])
def test_reproduce_command_round_trip(options, name, monkeypatch, tmp_path):
    config = run_config(name, NAME, options)
    words = shlex.split(reproduce_command(config, out=str(tmp_path / "out")))
    assert words[:4] == ["python", "-m", "s2l", "run"] and "--config" not in words
    ran = []

    def record(settings, **named):
        ran.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "check_name", lambda name, *rest: name)
    monkeypatch.setattr(checkpoints, "check_name", lambda name: None)
    monkeypatch.setenv(base.PERMISSION, "1")
    monkeypatch.setattr(experiment, "run", record)
    assert cli.main(words[3:]) == 130
    assert ran == [config]


def settings_classes() -> list[type[Settings]]:
    """Of the sections of a run and of all methods."""
    sections = (DomainConfig, SPSetConfig, SamplerConfig, FineTuneConfig, AuditConfig, ExtractionConfig)
    return [*sections, *(method.settings for method in FINETUNERS.values())]


def test_every_setting_declares_its_name_and_help():
    for kind in (RunConfig, AuditRunConfig, *settings_classes()):
        for name, field in kind.model_fields.items():
            section = isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
            assert section or name == "settings" or (field.title and field.description), f"{kind.__name__}.{name}"


def test_an_option_has_the_type_and_the_help_of_its_field():
    hints = {name.replace("_", "-"): hint for name, hint in get_type_hints(run_command, include_extras=True).items()}
    same = [name for name in FIELDS if name in hints and name != "seed"]  # one --seed moves every seed
    assert {"steps", "rank", "set-size", "attacks", "seed-pool"} <= set(same)
    for name in same:
        field, (kind, option) = declaration(FIELDS[name][0]), get_args(hints[name])
        assert option.help == field.description, name
        if {int, float} & {field.annotation, *get_args(field.annotation)}:
            assert kind == field.annotation | None, name
        else:  # text, which the command reads
            assert not {int, float} & {kind, *get_args(kind)}, name


def test_reproduce_command_of_what_no_option_says(tmp_path):
    config = preset("demo", NAME, sp_set={"suffix": "sharp"})
    assert "--config result.json" in reproduce_command(config)
    assert reproduce_command(config, dtype="mixed").endswith("--dtype mixed --out DIR")
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"schema_version": 1, "config": config.model_dump(mode="json")}))
    assert read_config(path) == config
    path.write_text(config.model_dump_json())
    assert read_config(path) == config


@pytest.mark.parametrize("command, other", [("run", "audit"), ("audit", "run")])
def test_the_result_of_the_other_command_is_named(command, other, tmp_path, refused):
    (tmp_path / "result.json").write_text(json.dumps({"kind": other, "config": {}}))
    sentence = refused(*with_out(tmp_path, command, "--config", tmp_path / "result.json"))
    assert f"the result of `{other}`: give it to `python -m s2l {other}`" in sentence


def test_seeds_of_two_runs_never_overlap():
    first, second = (run_config("demo", NAME, {"seed": s, "set-size": 100_000}) for s in (0, 1))
    assert first == preset("demo", NAME, sp_set={"set_size": 100_000})
    assert first.extraction.seed + first.extraction.n_generations <= second.sp_set.seed


def test_progress_lines_and_bars(capsys, monkeypatch, tmp_path):
    made, listener = [], Stages(Store(tmp_path), lambda event: made.append(event))

    def work(*steps):
        return lambda folder: [listener.progress(Event("any name", *step)) for step in steps]

    listener(stages.SP_SET, "k", work((1, 2, {"images_per_s": 3.0}), (2, 2)))
    listener(stages.SP_SET, "k", work())
    for when in ("before", "after"):
        listener(stages.scores("loss", "Loss", when), when, work((1, 1)))
    events = [*made, Event("a table", 1, 5)]  # not of a run: its name is its title
    with console.progress() as listen:
        for event in events:
            listen(event)
    lines = re.sub(r"[\d.]+ s\n", "S\n", capsys.readouterr().err).splitlines()
    assert lines == [
        "SP set: 1 of 2 3.0 images/s", "SP set: 2 of 2", "SP set: done, S", "SP set: from the cache",
        "Loss attack before: 1 of 1", "Loss attack before: done, S",
        "Loss attack after: 1 of 1", "Loss attack after: done, S", "a table: 1 of 5",
    ]  # fmt: skip
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.progress() as listen:
        for event in events:
            listen(event)
    err = capsys.readouterr().err
    assert "Loss attack before" in err and "Loss attack after" in err and "from the cache" in err


@pytest.mark.parametrize(
    "seconds, told", [(0.001, [0, 1000]), (0.1, [*range(0, 1001, 100)]), (20, [*range(0, 1001, 2)])]
)
def test_a_long_stage_tells_every_tenth_or_half_minute(seconds, told, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress() as listen:
        for step in range(1001):
            listen(Event("finetune", step, 1000, title="Fine-tuning"))
            clock[0] += seconds
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"Fine-tuning: {step:,} of 1,000" for step in told]


def test_each_process_of_accelerate_has_its_gpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(model.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(model.torch.cuda, "device_count", lambda: 2)

    def device(name):
        return str(model.Runtime(device=name).torch_device())

    assert [device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    for rank, own in (("0", "cuda:0"), ("1", "cuda:1"), ("3", "cuda:1"), ("-1", "cuda")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert [device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [own, own, "cuda:0", "cpu"]
    monkeypatch.setattr(model.torch.cuda, "is_available", lambda: False)
    assert device("auto") == "cpu"


def test_scores_of_an_attack_are_cached(tiny_model, tiny_lab, store):
    from s2l.config import AuditConfig, DomainConfig

    domain = folders.load_domain(DomainConfig(name=NAME, n_members=4, n_nonmembers=4), "lab", tiny_model.resolution)
    seen = []
    config = AuditConfig(attacks=("loss",))
    first = folders.attack_record(tiny_model, None, domain, config, store)
    second = folders.attack_record(tiny_model, None, domain, config, store, lambda e: seen.append(e.info))
    assert first == second and [info["cached"] for info in seen] == [True]
