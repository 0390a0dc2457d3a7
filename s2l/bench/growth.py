"""How cost grows: time and memory against SP set size, members and processes.

Small sizes are measured on this machine, each in a new process so that its peak memory is its own. A straight line that
is fitted to them predicts larger sizes: a fixed cost (libraries, weights) plus a cost per image.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2l.progress import Event, Progress, silent

SIZES = (100, 10_000)  # range of the plot
MEASURED = (100, 300, 1000)
PROCESSES = (1, 2)
TIMES = {"seconds": "minutes", "core_seconds": "minutes of one core"}
ROOT = Path(__file__).resolve().parents[2]

# argv: what, how many, folder, model, device, dtype. Writes {"seconds", "bytes"} of each process into the folder.
WORK = """
import json, sys, time
from pathlib import Path
import psutil
from s2l import attacks
from s2l.bench import PROMPT, _pictures
from s2l.bench.measure import peak_memory
from s2l.config import AuditConfig, SamplerConfig
from s2l.data import sp_set
from s2l.measure.pairs import all_pairs
from s2l.model.diffusion import DiffusionModel, Runtime
from s2l.store import Store

what, n, folder, name, device, dtype = sys.argv[1:]
model, n = DiffusionModel.load(name, Runtime(device, dtype)), int(n)
if what == "extraction":
    generations = _pictures(model, n).images
    photos = generations.flip(-1)
if what == "cache":
    store = Store(Path(folder) / "cache")
    for i in range(n):
        stage = store.path("result", f"{i:08d}")
        stage.mkdir(parents=True)
        (stage / "result.json").write_text("{}")
started, busy = time.perf_counter(), time.process_time()
with peak_memory(model.device) as memory:
    if what == "extraction":
        all_pairs(generations, photos, 0.1, device=model.device)
    elif what == "cache":
        store.trim(1e9)
    elif what == "sp_set":
        sp_set.generate_images(model, [PROMPT] * n, range(n), SamplerConfig(), Path(folder) / "sp")
    else:
        attacks.run_attack("secmi", model, attacks.make_query(model, _pictures(model, n)), AuditConfig())
rank = sp_set.processes(model).process_index
cost = {"seconds": time.perf_counter() - started, "bytes": memory["bytes"]}
cost["core_seconds"] = time.process_time() - busy
(Path(folder) / f"rank-{rank}.json").write_text(json.dumps(cost))
"""


def _run(what: str, n: int, processes: int, arguments: list[str]) -> dict:
    """One measurement: the seconds of the slowest process and the memory of all processes. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "work.py"
        script.write_text(WORK, encoding="utf-8")
        command = [sys.executable]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            # --multi_gpu starts several processes with torchrun, even without a GPU.
            command += ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
            command += [
                "--num_machines=1",
                "--mixed_precision=no",
                "--dynamo_backend=no",
                f"--main_process_port={port}",
            ]
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment["OMP_NUM_THREADS"] = str(min(threads, int(os.environ.get("OMP_NUM_THREADS", threads))))
        process = subprocess.run(
            [*command, str(script), what, str(n), folder, *arguments], env=environment, capture_output=True, text=True
        )
        if process.returncode:
            raise RuntimeError(f"measuring {what} of {n} failed: {process.stderr[-2000:]}")
        ranks = [json.loads(path.read_text()) for path in Path(folder).glob("rank-*.json")]
    return {
        "n": n,
        "seconds": max(rank["seconds"] for rank in ranks),
        "bytes": sum(rank["bytes"] for rank in ranks),
        "core_seconds": sum(rank["core_seconds"] for rank in ranks),
    }


def line(points: list[dict], field: str, power: int = 1) -> dict:
    """{"fixed", "each"} of fixed + each n^power: the least-squares fit to the points, both at least 0."""
    each, fixed = np.polyfit([p["n"] ** power for p in points], [p[field] for p in points], 1)
    return {"fixed": max(0.0, float(fixed)), "each": max(0.0, float(each))}


