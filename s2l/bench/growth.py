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
from pathlib import Path

import numpy as np

from s2l.progress import Event, Progress, silent

SIZES = (100, 10_000)  # range of the plot
MEASURED = (100, 300, 1000)
PROCESSES = (1, 2)
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
from s2l.model.diffusion import DiffusionModel, Runtime

what, n, folder, name, device, dtype = sys.argv[1:]
model, n = DiffusionModel.load(name, Runtime(device, dtype)), int(n)
started = time.perf_counter()
with peak_memory(model.device) as memory:
    if what == "sp_set":
        sp_set.generate_images(model, [PROMPT] * n, range(n), SamplerConfig(), Path(folder) / "sp")
    else:
        attacks.run_attack("secmi", model, attacks.make_query(model, _pictures(model, n)), AuditConfig())
rank = sp_set.processes(model).process_index
cost = {"seconds": time.perf_counter() - started, "bytes": memory["bytes"]}
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
    }


def line(points: list[dict], field: str) -> dict:
    """{"fixed", "each"}: intercept and slope of the least-squares line through the points, both at least 0."""
    each, fixed = np.polyfit([p["n"] for p in points], [p[field] for p in points], 1)
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


def figure(curves: dict, path: Path) -> None:
    """Plot what `growth` returned into `path`: points are measured, dashed lines are fitted."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, field, unit, label in zip(
        drawing.subplots(1, 2), ("seconds", "bytes"), (60, 2**30), ("minutes", "memory, GiB"), strict=True
    ):
        for title, curve in curves.items():
            fit = curve[field]
            n = np.geomspace(min(SIZES[0], curve["measured"][0]["n"]), SIZES[1], 60)
            (fit_line,) = axes.plot(n, (fit["fixed"] + fit["each"] * n) / unit, "--", label=title)
            axes.plot(
                [p["n"] for p in curve["measured"]], [p[field] / unit for p in curve["measured"]], "o",
                color=fit_line.get_color(),
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
        axes.grid(alpha=0.3)
    drawing.axes[0].legend(title="points measured, lines fitted", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=130)
