"""The job store and its worker: progress, cancel, kill, resume, one run a configuration, isolation."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2l import environment
from s2l import jobs as jobs_package
from s2l.config import PRESETS, RunConfig, preset
from s2l.environment import Program
from s2l.errors import UserError
from s2l.jobs import Jobs, QueueFull, cached_result, run_key, schema, start, worker
from s2l.jobs.housekeeping import sweep
from s2l.jobs.limits import Limits
from s2l.jobs.store import CANCELLED, RESTARTED
from s2l.pipeline import stages
from s2l.pipeline.plan import plan
from s2l.progress import Event
from s2l.store import Store
from s2l.ui import live as page_live
from s2l.worlds.people import LAB_NAMES

MIRA, TARO = LAB_NAMES[:2]
ENDLESS = 500_000  # training steps


def quick(name: str = MIRA, **finetune) -> RunConfig:
    return preset("quick", name, finetune=finetune)


def wait(condition, seconds: float = 40.0, every: float = 0.05):
    """What `condition()` returns, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError("waited in vain")


@pytest.fixture
def jobs(store, tiny_lab) -> Jobs:
    return Jobs(store)


# --- the store alone -------------------------------------------------------------------------------


def test_one_configuration_is_one_run(jobs):
    ours, theirs, other = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(), "b"), jobs.enqueue(quick(TARO), "a")
    assert ours.run == theirs.run != other.run and ours.id != theirs.id
    assert jobs.enqueue(quick(), "a").id == ours.id  # asking twice is asking once
    assert jobs.queue_length() == 2
    assert (ours.ahead, jobs.job(other.id).ahead) == (0, 1)
    assert jobs.take("w")[0] == ours.run
    assert jobs.job(theirs.id).state == "running" and jobs.job(other.id).ahead == 1


def test_a_run_that_starts_while_it_is_looked_at_is_no_error(jobs, monkeypatch):
    job = jobs.enqueue(quick(), "a")
    monkeypatch.setattr(Jobs, "_order", lambda self, db: [])  # read after the worker took it
    assert jobs.job(job.id).ahead == 0


def test_a_run_stops_when_nobody_wants_it_any_more(jobs):
    ours, theirs = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(), "b")
    key, _ = jobs.take("w")
    jobs.cancel(ours.id, "a")
    assert jobs.job(ours.id).state == "cancelled" and jobs.job(theirs.id).state == "running"
    assert not jobs.must_stop(key, "w")
    jobs.cancel(theirs.id, "b")
    assert jobs.must_stop(key, "w") and jobs.job(theirs.id).stopping
    assert jobs.resume(theirs.id, "b").state == "running" and not jobs.must_stop(key, "w")  # just in time
    jobs.cancel(theirs.id, "b")
    jobs.finish(key, "w", "cancelled", CANCELLED)
    assert jobs.job(theirs.id).state == "cancelled"
    assert jobs.resume(theirs.id, "b").state == "queued"


def test_a_resume_that_crosses_the_cancel_is_queued_again(jobs):
    job = jobs.enqueue(quick(), "a")
    key, _ = jobs.take("w")
    jobs.cancel(job.id, "a")
    assert jobs.must_stop(key, "w")  # the worker has seen it ...
    jobs.resume(job.id, "a")
    jobs.finish(key, "w", "cancelled", CANCELLED)  # ... and stops, too late
    assert jobs.job(job.id).state == "queued"


def test_a_queued_job_is_cancelled_at_once(jobs):
    job = jobs.enqueue(quick(), "a")
    jobs.cancel(job.id, "a")
    assert jobs.job(job.id).state == "cancelled" and jobs.take("w") is None


def test_the_queue_is_bounded(jobs, monkeypatch):
    monkeypatch.setenv("S2L_MAX_QUEUE", "2")
    first = [jobs.enqueue(quick(seed=i), "a") for i in range(2)]
    with pytest.raises(QueueFull, match="2 runs are waiting"):
        jobs.enqueue(quick(seed=2), "a")
    assert jobs.enqueue(quick(seed=1), "b").run == first[1].run  # joining one that waits costs nothing


