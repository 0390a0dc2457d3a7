"""A hostile visitor: what the attack on the running page found, tried over HTTP against a server of its own."""

from __future__ import annotations

import io
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import ROOT, Server, free_port

SCRIPT = b"<html><script>localStorage</script></html>"
HOSTILE = {
    "page.html": SCRIPT, "page.xhtml": SCRIPT, "page.js": b"alert(1)", "page.svg": b"<svg onload='alert(1)'/>",
    "page.png": SCRIPT, "page.jpg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "page.txt": b"x",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_checkpoint, foreign_checkpoint):
    """One server for this file: random weights, hub models allowed, prompts of one's own not."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "S2L_LAB": str(tiny_checkpoint), "S2L_CACHE": str(folder / "cache"), "S2L_ALLOW_HUB_MODELS": "1",
        "S2L_MODEL": str(foreign_checkpoint), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(folder / "cache" / "incoming"),
    }  # fmt: skip
    port = free_port()
    server = Server(environment | {"GRADIO_SERVER_PORT": str(port)}, port, log=folder / "server.log").start()
    yield server
    server.stop(signal.SIGKILL)


@dataclass
class Visitor:
    """A plain HTTP client that sends what the page's script would send, or anything else."""

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
        """The private handler behind an element of the page."""
        of = next(c["id"] for c in self.page["components"] if c["props"].get("elem_id") == name)
        return next(d for d in self.page["dependencies"] if [of, event] in map(list, d["targets"]))

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
        event = joined.json()["event_id"]
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


@pytest.fixture
def visitor(server, request):
    return Visitor(server, request.node.name[:60])


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def named(path: str, **more) -> dict:
    return {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}} | more


# --- stored script ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_only_pictures_are_taken_and_nothing_else_stays(visitor, name):
    answer = visitor.upload(**{"good.png": png(), name: HOSTILE[name]})
    assert answer.status_code == 415 and "only pictures are taken" in answer.json()["detail"]
    left = [path for path in visitor.cache.rglob("*") if path.is_file() and path.read_bytes() == HOSTILE[name]]
    assert not left and not list((visitor.cache / "incoming").rglob("*.*"))


def test_an_upload_is_never_served(visitor):
    picture = png(1) + SCRIPT  # a picture to those who look at its beginning
    (path,) = visitor.upload(**{"page.html": picture}).json()
    assert Path(path).read_bytes() == picture and Path(path).suffix == ".png"
    incoming = visitor.cache / "incoming"
    assert [p for p in incoming.rglob("*") if p.is_file()] == [Path(path)]  # gradio's own copy is gone
    for of in (path, f"{visitor.cache}/public/results/../../incoming/{Path(path).relative_to(incoming)}"):
        for route in (
            "gradio_api/file=",
            "file=",
            "gradio_api/file/",
            "gradio_api/proxy=",
            "gradio_api/file=http://x/",
        ):
            answer = visitor.client.get(f"{route}{of}")
            assert answer.status_code in (403, 404) and SCRIPT not in answer.content, route
    Path(path).unlink()


def published(visitor: Visitor) -> Path:
    folder = visitor.cache / "public" / "results" / "0123456789abcdef0123456789abcdef"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_bytes(SCRIPT)
    return folder / "report.html"


def test_a_published_file_is_a_download_that_runs_nothing(visitor):
    report = published(visitor)
    for headers in ({}, {"Range": "bytes=0-5"}):
        answer = visitor.client.get(f"gradio_api/file={report}", headers=headers)
        assert answer.status_code == 200 and answer.content == SCRIPT
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_says_who_may_frame_it(visitor):
    headers = visitor.client.get("").headers
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and "x-frame-options" not in headers


# --- another's files -------------------------------------------------------------------------------------------------


def test_an_upload_names_no_other_file(visitor):
    report, (theirs,) = published(visitor), visitor.upload(**{"a.png": png(2)}).json()
    link = Path(theirs).with_name("link.png")
    link.symlink_to(report)
    folder = visitor.cache / "incoming"
    paths = [
        str(report), "/etc/passwd", str(link), str(folder / "visitors"), f"{folder}/visitors/../visitors/x/y.png",
        f"{Path(theirs).parent}/../{Path(theirs).parent.name}/0000.png", "https://example.org/a.png", "",
    ]  # fmt: skip
    handler = visitor.handler("own-use")
    for path in paths:
        for data in (["", "A B", [named(path)] * 3, [named(path)] * 3, True], [{"x": [named(path)]}, "", [], [], True]):
            assert visitor.join(handler, data).status_code == 403, path
    assert report.read_bytes() == SCRIPT and Path(theirs).exists()
    link.unlink()


def test_own_pictures_are_used_once(visitor):
    of = [visitor.upload(**{f"{i}.png": png(10 * k + i) for i in range(3)}).json() for k in (1, 2)]
    said = visitor.use("", "Ada Lovelace", *([named(path) for path in paths] for paths in of))
    assert "with your photos of both kinds" in said, said
    assert not any(Path(path).exists() for paths in of for path in paths)


def test_the_same_picture_of_two_visitors_has_two_places(visitor):
    a, b = (visitor.upload(**{"a.png": png(5)}).json()[0] for _ in range(2))
    assert a != b and Path(a).exists() and Path(b).exists()
