"""The whole path on a random-weight lab: it runs, it is cached, it survives a kill -9 in any stage."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from s2l.config import merged, preset
from s2l.errors import UserError
from s2l.model.diffusion import Runtime
from s2l.pipeline.experiment import load_result, run
from s2l.pipeline.plan import plan
from s2l.progress import Cancelled
from s2l.store import Store

NAME = "Mira Solwyn"
CPU = Runtime(device="cpu", dtype="float32", batch_size=4)
SMALL = {
    "sp_set": {"set_size": 2, "sampler": {"num_inference_steps": 2}},
    "finetune": {"max_train_steps": 2, "train_batch_size": 2},
    "audit": {"attacks": ["loss"]},
    "extraction": {"n_generations": 2, "sampler": {"num_inference_steps": 2}},
}


def numbers(record: dict) -> dict:
    """What must be equal between two runs of one configuration."""
    return {part: record[part] for part in ("key", "attacks", "extraction", "domain")}


@pytest.fixture
def config():
    """The quick preset in fewer steps of the sampler and of SecMI: several batches in every stage."""
    return preset(
        "quick", {"name": NAME, "n_members": 8, "n_nonmembers": 8},
        sp_set={"sampler": {"num_inference_steps": 2}},
        finetune={"max_train_steps": 4},
        audit={"settings": {"secmi": {"t": 40}}},
        extraction={"sampler": {"num_inference_steps": 2}},
    )  # fmt: skip


def test_run_gives_everything_a_report_needs(tiny_lab, store, config):
    result = run(config, store, CPU)
    record = result.record
    assert set(record["attacks"]) == {"secmi", "loss"}
    for attack in record["attacks"].values():
        assert 0 <= attack["before"]["auc"] <= 1
        assert attack["difference"]["low"] <= attack["difference"]["difference"] <= attack["difference"]["high"]
    assert record["extraction"]["before"]["n_generations"] == 8
    assert record["finetune"]["trained_parameters"] > 0
    assert len(record["finetune"]["log"]) == config.finetune.max_train_steps
    assert len(result.images("sp_set")) == 8
    assert len(result.images("members")) == 8
    members, nonmembers = result.scores("secmi", "after")
    assert members.shape == (8,) and nonmembers.shape == (8,)
    json.dumps(record, allow_nan=False)
    assert load_result(result.key, store).record["attacks"] == record["attacks"]


def test_second_run_is_entirely_from_the_cache(tiny_lab, store, config):
    first, events = run(config, store, CPU), []
    second = run(config, store, CPU, events.append)
    assert numbers(first.record) == numbers(second.record)
    stages = {k: v for k, v in second.record["stages"].items() if k != "total"}
    assert all(stage["cached"] for stage in stages.values()), stages
    assert all(event.info.get("cached") for event in events)


def test_runs_in_one_process_do_not_influence_each_other(tiny_lab, tmp_path):
    domains = ({"name": name, "n_members": 2, "n_nonmembers": 2} for name in (NAME, "Taro Quillan"))
    config, other = (preset("quick", domain, **SMALL) for domain in domains)
    first = numbers(run(config, Store(tmp_path / "first"), CPU).record)
    run(other, Store(tmp_path / "other"), CPU)
    assert numbers(run(config, Store(tmp_path / "again"), CPU).record) == first


def test_a_new_attack_reuses_the_fine_tuned_weights(tiny_lab, store, config):
    run(config, store, CPU)
    other = config.model_copy(update={"audit": config.audit.model_copy(update={"settings": {"secmi": {"t": 60}}})})
    stages = run(other, store, CPU).record["stages"]
    assert stages["finetune"]["cached"] and stages["sp_set"]["cached"] and stages["attack loss after"]["cached"]
    assert not stages["attack secmi after"]["cached"]


def test_batch_size_changes_no_number(tiny_lab, tmp_path, config):
    one = run(config, Store(tmp_path / "a"), Runtime(device="cpu", dtype="float32", batch_size=3))
    other = run(config, Store(tmp_path / "b"), Runtime(device="cpu", dtype="float32", batch_size=8))
    assert one.key == other.key
    difference = np.abs(one.images("after").images.int() - other.images("after").images.int()).max()
    assert difference <= 2
    for attack in ("secmi", "loss"):
        np.testing.assert_allclose(one.scores(attack, "after")[0], other.scores(attack, "after")[0], rtol=1e-3)


def test_single_flight(tiny_lab, tmp_path):
    """Two visitors with one configuration cost one run of a stage."""
    store, worked = Store(tmp_path / "c"), []

    def work(folder: Path) -> None:
        worked.append(1)
        threading.Event().wait(0.2)
        (folder / "done").write_text("x")

    threads = [threading.Thread(target=store.stage, args=("s", "k", work)) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(worked) == 1
    assert (store.path("s", "k") / "done").exists()


def test_a_failed_stage_leaves_no_result(tmp_path):
    store = Store(tmp_path / "c")
    with pytest.raises(ZeroDivisionError):
        store.stage("s", "k", lambda folder: 1 / 0)
    assert not store.has("s", "k")


def test_cancel_keeps_what_was_finished(tiny_lab, store, config):
    whole = run(config, Store(store.root.parent / "whole"), CPU)

    def stop(event):
        if event.stage == "finetune" and event.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(config, store, CPU, stop)
    resumed = run(config, store, CPU)
    assert resumed.record["stages"]["sp_set"]["cached"]
    assert numbers(resumed.record) == numbers(whole.record)


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"finetune": {"methods": ("lora", "dreambooth"), "num_class_images": 2}, "extraction": {"seed_pool": 10}},
        {"finetune": {"methods": ("dreambooth",), "max_train_steps": 0}},
    ],
)
def test_the_plan_is_what_a_run_goes_through(tiny_lab, store, over):
    config = preset("quick", {"name": NAME, "n_members": 2, "n_nonmembers": 2}, **merged(SMALL, over))
    planned = {stage.id: stage.title for stage in plan(config)}
    stages = run(config, store, CPU).record["stages"]
    assert {name: stages[name]["title"] for name in stages if name in planned} == planned
    assert [name for name in stages if name in planned] == list(planned)
    more = {
        name for name in set(stages) - set(planned) if "original captions" not in name
    }  # known when photos are read
    assert more == {"members", "nonmembers", "result", "total"}


def test_wrong_names_cost_no_computation(tiny_lab, store, config):
    with pytest.raises(UserError, match="Did you mean 'Mira Solwyn'"):
        run(preset("quick", "Mira Solwin"), store, CPU)
    with pytest.raises(UserError, match="unknown attack 'secmy'.*secmi"):
        run(preset("quick", NAME, audit={"attacks": ["secmy"]}), store, CPU)
    with pytest.raises(UserError, match="unknown fine-tuning method 'lorra'.*lora"):
        run(preset("quick", NAME, finetune={"methods": ["lorra"]}), store, CPU)
    assert not (store.root / "stages").exists()


KILLER = """
import json, os, signal, sys
from s2l.config import RunConfig
from s2l.pipeline.experiment import run
from s2l.model.diffusion import Runtime
from s2l.store import Store

config, store = RunConfig.model_validate_json(sys.argv[2]), Store(sys.argv[1])
for stage, step in json.loads(sys.argv[3]):  # forked: to import everything once is what takes the time

    def die(event):
        if event.stage == stage and event.step >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        run(config, store, Runtime(device="cpu", dtype="float32", batch_size=4), die)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -9, f"the run was meant to be killed in {stage}"
"""


def test_kill_minus_nine_and_run_again_gives_the_same_numbers(tiny_lab, tmp_path, config):
    """A run that is killed in one stage after the other, each time by a new process that resumes it."""
    whole, store = run(config, Store(tmp_path / "whole"), CPU), Store(tmp_path / "killed")
    stages = [("sp_set", 4), ("finetune", 3), ("nonmembers", 1), ("attack secmi before", 4), ("generate after", 4)]
    arguments = [str(store.root), config.model_dump_json(), json.dumps(stages)]
    subprocess.run([sys.executable, "-c", KILLER, *arguments], cwd=Path(__file__).parents[1], check=True)
    again = run(config, store, CPU)
    assert again.record["stages"]["attack secmi before"]["cached"] and not again.record["stages"]["result"]["cached"]
    assert numbers(again.record) == numbers(whole.record)
