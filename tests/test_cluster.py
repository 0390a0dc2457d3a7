"""Tables, warm and labs on a cluster: the same cells as one after the other, also when a worker dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2l import cli
from s2l.config import preset
from s2l.errors import UserError
from s2l.store import Store, read_json
from s2l.tables import cluster
from s2l.tables.cluster import Cluster, pack, parse, unpack
from s2l.tables.grid import Missing, by_turns

installed = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not installed, reason="Ray is not installed")


@pytest.fixture
def some_ray(monkeypatch):
    """A module that can be imported as Ray, and does nothing."""
    if not installed:
        monkeypatch.setitem(sys.modules, "ray", object())


@pytest.mark.brings("Clusters", "`--cluster` without Ray installed", "a sentence that says what to install")
def test_ray_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["table", "first", "--cluster", "ray"]) == 2
    error = capsys.readouterr().err
    assert "pip install ray" in error and len(error.strip().splitlines()) == 1


@pytest.mark.brings("Clusters", "`--cluster` with something else than Ray, or no address", "refused: what is allowed")
@pytest.mark.parametrize("text", ["slurm", "ray:", "ray:somewhere", "ray:host:port", "ray://host:1", "ray:host:0", ""])
def test_what_an_address_looks_like(text, some_ray, capsys):
    assert cli.main(["table", "first", "--cluster", text]) == 2
    assert "ray:HOST:PORT" in capsys.readouterr().err


def test_cores(some_ray, capsys):
    assert cli.main(["table", "first", "--cluster", "ray", "--cores", "0"]) == 2
    assert cli.main(["table", "first", "--cores", "2"]) == 2
    assert "--cores goes with --cluster" in capsys.readouterr().err
    assert parse("ray:10.0.0.1:6379", 2) == Cluster("10.0.0.1:6379", 2)


@pytest.mark.brings("Clusters", "A Ray address that does not answer", "a sentence within seconds, exit code 2")
def test_an_address_that_does_not_answer(some_ray, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert cli.main(["warm", "--people", "1", "--cluster", f"ray:127.0.0.1:{port}"]) == 2
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.brings(
    "Clusters", "Two commands with `--cluster` on one cache", "the second is refused, the first goes on"
)
def test_two_drivers_on_one_cache(some_ray, capsys):
    other = (
        "import sys; from s2l.store import Store; from s2l.tables.cluster import _only_driver\n"
        "with _only_driver(Store()): print('has it', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "has it\n"
    assert cli.main(["table", "first", "--cluster", "ray"]) == 2
    assert "another command with --cluster uses the cache" in capsys.readouterr().err
    first.communicate("")
    with cluster._only_driver(Store()) as mark:
        assert (Store().root / cluster.FOLDER / mark).exists()
    assert not (Store().root / cluster.FOLDER / mark).exists()


@pytest.mark.brings("Clusters", "No GPU in the cluster, or more cores a task than a machine has", "refused")
def test_what_a_task_gets():
    def resources(device: str, cores: int | None, *nodes: dict) -> dict:
        return cluster._resources(Cluster("auto", cores), device, [{"Resources": node} for node in nodes])

    head, box = {"CPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}
    assert resources("auto", None, head) == {"num_cpus": 1, "num_gpus": 0}
    assert resources("auto", None, head, box) == {"num_cpus": 8, "num_gpus": 1}
    assert resources("cpu", 4, head, box) == {"num_cpus": 4, "num_gpus": 0}
    for device, cores, nodes, why in [
        ("cuda", None, (head,), "no machine of the cluster has a GPU"),
        ("cuda:1", None, (box,), "each task gets a GPU of its own"),
        ("cpu", 65, (head, box), "the largest offers 64"),
    ]:
        with pytest.raises(UserError, match=why):
            resources(device, cores, *nodes)


@pytest.mark.brings("Clusters", "Seeds of labs that are no numbers, or a cluster for one lab", "refused")
@pytest.mark.parametrize("words", [["--seeds", "1,x"], ["--seeds", "1,2", "--seed", "3"], ["--cluster", "ray"]])
def test_seeds_of_labs(words, capsys):
    assert cli.main(["lab", "build", *words]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_neighbours_share_no_stage():
    people, rows = ("Mira Solwyn", "Oona Brask", "Taro Quillan"), "ab"
    work = [Missing("run", row, preset("quick", name), "", Path()) for name in people for row in rows]
    order = [(new.row, new.config.domain.name) for new in by_turns(work)]
    assert order == [(row, name) for row in rows for name in people]


def test_a_folder_travels_whole(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.bin").write_bytes(b"\0\1")
    files = pack(tmp_path / "a")
    unpack(files, tmp_path / "new" / "place")
    assert pack(tmp_path / "new" / "place") == files == {"b/c.bin": b"\0\1"}
    unpack({"b/c.bin": b"other"}, tmp_path / "new" / "place")
    assert pack(tmp_path / "new" / "place") == files, "a folder that is there stays"


# --- with Ray -----------------------------------------------------------------------------------------------------

# A table of two rows and two people on the lab of the tests, as a script: the command starts Ray, which starts workers.
TABLE = """
import sys
from s2l import cli
from s2l.tables import declared, grid
from s2l.tables.declared import Row, Table

