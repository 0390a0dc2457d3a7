"""The page opens on a finished run, and reacts. Some seconds; the rest is `pytest -m browser`."""

import re

from s2l.worlds.people import LAB_NAMES


def until(page, holds: str):
    """Playwright's own wait_for_function needs eval, which the page's content security policy forbids."""
    page.evaluate(f"async () => {{ while (!({holds})) await new Promise((go) => setTimeout(go, 50)); }}")


def test_the_showcase_draws_at_once_and_a_person_is_picked(page):
    from playwright.sync_api import expect

    expect(page.locator("#story #before-after img").first).to_be_visible(timeout=60_000)
    edge = page.locator("#before-after")
    page.locator("#before-after input").fill("90")
    assert edge.evaluate("e => e.style.getPropertyValue('--x')") == "10%"
    expect(page.locator("#story .heads .card")).to_have_count(3)  # told apart, came out, both models
    page.locator("#next-target").click()
    expect(page).to_have_url(re.compile("tab=target"))
    expect(page.locator("#people img")).to_have_count(4)
    page.locator(f'#people [data-name="{LAB_NAMES[2]}"]').click()
    expect(page.locator("#prompt textarea")).to_have_value(f"a photo of {LAB_NAMES[2]}")
    expect(page.locator("#photos img").first).to_have_attribute("alt", f"member photo 1 of {LAB_NAMES[2]}")
    page.locator("#prompt textarea").fill(f"a photo of {LAB_NAMES[2]} riding a unicorn")
    expect(page.locator("#words mark")).to_have_count(2)  # "riding" and "unicorn"


def test_a_tab_chosen_while_the_page_still_opens_gets_into_the_address(page):
    from playwright.sync_api import expect

    until(page, "window.s2l?.opened")
    page.evaluate("window.s2l.opened = false")  # as on a slow machine
    page.get_by_role("tab", name="1 Target").click()
    until(page, "window.s2l.waiting.tab === 'target'")
    assert "tab=target" not in page.url  # what a link asks for is not overwritten before the server has read it
    page.evaluate("window.s2l.ready()")
    expect(page).to_have_url(re.compile("tab=target"))
