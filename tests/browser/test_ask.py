"""A photo of the visitor's own: the browser cuts it, the page says what an attacker would claim and what is true."""

from __future__ import annotations

import pytest
from PIL import Image

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def expect(chromium):
    from playwright.sync_api import expect as e

    return e


def test_a_photo_of_ones_own_is_judged_and_a_file_that_is_none_leaves_no_answer(page, server, expect, tmp_path):
    page.goto(server.url + "?tab=attack")
    page.get_by_text("Was this one in there?").click()
    Image.radial_gradient("L").convert("RGB").resize((300, 200)).save(tmp_path / "own.jpg")
    answer, chosen = page.locator("#ask-answer"), page.locator("#ask-photo input[type=file]")
    chosen.set_input_files(tmp_path / "own.jpg")
    expect(answer).to_contain_text("What is true.")
    expect(answer.locator("img")).to_be_visible()
    (tmp_path / "none.png").write_text("no picture")
    chosen.set_input_files(tmp_path / "none.png")
    expect(page.locator("#ask-photo [data-says]")).to_contain_text("cannot read that file")
    expect(answer).to_have_text("")
    page.get_by_role("button", name="a training photo repeated often").click()
    expect(answer).to_contain_text("Yes: it is training photo")
    expect(page.locator("#ask-photo [data-says]")).to_have_text("")
