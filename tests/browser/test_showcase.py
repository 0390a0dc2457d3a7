"""A page with a showcase draws a finished run before anything was run."""

from __future__ import annotations

import signal

import pytest

from s2l.config import preset
from s2l.lab.people import CELEBRITY_NAMES
from tests.browser.conftest import ROOT, Server, free_port, watch

pytestmark = pytest.mark.browser


def test_the_showcase_is_there_at_once(chromium, context, tmp_path, tiny_lab, store):
    from playwright.sync_api import expect

    from s2l.experiment import run
    from s2l.showcase import export_showcase

    export_showcase(run(preset("quick", CELEBRITY_NAMES[1]), store), tmp_path / "showcase")
    port = free_port()
    environment = {
        "S2L_LAB": str(tiny_lab), "S2L_CACHE": str(tmp_path / "served"), "S2L_SHOWCASE": str(tmp_path / "showcase"),
        "GRADIO_TEMP_DIR": str(tmp_path / "served" / "public"), "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    server = Server(environment, port, log=tmp_path / "server.log").start()
    try:
        page = context.new_page()
        seen = watch(page)
        page.goto(server.url)
        page.get_by_role("tab", name="4 Results").click()
        expect(page.locator("#headline")).to_contain_text(CELEBRITY_NAMES[1])
        expect(page.locator("#roc .only-light img").first).to_be_visible()
        expect(page.locator("#extraction img").first).to_be_visible()
        seen.check()
    finally:
        server.stop(signal.SIGKILL)