def test_a_visitor_cannot_fill_the_queue_alone(jobs, monkeypatch):
    monkeypatch.setenv("S2L_MAX_QUEUE_PER_VISITOR", "2")
    first, _ = (jobs.enqueue(quick(seed=i), "a") for i in range(2))
    with pytest.raises(QueueFull, match="2 of your runs"):
        jobs.enqueue(quick(seed=2), "a")
    assert jobs.enqueue(quick(seed=2), "b").ahead == 1  # a turn each: behind one run of "a", not behind two
    jobs.cancel(first.id, "a")
    assert jobs.enqueue(quick(seed=3), "a").active


def test_the_queue_takes_turns(jobs):
    """Five runs of one visitor delay another's single run by one, and the position says so."""
    eager = [jobs.enqueue(quick(seed=i), "eager") for i in range(4)]
    jobs.take("w")
    shy = jobs.enqueue(quick(TARO), "shy")
    shared = jobs.enqueue(quick(seed=3), "late")  # joins the last of the four: as soon as "late" has a turn
    assert [jobs.job(j.id).ahead for j in (shy, shared, eager[1])] == [1, 2, 3] or [
        jobs.job(j.id).ahead for j in (shared, shy, eager[1])
    ] == [1, 2, 3]
    assert jobs.job(shy.id).waiting == 4
    taken = []
    for _ in range(4):
        jobs.finish(taken[-1] if taken else eager[0].run, "w", "done", result="x")
        taken.append(jobs.take("w")[0])
    assert set(taken[:2]) == {shy.run, shared.run} and taken[2:] == [eager[1].run, eager[2].run]


@pytest.mark.parametrize("text", ["many", "0", "-1", "nan"])
def test_a_senseless_limit_is_one_sentence(monkeypatch, text):
    monkeypatch.setenv("S2L_MAX_QUEUE", text)
    with pytest.raises(UserError, match="S2L_MAX_QUEUE should be a number from 1 to 10000"):
        Limits.read()


def test_what_expires(jobs, monkeypatch):
    old = time.time() - 3600 * 200
    uploads, public = jobs.store.root / "uploads", jobs.store.root / "public" / "results"
    for folder in (uploads / "old", uploads / "used", uploads / "new", public / "old", public / "new"):
        (folder / "members").mkdir(parents=True)
    config = quick()
    domain = config.domain.model_copy(update={"members": str(uploads / "used" / "members"), "nonmembers": "n"})
    waiting = jobs.enqueue(config.model_copy(update={"domain": domain}), "a")
    ended = jobs.enqueue(quick(TARO), "a")
    jobs.cancel(ended.id, "a")
    with sqlite3.connect(jobs.file) as db:
        db.execute("UPDATE jobs SET created_at = ?", (old,))
    for folder in (uploads / "old", uploads / "used", public / "old"):
        os.utime(folder, (old, old))
    big = jobs.store.path("generations", "old")
    big.mkdir(parents=True)
    (big / "file").write_bytes(bytes(60_000_000))
    monkeypatch.setenv("S2L_CACHE_MAX_GB", "0.05")
    assert sweep(jobs) == 4
    assert {p.name for p in uploads.iterdir()} == {"used", "new"} and {p.name for p in public.iterdir()} == {"new"}
    assert jobs.job(ended.id) is None and jobs.job(waiting.id).state == "queued" and not big.exists()
    assert sweep(jobs) == 0


