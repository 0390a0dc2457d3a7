"""The worker process, and the thread of the app that keeps one alive."""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from s2l.config import RunConfig
from s2l.errors import UserError
from s2l.jobs.housekeeping import sweep
from s2l.jobs.live import Live
from s2l.jobs.store import CANCELLED, RESTARTED, Jobs
from s2l.progress import Cancelled
from s2l.store import Store

if TYPE_CHECKING:  # the app imports this file too and must not wait for torch
    from s2l.model.diffusion import Runtime

SWEEP_EVERY = 1800.0  # seconds between two sweeps
CPU_BATCH = 8  # small, because a cancel waits for the end of a batch, and pictures appear batch by batch


def cores() -> int:
    """Cores that this process may use, by affinity and the container's quota, not those of the host."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        n = min(n, max(1, round(int(quota) / int(period))))
    return n


def runtime() -> Runtime:
    """Small batches on a CPU, so that pictures appear and a cancel takes effect within two seconds."""
    from s2l.model.diffusion import Runtime

    device = Runtime().torch_device()
    return Runtime(batch_size=CPU_BATCH) if device.type == "cpu" else Runtime()


def execute(jobs: Jobs, key: str, config: RunConfig, worker: str) -> None:
    """Run one configuration and record how it ended."""
    from s2l.pipeline import experiment

    live = Live(jobs, key, worker, config)
    try:
        result = experiment.run(config, jobs.store, runtime(), live)
    except Cancelled:
        live.write()
        jobs.finish(key, worker, "cancelled", CANCELLED)
    except UserError as error:
        jobs.finish(key, worker, "failed", str(error))
    except Exception as error:
        log = jobs.folder / f"{key}.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        first = str(error).strip().splitlines()[:1] or ["no message"]
        jobs.finish(
            key, worker, "failed",
            f"The run failed with {type(error).__name__}: {first[0][:200]} (details on the server: jobs/{log.name})",
        )  # fmt: skip
    else:
        live.write()
        jobs.finish(key, worker, "done", result=result.key)


def work(root: Path, worker: str) -> None:
    """The worker's loop: take a run, execute it, repeat. Ends when the parent closes stdin."""
    import torch

    def die_with_parent() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if hasattr(os, "nice"):
        os.nice(5)  # the page comes first
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    jobs = Jobs(Store(root))
    while True:
        queued = jobs.take(worker)
        if queued is None:
            time.sleep(0.3)
        else:
            execute(jobs, *queued, worker)


class Supervisor(threading.Thread):
    """Keeps one worker process alive for this cache; several apps on one cache share one worker."""

    def __init__(self, jobs: Jobs):
        super().__init__(daemon=True, name="s2l-supervisor")
        self.jobs = jobs
        self.process: subprocess.Popen | None = None
        self.worker = ""
        self._stopped = threading.Event()
        self._lock = FileLock(jobs.folder / "worker.lock", thread_local=False)
        self._born, self._wait = 0.0, 1.0
        self._swept = float("-inf")

    def run(self) -> None:
        while not self._stopped.wait(0.25):
            try:
                self._look()
                if self._lock.is_locked and time.monotonic() - self._swept > SWEEP_EVERY:
                    self._swept = time.monotonic()
                    sweep(self.jobs)
            except sqlite3.OperationalError:  # the disk is full or slow: look again
                time.sleep(1)

    def _look(self) -> None:
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return  # another app on this cache runs the worker
            self.jobs.abandon(RESTARTED)
        if self.process is None:
            self._start()
        elif (code := self.process.poll()) is not None:
            self.jobs.abandon(_how_it_died(code), self.worker)
            uptime = time.monotonic() - self._born
            self._wait = 1.0 if uptime > 30 else min(30.0, 2 * self._wait)
            self.process = None
            self._stopped.wait(0 if uptime > 30 else self._wait)
        elif self.jobs.ignored_cancel(self.worker):
            self.process.kill()
            self.process.wait()

    def _start(self) -> None:
        if self._stopped.is_set():
            return
        self.worker, self._born = secrets.token_hex(8), time.monotonic()
        package = Path(__file__).resolve().parents[1]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]).rstrip(":")}
        with open(self.jobs.folder / "worker.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "s2l.jobs", str(self.jobs.store.root), self.worker],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=env,
            )  # fmt: skip

    def stop(self) -> None:
        """End the worker; what it was doing is marked interrupted and can be resumed."""
        self._stopped.set()
        self.join(timeout=5)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.jobs.abandon(RESTARTED, self.worker)
        self._lock.release()


def _how_it_died(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        hint = ", which happens when memory runs out" if name == "SIGKILL" else ""
        how = f"was killed ({name}{hint})"
    else:
        how = f"ended by itself (exit code {code}; see jobs/worker.log on the server)"
    return f"The worker process {how}. All finished work is kept; Resume continues from there."


def start(jobs: Jobs) -> Supervisor:
    """Start the worker of a job store in the background."""
    supervisor = Supervisor(jobs)
    supervisor.start()
    return supervisor
