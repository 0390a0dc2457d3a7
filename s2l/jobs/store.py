"""The job store: which visitor asked for which run, and its progress. SQLite in WAL mode."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from s2l.config import HUB, RunConfig, checked
from s2l.errors import UserError
from s2l.jobs.limits import Limits, check_texts
from s2l.jobs.schema import migrate
from s2l.keys import key_of
from s2l.labs import find_lab
from s2l.pipeline import identity
from s2l.report import shipped
from s2l.store import Store, read_json

# torch is imported where keys are made, not here: the page must not wait for it.

ACTIVE = ("queued", "running")
RESUMABLE = ("failed", "cancelled", "interrupted")
FORCE_AFTER = 10.0  # seconds that a cancelled run may continue before its worker is killed

CANCELLED = "Stopped. All finished work is kept; Resume continues from there."
RESTARTED = "The server was restarted during this run. All finished work is kept; Resume continues from there."


class QueueFull(UserError):
    """Too many runs are waiting."""


@dataclass(frozen=True)
class Job:
    """What a visitor may know about a job.

    state     queued, running, done, failed, cancelled or interrupted
    stopping  the job was cancelled, but the worker has not stopped yet
    ahead     runs before this one, the running one included; 0 unless queued
    waiting   runs in the queue, this one included; 0 unless queued
    result    the key of the finished result, or ""
    live      what the worker last wrote, see `Live`
    """

    id: str
    visitor: str
    run: str
    config: RunConfig
    state: str
    message: str
    result: str
    live: dict
    created_at: float
    started_at: float | None
    finished_at: float | None
    ahead: int
    waiting: int
    stopping: bool

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


def model_key(model: str, dtype: str = "auto") -> str:
    """The key that `DiffusionModel.load` gives a checkpoint in a precision, without loading it. Raises UserError.

    A hub checkpoint that is not downloaded yet is identified by its name: the worker downloads it, not a click.
    """
    from s2l.model.checkpoints import check_name, locate
    from s2l.model.diffusion import Runtime
    from s2l.model.diffusion import model_key as key_of_checkpoint

    check_name(model)
    try:
        checkpoint = locate(model, download=False)
    except UserError:
        if not model.startswith(HUB) and (Path(model).exists() or find_lab(model) is not None):
            raise
        return key_of("not here yet", model)
    return key_of_checkpoint(checkpoint, Runtime(dtype=dtype))


def run_key(config: RunConfig) -> str:
    """The key of one configuration on one model with this version of the code."""
    return identity.run(config, model_key(config.model))


@lru_cache(maxsize=4096)
def _result_facts(path: Path) -> tuple[str, str]:
    """(key of the run, key of the SP set) of a result file. Results never change once they are written."""
    record = read_json(path)
    run = identity.run(checked(RunConfig, record["config"]), record["model"]["key"])
    return run, record["stages"]["sp_set"]["key"]


def cached_result(config: RunConfig, store: Store) -> str:
    """The key of a finished result with exactly these settings, no matter who computed it, or ""."""
    weights = model_key(config.model)
    wanted = identity.run(config, weights), identity.sp_set(weights, config.domain.name, config.sp_set)
    for path in sorted(store.path("result", "x").parent.glob("*/result.json")):
        with suppress(OSError, ValueError, KeyError):
            if _result_facts(path) == wanted:
                return path.parent.name
    return ""


def shipped_result(config: RunConfig) -> str:
    """The name, for `Job.result`, of the run with these settings that ships with the program, or "".

    Shipped runs were made in float32. They answer on every machine, whatever it would compute in itself.
    """
    if not any(e["person"] == config.domain.name for e in shipped.entries()):
        return ""
    weights = model_key(config.model, "float32")
    run = identity.run(config, weights)
    found = shipped.find(run, identity.sp_set(weights, config.domain.name, config.sp_set))
    return f"{shipped.PREFIX}{run}" if found else ""


class Jobs:
    """The job store of one cache. Cheap to make; safe to use from threads and processes."""

    def __init__(self, store: Store | None = None):
        self.store = store or Store()
        self.folder = self.store.root / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "jobs.sqlite3"
        with self.reading() as db:
            db.execute("PRAGMA journal_mode=WAL")
            migrate(db)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to the job database."""
        db = sqlite3.connect(self.file, timeout=20, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that holds the store's one writing lock; what is done in one `with` is one transaction."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    # --- what the app calls ---

    def enqueue(self, config: RunConfig, visitor: str, here: bool = False) -> Job:
        """A job for this configuration: done at once if the result is cached or ships with us, else in the queue.

        `here` asks for a run on this machine even if one ships with the program.

        Raises UserError for an unusable model and for texts that visitors may not send to it (`check_texts`), QueueFull
        when too many runs wait.
        """
        check_texts(config)
        from s2l.jobs.live import of_cached

        key, cached, now = run_key(config), cached_result(config, self.store), time.time()
        if not cached and not here and (ships := shipped_result(config)):
            key = cached = ships  # a row of its own: who looks at the shipped run keeps it while somebody runs it live
        with self.writing() as db:
            run = db.execute("SELECT * FROM runs WHERE key = ?", (key,)).fetchone()
            if cached and (run is None or run["state"] != "running"):
                has_live = run is not None and run["state"] == "done" and run["live"] != "{}"
                live = run["live"] if has_live else json.dumps(of_cached(config, cached, self.store))
                db.execute(
                    "INSERT INTO runs (key, config, state, queued_at, finished_at, result, live)"
                    " VALUES (?, ?, 'done', ?, ?, ?, ?) ON CONFLICT (key)"
                    " DO UPDATE SET state = 'done', message = '', result = excluded.result, live = excluded.live",
                    (key, config.model_dump_json(), now, now, cached, live),
                )
            elif run is None or run["state"] not in ACTIVE:
                self._check_room(db, visitor)
                db.execute(
                    "INSERT INTO runs (key, config, state, queued_at) VALUES (?, ?, 'queued', ?) ON CONFLICT (key) DO"
                    " UPDATE SET state = 'queued', queued_at = excluded.queued_at, started_at = NULL,"
                    " finished_at = NULL, cancel_at = NULL, worker = '', message = '', result = '', live = '{}'",
                    (key, config.model_dump_json(), now),
                )
            else:  # somebody is waiting for it, or has just cancelled it
                db.execute("UPDATE runs SET cancel_at = NULL WHERE key = ?", (key,))
            db.execute(
                "INSERT INTO jobs (id, visitor, run, created_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (visitor, run) DO UPDATE SET cancelled = 0, created_at = excluded.created_at",
                (secrets.token_urlsafe(16), visitor, key, now),
            )
            job_id = db.execute("SELECT id FROM jobs WHERE visitor = ? AND run = ?", (visitor, key)).fetchone()["id"]
        job = self.job(job_id)
        assert job is not None  # this version has just written it
        return job

    def _check_room(self, db: sqlite3.Connection, visitor: str) -> None:
        limits = Limits.read()
        waiting = db.execute("SELECT count(*) FROM runs WHERE state = 'queued'").fetchone()[0]
        if waiting >= limits.max_queue:
            raise QueueFull(f"{waiting} runs are waiting already, which is the limit: try again later")
        own = db.execute(
            "SELECT count(*) FROM jobs j JOIN runs r ON r.key = j.run"
            " WHERE j.visitor = ? AND j.cancelled = 0 AND r.state = 'queued'", (visitor,),
        ).fetchone()[0]  # fmt: skip
        if own >= limits.max_queue_per_visitor:
            raise QueueFull(f"{own} of your runs are waiting already: stop one of them, or wait")

    def job(self, job_id: str) -> Job | None:
        """The job with that id, for anyone who knows it; None if there is none."""
        with self.reading() as db:
            row = db.execute(
                "SELECT j.id, j.visitor, j.created_at, j.cancelled, r.* FROM jobs j JOIN runs r ON r.key = j.run"
                " WHERE j.id = ?", (job_id,),
            ).fetchone()  # fmt: skip
            return self._job(db, row) if row is not None else None

    def jobs_of(self, visitor: str, limit: int = 20) -> list[Job]:
        """A visitor's own jobs, newest first."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT j.id, j.visitor, j.created_at, j.cancelled, r.* FROM jobs j JOIN runs r ON r.key = j.run"
                " WHERE j.visitor = ? ORDER BY j.created_at DESC LIMIT ?", (visitor, limit),
            ).fetchall()  # fmt: skip
            return [job for row in rows if (job := self._job(db, row)) is not None]

    def _job(self, db: sqlite3.Connection, row: sqlite3.Row) -> Job | None:
        try:
            config = checked(RunConfig, json.loads(row["config"]))
        except UserError:  # written by another version of the program
            return None
        state, message = row["state"], row["message"]
        if row["cancelled"]:
            state, message = "cancelled", CANCELLED
        stopping = state == "running" and row["cancel_at"] is not None
        if row["cancelled"] and row["state"] == "running" and row["cancel_at"] is not None:
            state, message, stopping = "running", "Stopping ...", True
        ahead = waiting = 0
        if state == "queued":
            order = self._order(db)
            waiting = len(order)
            running = db.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchone()[0]
            if row["key"] in order:  # else the worker took it since the row was read
                ahead = running + order.index(row["key"])
        return Job(
            id=row["id"], visitor=row["visitor"], run=row["key"], config=config, state=state, message=message,
            result=row["result"], live=json.loads(row["live"]), created_at=row["created_at"],
            started_at=row["started_at"], finished_at=row["finished_at"], ahead=ahead, waiting=waiting,
            stopping=stopping,
        )  # fmt: skip

    def _order(self, db: sqlite3.Connection) -> list[str]:
        """The queued runs in the order in which they will start: visitors take turns, each with their oldest run.

        The visitor whose last turn was longest ago comes next, so ten runs of one visitor delay another's single run
        by one. A run that several visitors wait for belongs to the one of them whose turn comes first.
        """
        last_turn = dict(
            db.execute(
                "SELECT j.visitor, max(r.started_at) FROM jobs j JOIN runs r ON r.key = j.run"
                " WHERE r.started_at IS NOT NULL GROUP BY j.visitor"
            ).fetchall()
        )
        visitors_of: dict[str, list[str]] = {}
        for key, visitor in db.execute(
            "SELECT r.key, j.visitor FROM runs r JOIN jobs j ON j.run = r.key AND j.cancelled = 0"
            " WHERE r.state = 'queued' ORDER BY r.queued_at, r.rowid"
        ):
            visitors_of.setdefault(key, []).append(visitor)
        order, turn = [], time.time()
        while visitors_of:  # the oldest run of the visitor whose turn it is
            key = min(visitors_of, key=lambda k: min(last_turn.get(v, 0.0) for v in visitors_of[k]))
            for visitor in visitors_of.pop(key):
                last_turn[visitor] = turn
            order.append(key)
            turn += 1
        return order

    def queue_length(self) -> int:
        """Number of waiting and running runs."""
        with self.reading() as db:
            return db.execute("SELECT count(*) FROM runs WHERE state IN ('queued', 'running')").fetchone()[0]

    def _own(self, job_id: str, visitor: str) -> Job:
        job = self.job(job_id)
        if job is None or not secrets.compare_digest(job.visitor.encode(), visitor.encode()):
            raise UserError("this run was started by somebody else: start the same run yourself to control it")
        return job

    def cancel(self, job_id: str, visitor: str) -> None:
        """Cancel a job; its run stops unless somebody else is waiting for it too. Raises UserError."""
        job = self._own(job_id, visitor)
        with self.writing() as db:
            db.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?", (job.id,))
            others = db.execute("SELECT count(*) FROM jobs WHERE run = ? AND cancelled = 0", (job.run,)).fetchone()[0]
            if others:
                return
            db.execute(
                "UPDATE runs SET state = 'cancelled', message = ?, finished_at = ? WHERE key = ? AND state = 'queued'",
                (CANCELLED, time.time(), job.run),
            )
            db.execute(
                "UPDATE runs SET cancel_at = ? WHERE key = ? AND state = 'running' AND cancel_at IS NULL",
                (time.time(), job.run),
            )

    def resume(self, job_id: str, visitor: str) -> Job:
        """Queue a stopped job again; finished stages and checkpoints are used. Raises UserError."""
        job = self._own(job_id, visitor)
        return self.enqueue(job.config, visitor) if job.state in RESUMABLE or job.stopping else job

    def repeat(self, job_id: str, visitor: str) -> Job:
        """Queue on this machine a run that ships with the program. Raises UserError."""
        return self.enqueue(self._own(job_id, visitor).config, visitor, here=True)

    # --- what the worker and its supervisor call ---

    def take(self, worker: str) -> tuple[str, RunConfig] | None:
        """Mark the queued run whose turn it is as running on `worker`, and return it; None if none is queued."""
        with self.writing() as db:
            order = self._order(db)
            if not order:
                return None
            row = db.execute("SELECT key, config FROM runs WHERE key = ?", order[:1]).fetchone()
            db.execute(
                "UPDATE runs SET state = 'running', started_at = ?, worker = ?, cancel_at = NULL WHERE key = ?",
                (time.time(), worker, row["key"]),
            )
        try:
            return row["key"], checked(RunConfig, json.loads(row["config"]))
        except UserError as error:
            self.finish(row["key"], worker, "failed", f"These settings are from another version: {error}")
            return None

    def write_live(self, key: str, worker: str, live: dict) -> None:
        with self.writing() as db:
            db.execute("UPDATE runs SET live = ? WHERE key = ? AND worker = ?", (json.dumps(live), key, worker))

    def must_stop(self, key: str, worker: str) -> bool:
        """Was this run cancelled, or taken away from this worker?"""
        with self.reading() as db:
            row = db.execute("SELECT worker, state, cancel_at FROM runs WHERE key = ?", (key,)).fetchone()
        return row is None or row["worker"] != worker or row["state"] != "running" or row["cancel_at"] is not None

    def finish(self, key: str, worker: str, state: str, message: str = "", result: str = "") -> None:
        """Record the end of a run. A cancelled run that somebody has started again in the meantime is queued again."""
        with self.writing() as db:
            row = db.execute("SELECT cancel_at FROM runs WHERE key = ? AND worker = ?", (key, worker)).fetchone()
            if row is not None and state == "cancelled" and row["cancel_at"] is None:
                state, message = "queued", ""
            db.execute(
                "UPDATE runs SET state = ?, message = ?, result = ?, finished_at = ?, worker = '', cancel_at = NULL"
                " WHERE key = ? AND worker = ?",
                (state, message, result, time.time(), key, worker),
            )

    def abandon(self, message: str, worker: str | None = None) -> int:
        """Mark runs without a worker as interrupted, or as cancelled if somebody had cancelled them."""
        with self.writing() as db:
            return db.execute(
                "UPDATE runs SET state = iif(cancel_at IS NULL, 'interrupted', 'cancelled'), finished_at = ?,"
                " message = iif(cancel_at IS NULL, ?, ?), worker = '', cancel_at = NULL"
                " WHERE state = 'running' AND (? IS NULL OR worker = ?)",
                (time.time(), message, CANCELLED, worker, worker),
            ).rowcount

    def ignored_cancel(self, worker: str) -> bool:
        """Is this worker still running something that was cancelled `FORCE_AFTER` seconds ago?"""
        with self.reading() as db:
            row = db.execute(
                "SELECT 1 FROM runs WHERE state = 'running' AND worker = ? AND cancel_at < ?",
                (worker, time.time() - FORCE_AFTER),
            ).fetchone()
        return row is not None

    # --- what housekeeping calls ---

    def running(self) -> bool:
        """Is any run in progress?"""
        with self.reading() as db:
            return db.execute("SELECT 1 FROM runs WHERE state = 'running'").fetchone() is not None

    def folders_in_use(self) -> list[Path]:
        """Folders of photos that waiting and running runs read."""
        with self.reading() as db:
            rows = db.execute("SELECT config FROM runs WHERE state IN ('queued', 'running')").fetchall()
        domains = (json.loads(row["config"]).get("domain", {}) for row in rows)
        return [Path(d[part]) for d in domains for part in ("members", "nonmembers") if d.get(part)]

    def forget(self, hours: float) -> int:
        """Delete ended jobs created more than `hours` ago, and runs without a job; returns the number of jobs."""
        with self.writing() as db:
            n_jobs = db.execute(
                "DELETE FROM jobs WHERE created_at < ? AND run IN (SELECT key FROM runs WHERE state NOT IN"
                " ('queued', 'running'))", (time.time() - 3600 * hours,),
            ).rowcount  # fmt: skip
            db.execute(
                "DELETE FROM runs WHERE state NOT IN ('queued', 'running') AND key NOT IN (SELECT run FROM jobs)"
            )
        return n_jobs