@pytest.mark.brings(
    "Visitors", "More photos than `S2L_UPLOAD_MAX_GB`, or photos that no run uses", "the oldest are deleted"
)
def test_uploads_have_an_age_and_a_size(jobs, monkeypatch):
    monkeypatch.setenv("S2L_UPLOAD_MAX_GB", "0.01")
    root, hour = jobs.store.root, 3600
    incoming, kept = root / "public" / "visitors", root / "uploads"
    ages = {
        incoming / "expired": 30,
        kept / "used": 20,
        kept / "a": 3,
        incoming / "b": 2,
        kept / "c": 1,
        incoming / "d": 0,
    }
    for folder, hours in ages.items():
        (folder / "members").mkdir(parents=True)
        (folder / "members" / "0000.png").write_bytes(bytes(4_000_000))
        os.utime(folder, (time.time() - hours * hour,) * 2)
    domain = quick().domain.model_copy(update={"members": str(kept / "used" / "members"), "nonmembers": "n"})
    jobs.enqueue(quick().model_copy(update={"domain": domain}), "a")
    assert sweep(jobs) == 3  # what has expired, and the oldest two of the four that are too large together
    assert {p.name for place in (incoming, kept) for p in place.iterdir()} == {"used", "c", "d"}
    assert sweep(jobs) == 0


def test_visitors_see_their_own_jobs_only(jobs):
    ours, theirs = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(TARO), "b")
    assert [j.id for j in jobs.jobs_of("a")] == [ours.id]
    assert len(ours.id) >= 20 and jobs.job("1") is None and jobs.job("' OR 1=1 --") is None
    with pytest.raises(UserError, match="somebody else"):
        jobs.cancel(theirs.id, "a")
    with pytest.raises(UserError, match="somebody else"):
        jobs.resume(theirs.id, "a")
    assert jobs.job(theirs.id).state == "queued"


def test_a_restart_marks_what_ran_as_interrupted(jobs):
    ran, waits = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(TARO), "a")
    jobs.take("dead")
    assert jobs.abandon(RESTARTED) == 1
    assert (jobs.job(ran.id).state, jobs.job(ran.id).message) == ("interrupted", RESTARTED)
    assert jobs.job(waits.id).state == "queued"
    # A worker that was thought dead cannot write any more.
    jobs.finish(ran.run, "dead", "done", result="x")
    assert jobs.job(ran.id).state == "interrupted" and jobs.must_stop(ran.run, "dead")


def test_settings_of_another_version_are_passed_over(jobs):
    job = jobs.enqueue(quick(), "a")
    with sqlite3.connect(jobs.file) as db:
        db.execute('UPDATE runs SET config = \'{"of": "old"}\'')
    assert jobs.job(job.id) is None and jobs.jobs_of("a") == [] and jobs.take("w") is None
    assert jobs.queue_length() == 0