small = {"sp_set": {"set_size": 4}, "finetune": {"max_train_steps": 40}, "audit": {"attacks": ("loss",)},
         "extraction": {"n_generations": 4}}
rows = (Row("a", small), Row("b", small | {"finetune": {"max_train_steps": 60}}))
declared.TABLES["small"] = Table("Small", rows, role="calibration", people=2, preset="quick")
sys.exit(cli.main(["table", "small", "--device", "cpu", "--dtype", "float32", *sys.argv[1:]]))
"""


def without_times(path: Path) -> dict:
    """A result file without what differs between two machines or two runs: times."""
    return {name: value for name, value in read_json(path).items() if name not in ("seconds", "finetune_seconds")}


def summary_without_times(path: Path) -> str:
    record = read_json(path)
    for row in record["rows"].values():
        del row["seconds"], row["finetune_seconds"]
    return json.dumps(record)


def workers(cache: Path) -> list[int]:
    """Processes that do a task of the cluster that was started with this cache."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                title, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue
            if title.startswith((b"ray::a, ", b"ray::b, ")) and str(cache).encode() in environment:
                found.append(int(folder.name))
    return found


def kill_one_in_mid_training(process: subprocess.Popen, cache: Path) -> int:
    """kill -9 of one worker while a fine-tuning is unfinished; its process id."""
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if list(cache.glob("stages/finetune/*.partial")) and (busy := workers(cache)):
            os.kill(busy[0], signal.SIGKILL)
            return busy[0]
        time.sleep(0.02)
    raise AssertionError(f"no worker was seen in mid-training: {process.communicate()}")


@needs_ray
@pytest.mark.slow
@pytest.mark.brings("Clusters", "A worker that dies in the middle of a cell", "another one goes on; equal cells")
def test_a_table_with_a_killed_worker_equals_the_serial_one(tiny_checkpoint, tmp_path):
    script = tmp_path / "table.py"
    script.write_text(TABLE)
    environment = os.environ | {"S2L_LAB": str(tiny_checkpoint), "OMP_NUM_THREADS": "1"}

    def start(name: str, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(script), "--results", str(tmp_path / name), *words], text=True,
            env=environment | {"S2L_CACHE": str(tmp_path / f"cache-{name}")}, stderr=subprocess.PIPE,
        )  # fmt: skip

    many = start("many", "--cluster", "ray")
    kill_one_in_mid_training(many, tmp_path / "cache-many")
    said = many.communicate()[1]
    assert many.returncode == 0, said
    assert "its worker died; it continues on another" in said and "Fine-tuning" in said
    one = start("one")
    assert one.communicate() and one.returncode == 0
    cells = {name: sorted((tmp_path / name).glob("*/*/*.json")) for name in ("one", "many")}
    assert len(cells["one"]) == len(cells["many"]) == 4
    for a, b in zip(cells["one"], cells["many"], strict=True):
        assert a.relative_to(tmp_path / "one") == b.relative_to(tmp_path / "many")
        assert without_times(a) == without_times(b)
    one_summary, many_summary = (summary_without_times(tmp_path / name / "small.json") for name in ("one", "many"))
    assert one_summary == many_summary, "every byte but the times"
