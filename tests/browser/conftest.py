"""A real server and a real browser. Without Playwright or Debian's chromium these tests are skipped."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from s2l.jobs import Jobs
from s2l.store import Store

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
WAIT = 90_000  # milliseconds for what should take one second: other work may share the machine
START = 180  # seconds to wait for the server: importing torch takes a while on a busy machine


@dataclass
class Server:
    """`python app.py` in a process of its own, on a cache of its own."""

    environment: dict
    port: int
    process: subprocess.Popen | None = None
    log: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> Server:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py")],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return self
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.2)
        raise AssertionError("the server did not come up:\n" + self.log.read_text())

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("needs /usr/bin/chromium (apt-get install chromium)")
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_checkpoint, chromium):
    """One server for a file of tests: random weights, an empty cache, the shipped showcase."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "S2L_LAB": str(tiny_checkpoint), "S2L_CACHE": str(folder / "cache"),
        "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    port = free_port()
    server = Server(environment | {"GRADIO_SERVER_PORT": str(port)}, port, log=folder / "server.log").start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(autouse=True)
def _no_run_is_left(request):
    """What a test leaves running must not keep the next one waiting."""
    yield
    if "server" in request.fixturenames:
        jobs = Jobs(Store(Path(request.getfixturevalue("server").environment["S2L_CACHE"])))
        with sqlite3.connect(jobs.file) as db:
            rows = db.execute("SELECT id, visitor FROM jobs").fetchall()
        for job, visitor in rows:
            jobs.cancel(job, visitor)


@dataclass
class Watched:
    """What a page must not do."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert not self.foreign, f"requests that leave the machine: {self.foreign}"
        assert not self.errors, f"console errors: {self.errors}"


# Gradio says so when a page is left while an event is under way; every test that reloads does that.
LEAVING = (
    "AbortError: signal is aborted",
    "AbortError: BodyStreamBuffer was aborted",
    "Unexpected error Connection errored out",
)


def watch(page) -> Watched:
    seen = Watched()

    def complaint(message) -> None:
        if message.type == "error" and not message.text.startswith(LEAVING):
            seen.errors.append(message.text)

    page.on("console", complaint)
    page.on("pageerror", lambda e: seen.errors.append(str(e)))
    local = re.compile(r"^(http://127\.0\.0\.1:|ws://127\.0\.0\.1:|data:|blob:)")
    page.on("request", lambda r: None if local.match(r.url) else seen.foreign.append(r.url))
    return seen


@pytest.fixture
def context(chromium):
    """One visitor: a browser profile of their own."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(2 * WAIT)
    yield context
    context.close()


@pytest.fixture
def page(context, server):
    """The app, opened; fails when the page complained or called somebody outside."""
    page = context.new_page()
    seen = watch(page)
    page.goto(server.url)
    yield page
    seen.check()