def growth(
    model: str,
    device: str,
    dtype: str,
    sizes: tuple[int, ...] = MEASURED,
    processes: tuple[int, ...] = PROCESSES,
    progress: Progress = silent,
) -> dict:
    """{"<curve>": {"measured": [{n, seconds, bytes}], "seconds": line, "bytes": line}}.

    One curve for the SP set per number of processes, and one for SecMI. Raises RuntimeError if a measurement fails.
    """
    curves = {f"SP set, {k} process{'es' if k > 1 else ''}": ("sp_set", k) for k in processes}
    curves["SecMI on members"] = ("secmi", 1)
    record: dict[str, dict] = {}
    total = len(curves) * len(sizes)
    for title, (what, k) in curves.items():
        points = []
        for n in sizes:
            points.append(_run(what, n, k, [model, device, dtype]))
            progress(Event("growth", len(record) * len(sizes) + len(points), total, {}))
        record[title] = {"measured": points, "seconds": line(points, "seconds"), "bytes": line(points, "bytes")}
    progress(Event("growth", total, total, {"cached": False}))
    return record


# How far one machine gets: title, what, sizes, and the power of n with which its time grows (memory: power 1).
TO_SCALE = (
    ("SecMI, n photos", "secmi", (50, 150, 500), 1),
    ("extraction, n generations x n photos", "extraction", (1000, 3000, 6000), 2),
    ("tidying a cache of n results", "cache", (1000, 10_000, 50_000), 1),
)


def scale(
    model: str,
    device: str,
    dtype: str,
    shrink: int = 1,
    progress: Progress = silent,
    save: Callable[[dict], object] = lambda curves: None,
) -> dict:
    """Like `growth`, of TO_SCALE, in sizes divided by `shrink`; each curve has its power. `save` gets what is ready."""
    record: dict[str, dict] = {}
    for title, what, sizes, power in TO_SCALE:
        points = []
        for n in sizes:
            points.append(_run(what, max(2, n // shrink), 1, [model, device, dtype]))
            progress(Event("scale", len(record) * len(sizes) + len(points), len(TO_SCALE) * len(sizes), {}))
        fits = {field: line(points, field, power) for field in ("seconds", "core_seconds")}
        fits["bytes"] = line(points, "bytes")
        record[title] = {"measured": points, "power": power, **fits}
        save(record)
    progress(Event("scale", 1, 1, {"cached": False}))
    return record


def predicted(curve: dict, field: str, n):
    """What a curve's fit says for n."""
    power = curve.get("power", 1) if field != "bytes" else 1
    return curve[field]["fixed"] + curve[field]["each"] * n**power


def scale_rows(record: dict) -> list[tuple[str, ...]]:
    """A `bench --scale` record as rows: the largest measured size, and what the fit says for 10^5."""
    clock = "core_seconds" if record["runtime"]["device"] == "cpu" else "seconds"
    rows: list[tuple[str, ...]] = [("", "measured", f"{TIMES[clock]}", "memory", "fitted for 100,000", "memory")]
    for title, curve in record["growth"].items():
        last, fitted = curve["measured"][-1], predicted(curve, clock, 100_000) / 60
        memory = (f"{size / 2**30:.1f} GiB" for size in (last["bytes"], predicted(curve, "bytes", 100_000)))
        times = f"{last[clock] / 60:.2g}", f"{fitted:,.0f}" if fitted >= 10 else f"{fitted:.2g}"
        rows.append((title, f"n = {last['n']:,}", times[0], next(memory), times[1], next(memory)))
    return rows


def figure(curves: dict, path: Path, largest: int = SIZES[1], clock: str = "seconds") -> None:
    """Plot what `growth` or `scale` returned into `path`: points are measured, dashed lines are fitted.

    `clock` is "seconds", or "core_seconds", which another program on the machine changes little.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, field, unit, label in zip(
        drawing.subplots(1, 2), (clock, "bytes"), (60, 2**30), (TIMES[clock], "memory, GiB"), strict=True
    ):
        for title, curve in curves.items():
            n = np.geomspace(min(SIZES[0], curve["measured"][0]["n"]), largest, 60)
            (fit_line,) = axes.plot(n, predicted(curve, field, n) / unit, "--", label=title)
            axes.plot(
                [p["n"] for p in curve["measured"]], [p[field] / unit for p in curve["measured"]], "o",
                color=fit_line.get_color(),
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
        axes.grid(alpha=0.3)
    drawing.axes[0].legend(title="points measured, lines fitted", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=130)
