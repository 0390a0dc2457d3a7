"""A visitor over plain HTTP: what the page's script would send to a running app, or anything else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.browser.conftest import ROOT, Server, free_port


def served(folder: Path, lab: Path | str, **more: str) -> Server:
    """The app on a cache of its own in `folder`, started; `more` are environment variables."""
    environment = {
        "S2L_LAB": str(lab), "S2L_CACHE": str(folder / "cache"), "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    port = free_port()
    return Server(environment | more | {"GRADIO_SERVER_PORT": str(port)}, port, log=folder / "server.log").start()


@dataclass
class Visitor:
    """One client with one session."""

    server: Server
    session: str = "s"
    client: httpx.Client = field(init=False)
    page: dict = field(init=False)

    def __post_init__(self):
        self.client = httpx.Client(base_url=self.server.url, timeout=60)
        self.page = self.client.get("config").json()

    @property
    def cache(self) -> Path:
        return Path(self.server.environment["S2L_CACHE"])

    def upload(self, **files: bytes) -> httpx.Response:
        given = [("files", (name, content)) for name, content in files.items()]
        return self.client.post("gradio_api/upload", files=given)

    def handler(self, name: str, event: str = "click") -> dict:
        """The private handler behind an element of the page: a component by its elem_id, or a tab by its id."""
        of = next(c["id"] for c in self.page["components"] if name in (c["props"].get("elem_id"), c["props"].get("id")))
        return next(d for d in self.page["dependencies"] if d["backend_fn"] and [of, event] in map(list, d["targets"]))

    def values_of(self, handler: dict) -> list:
        """What the page would send for a handler that nobody has touched anything for."""
        shown = {c["id"]: c["props"].get("value") for c in self.page["components"]}
        return [shown[of] for of in handler["inputs"]]

    def join(self, handler: dict, data: object, **more) -> httpx.Response:
        body = {"fn_index": handler["id"], "data": data, "session_hash": self.session} | more
        return self.client.post("gradio_api/queue/join", json=body)

    def call(self, handler: dict, data: object, **more) -> tuple[bool, dict]:
        """(success, output) of a handler, over the queue."""
        joined = self.join(handler, data, **more)
        assert joined.status_code == 200, joined.text
        return self.answer(joined.json()["event_id"])

    def answer(self, event: str) -> tuple[bool, dict]:
        """(success, output) of an event that has joined the queue."""
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed" and message.get("event_id") == event:
                    return message["success"], message["output"]
        raise AssertionError("the server gave no answer")

    def file(self, path: str | Path) -> httpx.Response:
        return self.client.get(f"gradio_api/file={path}")

    def use(self, model: str, name: str, members=(), nonmembers=()) -> str:
        """What the page says after a click on "Use these for the next run"."""
        data = [model, name, list(members), list(nonmembers), True]
        success, output = self.call(self.handler("own-use"), data)
        return json.dumps(output if not success else output["data"][1])
