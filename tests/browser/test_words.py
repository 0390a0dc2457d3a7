"""Words open their explanation on hover, focus and tap, stay inside the screen, and close with Escape."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def expect(chromium):
    return pytest.importorskip("playwright.sync_api").expect


def test_hover_focus_and_escape(page, server, expect):
    page.goto(server.url + "?tab=attack")
    expect(page.locator("#quiz-skip")).to_be_visible()  # the tab has opened
    word = page.locator(".term", has_text="SecMI").filter(visible=True).first
    tip = word.locator(".tip")
    expect(tip).to_be_hidden()
    word.locator("button").hover()
    expect(tip).to_be_visible()
    expect(tip.locator("svg")).to_be_visible()
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    word.locator("button").click()
    expect(tip).to_be_visible()
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()  # what it covers can be clicked
    word.locator("button").focus()
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(word.locator("button")).to_be_focused()
    assert word.locator("button").get_attribute("aria-describedby") == tip.get_attribute("id")


def test_a_tap_on_a_telephone(chromium, server, expect):
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    for tab, opened in (("story", "#leak"), ("attack", "#quiz-skip"), ("compare", "#effects .fx")):
        page.goto(f"{server.url}?tab={tab}")
        expect(page.locator(opened).first).to_be_visible()
        word = page.locator(".term button").filter(visible=True).last
        expect(word).to_be_visible()
        word.tap()
        tip = page.locator(".tip").filter(visible=True)
        expect(tip).to_have_count(1)
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, tab
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    context.close()
