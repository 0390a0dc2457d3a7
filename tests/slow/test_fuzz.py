"""A thousand calls with wrong arguments, over every endpoint of the running app: no error of the server, ever.

    pytest -m slow tests/slow/test_fuzz.py

The calls are seeded. An endpoint is a handler of the page, which is private, or one of the public API; each is called
over the queue, as the page does, and the public ones over every address that gradio has for them.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.visitor import Visitor, served

CALLS = 1000
ADDRESSES = ("call", "call/v2", "run", "api")
FILE = {"path": "/etc/passwd", "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
NUMBERS = (0, -1, 3, 0.5, 17.5, 1e308, -1e308, 10**30, -(10**18), 10**9, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "", " ", "x", "lora", "lora+lora", "dreambooth", "showcase", "after", "members 3", "members 99999999999999999999",
    "members \u00b2", "members " + "9" * 5000, "\u0663", "0" * 400, "1e5", "\0", "<img src=x>", "{name}", "{", "%s",
    "{0.__class__}", "..", "A" * 5000, "\U0001f600", "lab:nothing", "hub:a/b", "assets/lab",
)  # fmt: skip
REFUSED = ("\ud800", FILE, [FILE])  # by the guard, whatever the handler: sent now and then
WRONG = (
    *NUMBERS, *TEXTS, None, True, False, [], [None], [[]], ["lora"], ["loss", "loss"], [1, 2], {}, {"x": 1},
    {"__type__": "update", "visible": True}, {"visitor": 1, "job": []}, {"rounds": 7}, {"visitor": "x" * 30, "job": {}},
    {"showcase": {"rounds": "x", "auc": []}}, {"model": [], "name": 3, "members": None, "nonmembers": {}},
    {"quiz": {"showcase": {"auc": "x"}}, "form": {"person": 1, "rank": "x"}, "job": None, "visitor": None},
)  # fmt: skip
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:.*\n)*?(?=\S)(?P<error>.*)")


def tracebacks(log: str) -> dict[str, int]:
    """The tracebacks of a log that go through our own code, each as "file:line error", with how often it occurs.

    The guard stands around gradio's app, so it is part of every traceback of gradio's own.
    """
    found: dict[str, int] = {}
    for match in TRACEBACK.finditer(log):
        ours = [f for f in re.findall(r'File ".*?/(s2l/[^"]+", line \d+)', match[0]) if "ui/guard.py" not in f]
        if ours:
            name = f"{ours[-1]}: {match['error']}"
            found[name] = found.get(name, 0) + 1
    return found


class Fuzzer:
    def __init__(self, visitor: Visitor, seed: int):
        self.visitor, self.rng = visitor, np.random.default_rng(seed)
        self.reached = 0  # calls that got as far as the queue
        self.handlers = [d for d in visitor.page["dependencies"] if d["backend_fn"]]
        self.named = [d for d in self.handlers if d["api_visibility"] == "public"]

    def any_of(self, values):
        return values[int(self.rng.integers(len(values)))]

    def wrong(self, value: object) -> object:
        """Something else: often of the same kind."""
        kind = self.rng.random()
        if kind < 0.01:
            return self.any_of(REFUSED)
        if kind < 0.8 and isinstance(value, int | float | str):
            return self.any_of(TEXTS if isinstance(value, str) else NUMBERS)
        return self.any_of(WRONG)

    def arguments(self, handler: dict) -> object:
        """Those of the page with some of them wrong, or all wrong, too few, too many, or no list at all."""
        given = self.visitor.values_of(handler)
        kind = self.rng.random()
        if kind < 0.7 and given:
            for _ in range(int(self.rng.integers(1, 3))):
                i = int(self.rng.integers(len(given)))
                given[i] = self.wrong(given[i])
            return given
        if kind < 0.85:
            return [self.wrong(value) for value in given]
        if kind < 0.95:
            return [self.any_of(WRONG) for _ in range(int(self.rng.integers(0, len(given) + 3)))]
        return self.any_of(WRONG)

    def post(self, address: str, body: object):
        text = json.dumps(body)  # NaN and half characters, which httpx would refuse
        return self.visitor.client.post(
            f"gradio_api/{address}", content=text, headers={"content-type": "application/json"}
        )

    def call(self) -> tuple[str, int]:
        """(what was called, HTTP status) of one call; it has been answered by then."""
        if self.rng.random() < 0.25:
            handler, address = self.any_of(self.named), self.any_of(ADDRESSES)
            names = [p["parameter_name"] for p in self.parameters(handler)]
            values = self.arguments(handler)
            by_name = dict(zip(names, values, strict=False)) if isinstance(values, list) else values
            body = self.any_of([{"data": values}, by_name, {"data": values, "session_hash": self.any_of(WRONG)}])
            answer = self.post(f"{address}/{handler['api_name']}", body)
            if answer.status_code == 200 and "event_id" in answer.json():
                event = answer.json()["event_id"]
                self.visitor.client.get(f"gradio_api/call/{handler['api_name']}/{event}")
            return f"{address}/{handler['api_name']} {body}", answer.status_code
        handler = self.any_of(self.handlers)
        body = {"fn_index": handler["id"], "data": self.arguments(handler), "session_hash": self.visitor.session}
        if self.rng.random() < 0.5:
            body["event_data"] = self.any_of([*WRONG, {"pick": self.any_of(WRONG)}, {"name": self.any_of(WRONG)}])
        if self.rng.random() < 0.05:
            body[self.any_of([*body])] = self.any_of(WRONG)
        answer = self.post("queue/join", body)
        self.reached += answer.status_code == 200
        if answer.status_code == 200 and body["session_hash"] == self.visitor.session:
            self.visitor.answer(answer.json()["event_id"])
        return f"{handler['targets']} {body}", answer.status_code

    def parameters(self, handler: dict) -> list[dict]:
        info = self.visitor.client.get("gradio_api/info").json()["named_endpoints"]
        return info[f"/{handler['api_name']}"]["parameters"]


@pytest.mark.slow
@pytest.mark.brings(
    "Visitors", "Wrong arguments to any endpoint, a thousand calls", "one sentence; no error of the server"
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_arguments_are_an_error_of_the_server(tmp_path, tiny_checkpoint, foreign_checkpoint, seed):
    server = served(
        tmp_path, tiny_checkpoint, S2L_ALLOW_HUB_MODELS="1", S2L_MODEL=str(foreign_checkpoint), S2L_MAX_QUEUE="1"
    )
    try:
        visitor = Visitor(server, secrets.token_hex(8))
        fuzzer, failed = Fuzzer(visitor, seed), []
        for _ in range(CALLS // 2):
            what, status = fuzzer.call()
            if status >= 500:
                failed.append(f"{status} {ascii(what)[:300]}")
        assert visitor.client.get("").status_code == 200 and fuzzer.reached > CALLS // 10
    finally:
        server.stop(signal.SIGKILL)
    found = tracebacks(Path(server.log).read_text())
    assert not failed and not found, "\n".join([*failed, *(f"{n} x {name}" for name, n in found.items())])
