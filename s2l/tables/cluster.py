"""Work on many machines: the cells of a table, the runs of `warm` and the seeds of a lab as tasks of Ray.

A task is a function of this package with its arguments, one at a time on a GPU or on a few cores. Its stages are kept
in the driver's cache if the worker sees that folder, and in the worker's own cache otherwise. A task whose worker dies
is started again and continues from the stages and the training state that the dead one left there.

Ray is the optional extra `cluster`; nothing here imports it before it is asked for.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s2l.errors import UserError
from s2l.progress import Event, Progress
from s2l.store import Store

RETRIES = 3  # how often a task is started again after its worker died
ANSWER_S = 45.0  # how long a cluster may take to answer
REPORT_S = 1.0  # a worker sends at most one event of a running stage in this time
FOLDER = "cluster"  # in the cache: the driver's lock, and the mark by which workers recognise the folder
PROBE = "import ray, sys; ray.init(address=sys.argv[1], logging_level='error', log_to_driver=False)"


@dataclass(frozen=True)
class Cluster:
    """What --cluster and --cores name. `address` is "local", "auto" or HOST:PORT; `cores` a task, None: chosen."""

    address: str
    cores: int | None = None


@dataclass(frozen=True)
class Task:
    """`function(*arguments, store, progress)` on a worker. With `bring`, its stages come back into the driver's cache.

    The function belongs to a module of this package; arguments and result can be pickled.
    """

    label: str
    function: Callable[..., Any]
    arguments: tuple
    bring: bool = False


def parse(text: str, cores: int | None = None) -> Cluster:
    """ "ray", "ray:auto" or "ray:HOST:PORT". Raises UserError for anything else, and if Ray is not installed."""
    kind, _, address = text.partition(":")
    host, _, port = address.rpartition(":")
    well_formed = address in ("", "auto") or (host and port.isdecimal() and 0 < int(port) < 65536)
    if kind != "ray" or text.endswith(":") or not well_formed or "/" in address:
        raise UserError(
            f"--cluster: should be ray (this machine), ray:auto (the cluster of this machine) or ray:HOST:PORT "
            f"(given: {text!r})"
        )
    if cores is not None and cores < 1:
        raise UserError(f"--cores: should be at least 1 (given: {cores})")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UserError("--cluster needs Ray, which is not installed: pip install ray") from None
    return Cluster(address or "local", cores)


# --- the driver -------------------------------------------------------------------------------------------------------


class Pool:
    """Runs tasks on a cluster that `connected` has joined."""

    def __init__(self, ray: Any, store: Store, mark: str, resources: dict[str, float]):
        self.ray, self.store, self.mark, self.resources = ray, store, mark, resources

    def map(self, tasks: Sequence[Task], progress: Progress) -> Iterator[tuple[int, Any]]:
        """(place in `tasks`, result) as each is done, in any order; the stages of all of them go to `progress`.

        A task that fails does not stop the others. Raises UserError at the end, with the first failure.
        """
        from ray.util.queue import Queue

        from s2l.tables.cells import program_state

        queue, program, failures = Queue(actor_options={"num_cpus": 0}), program_state(), []
        remote = self.ray.remote(max_retries=RETRIES, **self.resources)(_work)
        threads = int(self.resources["num_cpus"])
        waiting = {
            remote.options(name=task.label).remote(i, task, str(self.store.root), self.mark, queue, threads, program): i
            for i, task in enumerate(tasks)
        }
        begun: set[int] = set()
        while waiting:
            done, _ = self.ray.wait(list(waiting), timeout=REPORT_S)
            _pass_on(queue, tasks, begun, progress)
            for reference in done:
                i = waiting.pop(reference)
                try:
                    outcome, value, stages = self.ray.get(reference)
                except self.ray.exceptions.RayTaskError as error:  # an error of the program, with its own traceback
                    raise error.cause from error
                except self.ray.exceptions.RayError as error:
                    failures.append(f"{tasks[i].label}: its worker died {RETRIES + 1} times ({_first_line(error)})")
                    continue
                if outcome == "refused":
                    failures.append(f"{tasks[i].label}: {value}")
                    continue
                for name, files in stages.items():
                    unpack(files, self.store.root / "stages" / name)
                yield i, value
        queue.shutdown(force=True)
        if failures:
            more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
            raise UserError(f"{failures[0]}{more}; what is done is kept, the same command does the rest")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _pass_on(queue, tasks: Sequence[Task], begun: set[int], progress: Progress) -> None:
    """Report the events that the workers have sent, under their tasks' labels."""
    for i, event in queue.get_nowait_batch(queue.qsize()):
        label = tasks[i].label
        if event is None:
            if i in begun:
                print(f"{label}: its worker died; it continues on another", file=sys.stderr, flush=True)
            begun.add(i)
            continue
        progress(replace(event, stage=f"{label}: {event.stage}", title=f"{label}: {event.title or event.stage}"))


