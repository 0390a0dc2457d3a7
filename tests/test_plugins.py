"""What installed packages bring by entry points: the examples of CONTRIBUTING.md, and what happens to broken ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from s2l.errors import UserError
from s2l.plugins import Catalogue

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def install(folder: Path, entries: dict[str, dict[str, str]], name: str = "example") -> None:
    """A distribution without an installer: the metadata that an installed wheel leaves in a folder of the path."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in some.items()) for group, some in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def in_a_new_process(folder: Path, *words: str, lab: Path | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} | ({"S2L_LAB": str(lab)} if lab else {})
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )


ONE_BY_ONE = """
import contextlib, io, json, sys
from s2l.cli import main

done = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        done.append(main(arguments))
    done[-1] = [done[-1], out.getvalue(), err.getvalue()]
print(json.dumps(done))
"""


def commands_in_a_new_process(folder: Path, *commands: list[str]) -> list[subprocess.CompletedProcess]:
    """Several commands in one process: to import torch is what takes the time."""
    process = in_a_new_process(folder, "-c", ONE_BY_ONE, json.dumps(commands))
    assert process.returncode == 0, process.stderr
    outcomes = zip(commands, json.loads(process.stdout), strict=True)
    return [subprocess.CompletedProcess(command, *outcome) for command, outcome in outcomes]


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The example packages of the guide, word for word, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    section = GUIDE[GUIDE.index("## An attack or a fine-tuner in a package of your own") :]
    (entries,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        (folder / code.partition("\n")[0].removeprefix("# ")).write_text(code)
    install(folder, tomllib.loads(entries)["project"]["entry-points"])
    (folder / "broken.py").write_text("import no_such_library\n")
    install(folder, {"s2l.attacks": {"torn": "broken"}, "s2l.finetuners": {"rent": "broken:METHOD"}}, "sad")
    return folder


def test_the_lists_show_what_packages_bring_and_name_what_is_broken(guide):
    attacks, methods = commands_in_a_new_process(guide, ["attacks"], ["methods"])
    assert attacks.returncode == methods.returncode == 0, attacks.stderr + methods.stderr
    assert re.search(r"^length +Length +1 UNet evaluations +An example$", attacks.stdout, re.MULTILINE)
    assert re.search(r"^keys_values +Keys and values +how every cross", methods.stdout, re.MULTILINE)
    assert re.search(r"^dreambooth\+keys_values +DreamBooth", methods.stdout, re.MULTILINE)
    missing = "cannot be used: ModuleNotFoundError: No module named 'no_such_library'"
    assert attacks.stderr.strip() == f"Note: the attack 'torn' of the package sad {missing}"
    assert methods.stderr.strip() == f"Note: the fine-tuning method 'rent' of the package sad {missing}"


WORK = """
import sys
from pathlib import Path
import torch
from s2l import attacks, finetune
from s2l.config import AuditConfig, FineTuneConfig
from s2l.data.domain import ImageSet
from s2l.model.diffusion import DiffusionModel, Runtime

model = DiffusionModel.load("lab", Runtime("cpu", "float32"))
pixels = torch.randint(0, 256, (3, 3, model.resolution, model.resolution), dtype=torch.uint8)
images = ImageSet(pixels, ("a photo of Mira Solwyn",) * 3, tuple("abc"))
query = attacks.make_query(model, images)
scores = attacks.run_suite(("loss", "length"), model, query, AuditConfig(settings={"length": {"t": 10}}))
assert list(scores) == ["loss", "length"] and scores["length"].shape == (3,) and (scores["length"] < 0).all()
config = FineTuneConfig(methods=finetune.parse("keys_values"), max_train_steps=2, train_batch_size=2)
record = finetune.finetune(model, images, config, Path("tuned"), "Mira Solwyn")
tuned = finetune.load_finetuned(model, Path("tuned"))
changed = [n for n, p in tuned.unet.named_parameters() if not torch.equal(p, model.unet.get_parameter(n))]
name = changed[0]
start, end = (m.unet.get_parameter(name) for m in (model, tuned))
opposite = finetune.load_finetuned(model, Path("tuned"), -1.0).unet.get_parameter(name)
torch.testing.assert_close(opposite - start, start - end)
assert changed and all("attn2.to_" in name for name in changed) and record["learning_rates"] == {"keys_values": 1e-4}
print("both ran")
"""


def test_the_examples_of_the_guide_run(guide, tiny_checkpoint):
    done = in_a_new_process(guide, "-c", WORK, lab=tiny_checkpoint)
    assert done.stdout.strip() == "both ran", done.stderr


def test_asking_for_a_broken_one_is_one_sentence(guide):
    words = ["run", "--domain", "Mira Solwyn", "--out", "out"]
    for done in commands_in_a_new_process(guide, [*words, "--attacks", "torn"], [*words, "--method", "rent"]):
        assert done.returncode == 2 and "of the package sad cannot be used: ModuleNotFoundError" in done.stderr
        assert "Traceback" not in done.stderr


# --- the catalogue itself ------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    name: str


@pytest.fixture
def things(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    catalogue = Catalogue("thing", f"s2l.things.{tmp_path.name}", Thing)
    catalogue.add(Thing("own"))
    return catalogue


def bring(folder: Path, catalogue: Catalogue, module: str, code: str, **entries: str) -> None:
    (folder / f"{module}.py").write_text(f"from tests.test_plugins import Thing\n{code}\n")
    install(folder, {catalogue.group: entries}, module)


def test_nothing_is_imported_for_a_name_of_the_programs_own(things, tmp_path):
    bring(tmp_path, things, "loud", "raise SystemError('imported')", loud="loud:X")
    assert things["own"] == things.known("own") == Thing("own") and things.own == ("own",)
    assert "loud" not in sys.modules and not things._plugins_loaded
    assert list(things) == ["own"] and "SystemError: imported" in things.problems["loud"]


@pytest.mark.parametrize(
    "code, entry, reason",
    [
        ("X = Thing('other')", "odd:X", "it brings no thing of that name"),
        ("X = 3", "odd:X", "it brings no thing of that name"),
        ("X = Thing('own')", "odd:X", "the thing 'own' is registered twice"),
        ("", "odd:missing", "AttributeError"),
        ("raise ValueError('first line\\nsecond')", "odd", "ValueError: first line"),
    ],
)
def test_a_broken_one_changes_nothing_and_says_why(things, tmp_path, monkeypatch, code, entry, reason):
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    bring(tmp_path, things, "odd", code, odd=entry)
    bring(tmp_path, things, "even", "X = Thing('even')", even="even:X")
    monkeypatch.delitem(sys.modules, "even", raising=False)
    assert dict(things) == {"own": Thing("own"), "even": Thing("even")} and things.own == ("own",)
    with pytest.raises(UserError, match="the thing 'odd' of the package odd cannot be used") as error:
        things.known("odd")
    assert reason in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="Did you mean 'even'"):
        things.known("evne")
