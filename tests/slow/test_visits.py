"""Does the server's memory stay flat however many visitors come? Each visit is a new session over HTTP.

    python -m tests.slow.test_visits --visits 1000      # a server of its own on the shipped labs; about ten minutes
    pytest -m slow tests/slow/test_visits.py            # fewer of them

A visit opens the page and looks at the example: its load event, the tabs with results, both answers, the threshold.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from s2l.labs import default_lab
from tests.browser.conftest import Server
from tests.visitor import Visitor, served

TABS = ("attack", "extraction", "compare", "report")
TOGETHER = 4  # visitors at a time
MAX_MB_PER_VISIT = 0.1  # gradio as it is keeps 0.5 MB of a page that is opened, 0.75 MB of one with four tabs


def megabytes(server: Server) -> float:
    """The resident memory of a server's process."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def visit(server: Server) -> None:
    """One visitor, who leaves afterwards."""
    visitor = Visitor(server, secrets.token_hex(8))
    try:
        visitor.client.get("").raise_for_status()
        load = next(d for d in visitor.page["dependencies"] if d["backend_fn"] and d["targets"][0][1] == "load")
        handlers = [load, *(visitor.handler(tab, "select") for tab in TABS)]
        handlers += [visitor.handler("quiz-skip"), visitor.handler("quiz-skip-extraction")]
        for handler in handlers:
            success, output = visitor.call(handler, visitor.values_of(handler))
            assert success, output
        success, output = visitor.call(visitor.handler("accused", "input"), ["showcase", "loss", "after", 10])
        assert success, output
    finally:
        visitor.client.close()


def soak(server: Server, warm_up: int, visits: int, every: int) -> dict:
    """Visits after a warm-up: memory in MB after each `every` of them, and the growth of a visit by least squares."""
    began, memory = time.monotonic(), []
    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(visit, [server] * warm_up))
        before = megabytes(server)
        for _ in range(visits // every):
            list(pool.map(visit, [server] * every))
            memory.append(round(megabytes(server), 1))
    slope = np.polyfit(every * np.arange(len(memory) + 1), [before, *memory], 1)[0]
    return {
        "warm_up": warm_up, "visits": visits, "before_mb": round(before, 1), "after_mb": memory, "together": TOGETHER,
        "mb_per_visit": round(float(slope), 4), "seconds": round(time.monotonic() - began),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.brings("Visitors", "Hundreds of visits, one after the other", "the server's memory stays flat")
def test_memory_stays_flat(tmp_path, tiny_checkpoint):
    server = served(tmp_path, tiny_checkpoint)
    try:
        found = soak(server, warm_up=60, visits=160, every=20)
    finally:
        server.stop(signal.SIGKILL)
    print(json.dumps(found))
    assert found["mb_per_visit"] < MAX_MB_PER_VISIT, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--visits", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = served(Path(folder), default_lab().name)
        try:
            print(json.dumps(soak(server, given.warm_up, given.visits, max(1, given.visits // 10)), indent=2))
        finally:
            server.stop(signal.SIGTERM)


if __name__ == "__main__":
    main()