@contextmanager
def connected(cluster: Cluster, device: str, store: Store | None = None) -> Iterator[Pool]:
    """Join or start a cluster; tasks get a GPU each if `device` is "cuda", or "auto" and the cluster has GPUs.

    Raises UserError if another driver uses the cache, if the address does not answer as a cluster, or if no machine of
    it has what a task needs.
    """
    store = store or Store()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # for a cluster started here; Ray's own is: for ever
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _only_driver(store) as mark:
        if cluster.address != "local":
            _check_answers(cluster.address)
        import ray

        started = {"include_dashboard": False, "object_store_memory": 2**28} if cluster.address == "local" else {}
        ray.init(address=cluster.address, logging_level="error", **started)
        try:
            yield Pool(ray, store, mark, _resources(cluster, device, [node for node in ray.nodes() if node["Alive"]]))
        finally:
            ray.shutdown()


@contextmanager
def _only_driver(store: Store) -> Iterator[str]:
    """The cache's mark, for as long as this is its only driver. Raises UserError if there is another."""
    folder = store.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another command with --cluster uses the cache {store.root}: wait until it is done, or give this one its "
            "own with S2L_CACHE"
        ) from None
    mark = folder / uuid.uuid4().hex
    try:
        mark.touch()
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)
        lock.release()


def _check_answers(address: str) -> None:
    """Raises UserError unless a cluster answers: joining one that does not takes minutes and kills this process."""
    refused = UserError(f"--cluster: no Ray cluster answers at {address}: start one with `ray start --head`")
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError:
            raise refused from None
    try:
        probe = subprocess.run([sys.executable, "-c", PROBE, address], capture_output=True, timeout=ANSWER_S, text=True)
    except subprocess.TimeoutExpired:
        raise refused from None
    if probe.returncode:
        said = probe.stderr.strip().splitlines()
        raise UserError(f"{refused} ({said[-1] if said else 'it was refused'})")


def _resources(cluster: Cluster, device: str, nodes: list[dict]) -> dict[str, float]:
    """What a task asks Ray for. Raises UserError if no machine has it."""
    has = [node["Resources"] for node in nodes]
    gpus = device.startswith("cuda") or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in has))
    fit = [node for node in has if node.get("GPU", 0) >= 1] if gpus else has
    if device.startswith("cuda:"):
        raise UserError(f"--device: {device} with --cluster: give cuda, and each task gets a GPU of its own")
    if not fit:
        raise UserError("--device: no machine of the cluster has a GPU; give --device cpu to use cores")
    share = min(int(node.get("CPU", 1) / node["GPU"]) for node in fit) if gpus else 1
    cores, most = cluster.cores or max(1, share), max(int(node.get("CPU", 0)) for node in fit)
    if cores > most:
        raise UserError(f"--cores: no machine of the cluster has {cores} cores for a task; the largest offers {most}")
    return {"num_cpus": cores, "num_gpus": int(gpus)}


# --- a worker ---------------------------------------------------------------------------------------------------------


def _work(i: int, task: Task, root: str, mark: str, queue, threads: int, program: dict) -> tuple[str, Any, dict]:
    """("done", result, stages to bring) or ("refused", why, {}); Ray calls it in a process of its own."""
    import torch

    from s2l.model.loading import quiet
    from s2l.tables.cells import program_state

    warnings.filterwarnings("ignore")  # what libraries tell programmers
    quiet()
    torch.set_num_threads(threads)
    queue.put_nowait((i, None))
    if program_state() != program:
        return "refused", f"{socket.gethostname()} has another version of this program than the driver", {}
    shared = (Path(root) / FOLDER / mark).exists()
    store = _Recorder(Path(root) if shared else None)
    try:
        value = task.function(*task.arguments, store, _Sender(queue, i))
    except UserError as error:
        return "refused", str(error), {}
    brought = store.used if task.bring and not shared else {}
    return "done", value, {name: pack(folder) for name, folder in brought.items()}


class _Recorder(Store):
    """A store that remembers which stages it gave."""

    def __init__(self, root: Path | None):
        super().__init__(root)
        self.used: dict[str, Path] = {}

    def stage(self, stage: str, key: str, work: Callable[[Path], object]) -> tuple[Path, bool]:
        folder, cached = super().stage(stage, key, work)
        self.used[f"{stage}/{key}"] = folder
        return folder, cached


class _Sender:
    """A progress listener that sends events to the driver: the first and the last of a stage, and some between."""

    def __init__(self, queue, i: int):
        self.queue, self.i, self.stage, self.then = queue, i, "", 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if "cached" in event.info or event.stage != self.stage or now - self.then >= REPORT_S:
            self.stage, self.then = event.stage, now
            plain = {name: x for name, x in event.info.items() if isinstance(x, bool | int | float | str)}
            self.queue.put_nowait((self.i, replace(event, info=plain)))


def pack(folder: Path) -> dict[str, bytes]:
    """{path: content} of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Write what `pack` read, whole or not at all; a folder that is there stays."""
    if folder.exists():
        return
    working = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    for name, content in files.items():
        path = working / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        os.replace(working, folder)
    except OSError:  # somebody else made it meanwhile
        shutil.rmtree(working, ignore_errors=True)
        if not folder.exists():
            raise
