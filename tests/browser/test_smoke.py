"""The page opens on a finished run, and reacts. Some seconds; the rest is `pytest -m browser`."""

import re

from s2l.worlds.people import LAB_NAMES


def until(page, holds: str):
    """Playwright's own wait_for_function needs eval, which the page's content security policy forbids."""
    page.evaluate(f"async () => {{ while (!({holds})) await new Promise((go) => setTimeout(go, 50)); }}")


def test_the_first_screen_moves_everything_together(page):
    from playwright.sync_api import expect

    screen = page.locator("#leak")
    curve, says = screen.locator(".curve"), screen.locator("[data-conclusion]")
    expect(curve).to_be_visible(timeout=60_000)
    # Everything is seen without scrolling, and nothing is wider than the page.
    assert says.bounding_box()["y"] + says.bounding_box()["height"] < 800
    expect(says).to_contain_text("The base model already leaks")
    expect(screen.locator(".pair.members")).to_contain_text("a copy")
    expect(screen.locator(".pair.nonmembers")).to_contain_text("no copy")

    def seen() -> list[str]:
        order = "e => [...e.children].map((x) => x.style.order).join()"
        return [
            curve.get_attribute("d"), screen.locator("[data-seed]").first.get_attribute("src"),
            screen.locator("[data-wall]").evaluate(order), says.inner_text(), screen.locator("[data-auc]").inner_text(),
        ]  # fmt: skip

    base = seen()
    screen.locator("[data-w]").press("ArrowRight")  # with the keyboard
    assert all(new != old for new, old in zip(seen(), base, strict=True))
    screen.get_by_role("button", name="shaken", exact=True).click()
    expect(says).to_contain_text("on the shaken model")
    screen.get_by_role("button", name="both models").click()
    expect(says).to_contain_text("With both models")
    expect(screen.get_by_role("button", name="SecMI")).to_be_disabled()
    screen.get_by_role("button", name="base", exact=True).click()
    assert seen() == base
    screen.locator("[data-accused]").fill("160")
    expect(screen.locator("[data-point]")).to_contain_text("40 of 40 were trained on, 120 of 120 are innocent")
    other = screen.locator("[data-person]").nth(1)
    name = other.inner_text().strip()
    other.click()
    expect(screen.locator(".says")).to_contain_text(name)
    expect(screen.locator("[data-point]")).to_contain_text("160 accused")
    assert seen() != base


def test_a_person_is_picked(page):
    from playwright.sync_api import expect

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
