"""Runs that ship with the program: found by their settings, shown at once, replaced by live ones."""

from __future__ import annotations

import pytest
from torch.nn.functional import avg_pool2d

from s2l.config import RunConfig, checked, preset
from s2l.errors import UserError
from s2l.finetune import parse
from s2l.jobs import Jobs, cached_result
from s2l.model.diffusion import Runtime
from s2l.pipeline import identity
from s2l.pipeline.experiment import run
from s2l.report import shipped
from s2l.store import Store
from s2l.ui import live, runs
from s2l.ui.backend import Backend
from s2l.ui.tabs import running
from s2l.worlds.people import LAB_NAMES

MIRA, TARO = LAB_NAMES[:2]
CPU = Runtime(device="cpu", dtype="float32")


def quick(name: str = MIRA, method: str = "lora") -> RunConfig:
    return preset("quick", name, finetune={"methods": parse(method)})


@pytest.fixture(scope="module")
def made(tiny_checkpoint, tmp_path_factory):
    """Two runs of one person as they ship, and the originals."""
    patch = pytest.MonkeyPatch()
    patch.setenv("S2L_LAB", str(tiny_checkpoint))
    store, matrix = Store(tmp_path_factory.mktemp("made")), tmp_path_factory.mktemp("matrix")
    results = [run(quick(method=m), store, CPU) for m in ("lora", "end_to_end")]
    shipped.export(results, matrix, "mira")
    patch.undo()
    return matrix, results


@pytest.fixture
def matrix(made, tiny_lab, monkeypatch):
    monkeypatch.setattr(shipped, "MATRIX", made[0])
    return made[0]


def test_a_choice_is_answered_at_once_by_the_run_that_ships(matrix, made, store):
    jobs = Jobs(store)
    job = jobs.enqueue(quick(method="end_to_end"), "a")
    assert job.state == "done" and job.live["shipped"] and "ships with the program" in live.status_html(job)
    samples = running.show_job(store, job, "a")[3]
    assert samples.count("<img") == 2 * runs.SEEDS and "seed 1, before the shake" in samples
    shown, original = Backend(jobs).result_of(job.id), made[1][1]
    assert shown.record == original.record and shown.copy != original.copy
    for name in shipped.EXACT:
        assert (shown.images(name).images == original.images(name).images).all()
    for name in ("sp_set", "before", "after"):
        ours, theirs = shown.images(name), original.images(name)
        assert ours.captions == theirs.captions
        # Random weights draw noise, of which WebP keeps the coarse part. Levels of 255.
        difference = avg_pool2d(ours.images.float() - theirs.images.float(), 8)
        assert difference.abs().mean() < 4
    assert [step for step, _ in job.live["loss"]] == [row["step"] for row in original.training["log"]]
    for other in (quick(TARO), quick(method="hypernetwork"), preset("quick", MIRA, finetune={"seed": 1})):
        assert jobs.enqueue(other, "a").state == "queued"  # nothing else is answered with it


def test_a_live_run_replaces_the_shipped_one_and_takes_it_from_nobody(matrix, made, store):
    jobs = Jobs(store)
    ours, theirs = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(), "b")
    again = jobs.repeat(ours.id, "a")
    assert again.state == "queued" and again.id != ours.id and jobs.job(theirs.id).state == "done"
    with pytest.raises(UserError, match="somebody else"):
        jobs.repeat(ours.id, "b")
    assert cached_result(quick(), store) == ""  # compressed pictures are nobody's cached stage
    finished = run(quick(), store, CPU)
    replaced = jobs.enqueue(quick(), "c")
    assert replaced.result == finished.key and "shipped" not in replaced.live


def test_a_file_that_is_cut_is_a_sentence(matrix, store, tmp_path, monkeypatch):
    for path in matrix.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 3000 if path.suffix == ".zip" else None])
    monkeypatch.setattr(shipped, "MATRIX", tmp_path)
    with pytest.raises(UserError, match=r"mira\.zip cannot be read"):
        shipped.load(shipped.entries()[0], store)


def test_what_ships_fits_this_version_of_the_program(store):
    """The index says what the files hold, and the default settings of the page find them."""
    people: dict[str, set[str]] = {}
    for entry in shipped.entries():
        people.setdefault(entry["person"], set()).add("+".join(entry["methods"]))
    alone = {"lora", "end_to_end", "dreambooth", "textual_inversion", "hypernetwork"}
    assert len(people) >= 8 and all(methods == alone for methods in people.values())
    assert {e["role"] for e in shipped.entries()} == {"calibration", "reporting"}
    total = 0
    for file in {e["file"] for e in shipped.entries()}:
        size = (shipped.MATRIX / file).stat().st_size
        assert size < 10_000_000
        total += size
    assert total < 25_000_000
    for entry in shipped.entries():
        config = preset(entry["preset"], entry["person"], finetune={"methods": tuple(entry["methods"])})
        assert (entry["run"], entry["sp_set"]) == keys_of(config)
    last = shipped.load(shipped.entries()[-1], store)
    assert checked(RunConfig, last.record["config"]).domain.name == shipped.entries()[-1]["person"]


def keys_of(config: RunConfig) -> tuple[str, str]:
    from s2l.jobs.store import model_key

    weights = model_key(config.model, "float32")
    return identity.run(config, weights), identity.sp_set(weights, config.domain.name, config.sp_set)