def test_the_key_of_a_run_has_the_model_in_it(jobs, tiny_lab, tmp_path, monkeypatch):
    import shutil

    key = run_key(quick())
    other = shutil.copytree(tiny_lab, tmp_path / "other")
    assert run_key(quick().model_copy(update={"model": str(other)})) != key
    path = next(other.rglob("unet/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    monkeypatch.setenv("S2L_LAB", str(other))
    assert run_key(quick()) != key


def test_the_plan_covers_the_stages_in_order():
    for name in PRESETS:
        work = plan(preset(name, MIRA))
        assert list(work)[:2] == [stages.SP_SET, stages.FINETUNE] and list(work)[-1] == stages.COMPARE
        assert all(units >= 0 for units in work.values())


def event(stage, step, total, **info) -> Event:
    """An event as the runner of the stages passes it on."""
    return Event(stage.id, step, total, info, stage.title, stage.unit)


def test_live_state(jobs):
    job = jobs.enqueue(quick(), "a")
    key, config = jobs.take("w")
    live = jobs_package.Live(jobs, key, "w", config)
    folder = jobs.store.root / "stages" / "sp_set" / "k.partial"
    live(event(stages.SP_SET, 4, 8, images_per_s=2.0, folder=str(folder)))
    state = jobs.job(job.id).live
    assert state["stages"][0] == ["sp_set", "running", "SP set"] and (state["step"], state["total"]) == (4, 8)
    assert state["pictures"] == "stages/sp_set/k.partial" and 0 < state["done"] < 0.5
    live(event(stages.SP_SET, 1, 1, cached=False, folder=str(folder)))
    for step in range(1, 1001):
        live(event(stages.FINETUNE, step, 1000, loss=1 / step, images_per_s=9.0))
    live(event(stages.FINETUNE, 1, 1, cached=False, folder="x"))
    before, after = (stages.scores("secmi", "SecMI", when) for when in ("before", "after"))
    live(event(before, 12, 24))
    state = jobs.job(job.id).live
    assert live.status[before.id] == "running"
    assert len(state["loss"]) <= 401 and state["loss"][0][0] == 1 and state["loss"][-1][0] > 990
    live(event(before, 1, 1, cached=True, folder="x"))
    live(event(after, 12, 24))
    assert live.status[after.id] == "running" and live.status[before.id] == "cached"
    jobs.cancel(job.id, "a")
    time.sleep(0.25)
    with pytest.raises(jobs_package.live.Cancelled):
        live(event(after, 13, 24))


@pytest.mark.parametrize("running", [False, True])
def test_the_page_shows_a_run_whose_first_stages_were_cached(jobs, running):
    """Nothing has worked yet: there are no pictures to count, and the page says what is known."""
    job = jobs.enqueue(quick(), "a")
    key, config = jobs.take("w")
    live = jobs_package.Live(jobs, key, "w", config)
    live(event(stages.SP_SET, 1, 1, cached=True, folder="x"))
    if running:
        live(event(stages.FINETUNE, 2, 6))
        live.write()  # not every step is written
    shown = page_live.status_html(jobs.job(job.id))
    assert "SP set (from the cache)" in shown and "SecMI attack before" in shown
    assert ("Fine-tuning: 2 of 6 steps" in shown) == running


def test_the_page_shows_a_live_state_of_an_older_version(jobs):
    job = jobs.enqueue(quick(), "a")
    jobs.take("w")
    old = {"stages": [["sp_set", "cached"], ["attack secmi before", "running"]], "done": 0.2, "stage": "attack secmi"}
    jobs.write_live(run_key(quick()), "w", old | {"step": 3, "total": 24, "pictures": "p", "pictures_of": "sp_set"})
    shown = page_live.status_html(jobs.job(job.id))
    assert "sp_set (from the cache)" in shown and "attack secmi: 3 of 24" in shown
    assert page_live.pictures_html(jobs.job(job.id), jobs.store) == ""


def test_a_cached_training_brings_its_curve_and_samples(jobs):
    folder = jobs.store.root / "stages" / "finetune" / "k"
    (folder / "samples").mkdir(parents=True)
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 1001)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("000000_0.png", "000000_1.png", "001000_0.png"):
        (folder / "samples" / name).touch()
    job = jobs.enqueue(quick(), "a")
    key, config = jobs.take("w")
    live = jobs_package.Live(jobs, key, "w", config)
    live(event(stages.FINETUNE, 1, 1, cached=True, folder=str(folder)))
    state = jobs.job(job.id).live
    assert 300 < len(state["loss"]) <= 400 and state["loss"][0] == [1, 1.0]
    assert state["samples"] == [
        [0, ["samples/000000_0.png", "samples/000000_1.png"]], [1000, ["samples/001000_0.png"]],
    ]  # fmt: skip
    assert state["samples_in"] == "stages/finetune/k"


# --- with a worker, in this process ------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError("try a lower rate"), RuntimeError("first line\nsecond line")])
def test_failures_are_told_in_one_sentence(jobs, monkeypatch, error):
    def broken(*_):
        raise error

    job = jobs.enqueue(quick(), "a")
    monkeypatch.setattr("s2l.pipeline.experiment.run", broken)
    worker.execute(jobs, *jobs.take("w"), "w")
    failed, log = jobs.job(job.id), jobs.folder / f"{job.run}.log"
    assert failed.state == "failed"
    if isinstance(error, UserError):
        assert failed.message == "try a lower rate" and not log.exists()
    else:
        assert "RuntimeError: first line (" in failed.message
        assert "second line" not in failed.message and "second line" in log.read_text()


# --- with a worker process ---------------------------------------------------------------------------


def test_the_life_of_runs(jobs, monkeypatch):
    """One worker process: a run to its end, an endless one cancelled, one killed and resumed, one stopped by force."""
    supervisor = start(jobs)
    try:
        first, second = jobs.enqueue(quick(), "a"), jobs.enqueue(quick(), "b")
        done = wait(lambda: (j := jobs.job(first.id)).state != "queued" and not j.active and j, 180)
        assert (done.state, done.message) == ("done", "")
        assert done.result and jobs.job(second.id).result == done.result
        assert {state for _, state, _ in done.live["stages"]} == {"done"} and done.live["done"] == 1
        assert [step for step, _ in done.live["loss"]] == list(range(1, 7)) and len(done.live["log"]) == 9
        # The cache answers whoever asks later, also one that has no record of the run.
        assert cached_result(quick(), jobs.store) == done.result
        with sqlite3.connect(jobs.file) as db:
            db.execute("DELETE FROM jobs")
            db.execute("DELETE FROM runs")
        kept = jobs.enqueue(quick(), "c")
        assert kept.state == "done" and {state for _, state, _ in kept.live["stages"]} == {"cached"}
        # ... with the loss curve and the samples of the training, as if it had been watched.
        assert [step for step, _ in kept.live["loss"]] == list(range(1, 7))
        assert kept.live["samples"] == done.live["samples"] and len(kept.live["samples"]) > 1
        assert all((jobs.store.root / kept.live["samples_in"] / name).is_file() for name in kept.live["samples"][0][1])

        # Cancel obeys within two seconds.
        long = jobs.enqueue(quick(max_train_steps=ENDLESS), "a")
        wait(lambda: jobs.job(long.id).live.get("loss"))
        asked = time.monotonic()
        jobs.cancel(long.id, "a")
        wait(lambda: jobs.job(long.id).state == "cancelled")
        assert time.monotonic() - asked < 2

        # Resume continues from the step after the last one.
        stopped_at = jobs.job(long.id).live["step"]
        assert jobs.resume(long.id, "a").id == long.id
        loss = wait(lambda: jobs.job(long.id).live.get("loss"))
        assert loss[0][0] == stopped_at + 1

        # Killed: the job says so, a new worker comes, and Resume starts from the checkpoint.
        os.kill(supervisor.process.pid, signal.SIGKILL)
        killed = wait(lambda: (j := jobs.job(long.id)).state == "interrupted" and j)
        assert "SIGKILL" in killed.message and "Resume" in killed.message
        monkeypatch.setattr("s2l.jobs.store.FORCE_AFTER", 0.5)
        jobs.resume(long.id, "a")
        assert wait(lambda: jobs.job(long.id).live.get("loss"), 60)[0][0] == loss[0][0]

        # A worker that does not obey is killed.
        stuck = supervisor.process
        os.kill(stuck.pid, signal.SIGSTOP)
        jobs.cancel(long.id, "a")
        assert jobs.job(long.id).stopping
        wait(lambda: jobs.job(long.id).state == "cancelled")
        assert stuck.poll() is not None
    finally:
        supervisor.stop()
    assert supervisor.process is None or supervisor.process.poll() is not None


def test_the_worker_dies_with_its_parent(store, tiny_lab):
    process = subprocess.Popen([sys.executable, "-m", "s2l.jobs", str(store.root), "w"], stdin=subprocess.PIPE)
    jobs = Jobs(store)
    job = jobs.enqueue(quick(max_train_steps=ENDLESS), "a")
    wait(lambda: jobs.job(job.id).state == "running", 60)
    process.stdin.close()  # what the system does when the parent is killed
    assert process.wait(timeout=10) == 0


def test_two_apps_on_one_cache_share_a_worker(store, tiny_lab, monkeypatch):
    started = []
    monkeypatch.setattr(jobs_package.Supervisor, "_start", lambda self: started.append(self))
    first = start(Jobs(store))
    wait(lambda: started)
    second = start(Jobs(Store(store.root)))
    time.sleep(0.6)
    assert set(started) == {first}
    first.stop()
    wait(lambda: second in started)
    second.stop()


# The tables as every program before steps were counted made them.
OLD_SCHEMA = """
CREATE TABLE runs (
  key TEXT PRIMARY KEY, config TEXT NOT NULL, state TEXT NOT NULL, queued_at REAL, started_at REAL,
  finished_at REAL, cancel_at REAL, worker TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '', live TEXT NOT NULL DEFAULT '{}');
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, visitor TEXT NOT NULL, run TEXT NOT NULL REFERENCES runs(key), created_at REAL NOT NULL,
  cancelled INTEGER NOT NULL DEFAULT 0, UNIQUE (visitor, run));
CREATE INDEX jobs_of_run ON jobs (run);
"""


def old_database(store: Store) -> None:
    """A database of the version before, with a run that waits, one that works and one that is done."""
    (store.root / "jobs").mkdir(parents=True)
    with sqlite3.connect(store.root / "jobs" / "jobs.sqlite3") as db:
        db.executescript(OLD_SCHEMA)
        config = json.loads(quick().model_dump_json())
        # Settings of every method stood beside the shared ones.
        config["finetune"] = {"methods": ["lora"], "max_train_steps": 6, "rank": 4, "num_vectors": 12}
        config["finetune"] |= {"identifier": "sks", "noise_sigma": 8e-4}
        for i, state in enumerate(("queued", "running", "done")):
            result = "r" if state == "done" else ""
            db.execute(
                "INSERT INTO runs (key, config, state, queued_at, worker, result) VALUES (?, ?, ?, ?, ?, ?)",
                (f"key {state}", json.dumps(config), state, i, "w" if state == "running" else "", result),
            )
            db.execute("INSERT INTO jobs VALUES (?, 'a', ?, ?, 0)", (f"id {state}", f"key {state}", i))


def test_a_database_of_the_version_before_loses_nothing(tmp_path):
    store = Store(tmp_path)
    old_database(store)
    for _ in range(2):  # opened twice: the second time there is nothing to do
        jobs = Jobs(store)
        assert [job.state for job in jobs.jobs_of("a")] == ["done", "running", "queued"]
    assert jobs.job("id done").result == "r" and jobs.job("id queued").config.finetune.max_train_steps == 6
    assert jobs.take("w2")[0] == "key queued"
    with sqlite3.connect(jobs.file) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(schema.STEPS)


def test_steps_are_taken_once_and_all_or_none(tmp_path):
    with sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None) as db:
        schema.migrate(db)
        more = (*schema.STEPS, ("ALTER TABLE runs ADD COLUMN device TEXT NOT NULL DEFAULT 'cpu'",))
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(db, (*more, ("CREATE TABLE more (x)", "no statement")))
        assert "device" not in {row[1] for row in db.execute("PRAGMA table_info (runs)")}
        schema.migrate(db, more)
        schema.migrate(db, more)
        assert "device" in {row[1] for row in db.execute("PRAGMA table_info (runs)")}
        with pytest.raises(UserError, match="newer version of the program"):
            schema.migrate(db)


def test_variables_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("S2L_CACHE", "")
    assert Program.read().cache == Path("cache")
    monkeypatch.setenv("S2L_CACHE", str(tmp_path))
    assert Program.read().cache == tmp_path
    for text, given in (("1", True), ("yes", False), ("true", False), ("", False)):  # a typing error opens nothing
        monkeypatch.setenv("S2L_ACCEPT_RESPONSIBLE_USE", text)
        assert Program.read().accept_responsible_use is given


def test_every_variable_is_declared_once_and_no_other_is_read():
    declared = [name for name, _, _ in environment.table()]
    assert len(declared) == len(set(declared))
    package = Path(environment.__file__).parent
    named = {name for path in package.rglob("*.py") for name in re.findall(r"\bS2L_[A-Z_]+\b", path.read_text())}
    assert named <= set(declared), named - set(declared)
    direct = [p.name for p in package.rglob("*.py") if re.search(r"environ(\.get\(|\[)\W*S2L_", p.read_text())]
    assert not direct
