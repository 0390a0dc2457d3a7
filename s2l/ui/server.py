"""Serve the page and run its worker until Ctrl-C: what `s2l app` and app.py start."""

from __future__ import annotations

from s2l import jobs
from s2l.ui.backend import Backend
from s2l.ui.layout import build, launch


def serve(host: str | None = None, port: int | None = None) -> None:
    """Serve the page and compute what visitors ask for. Returns after Ctrl-C.

    Without `host` and `port`, GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where it listens, else 127.0.0.1:7860.
    """
    backend = Backend.open()
    page = build(backend)
    launch(page, backend, host, port)
    worker = jobs.start(backend.jobs)  # one process computes; the page only asks
    try:
        page.block_thread()
    finally:
        worker.stop()
