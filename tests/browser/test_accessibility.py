"""axe-core finds no serious fault on any tab, light or dark; with results shown and with the questions."""

from __future__ import annotations

import pytest

from tests.browser.pictures import TABS

pytestmark = pytest.mark.browser
# Gradio fades what is being drawn, and a download that is being made: on a busy machine for longer than SETTLED.
DRAWN = "![...document.querySelectorAll('#tabs .pending, #report-html[disabled]')].some((e) => e.offsetParent)"
SETTLED = 1500  # milliseconds: a tab draws in several steps


def faults(page) -> list[str]:
    """Serious and critical violations: the rule, and up to three places."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: " + "; ".join(str(node["target"]) for node in rule["nodes"][:3])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault(page, server, theme):
    said = {}
    for tab in TABS:
        page.goto(f"{server.url}?tab={tab}&__theme={theme}")
        page.wait_for_selector("#tabs [role=tab][aria-selected=true]")
        page.wait_for_timeout(SETTLED)
        page.wait_for_function(DRAWN)
        said[tab] = faults(page)
        for skip in ("#quiz-skip", "#quiz-skip-extraction"):
            if page.locator(skip).is_visible():
                page.locator(skip).click()
                page.wait_for_timeout(2 * SETTLED)
                page.wait_for_function(DRAWN)
                for summary in page.locator(".fold > summary").filter(visible=True).all():
                    summary.click()
                said[tab + ", answered"] = faults(page)
    assert not any(said.values()), "\n".join(f"{tab}: {fault}" for tab, found in said.items() for fault in found)


def test_arrow_keys_move_between_tabs(page, server):
    from playwright.sync_api import expect

    page.locator("[role=tab]").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[role=tab]").nth(1)).to_be_focused()
    expect(page.locator("#people")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.locator("#leak")).to_be_visible()


def test_the_focus_stays_after_an_answer(page, server):
    page.goto(f"{server.url}?tab=attack")
    page.locator("#quiz-photo button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#quiz-photo .answered")
    page.wait_for_timeout(SETTLED)
    assert page.evaluate("Boolean(document.activeElement.closest('#quiz-photo'))")


@pytest.mark.parametrize(
    ("tab", "skip", "pane"),
    [("attack", "#quiz-skip", "#ranked"), ("extraction", "#quiz-skip-extraction", "#extraction")],
)
def test_a_pane_of_photos_is_one_tab_stop(page, server, tab, skip, pane):
    page.goto(f"{server.url}?tab={tab}")
    page.locator(skip).click()
    page.wait_for_selector(f"{pane} button")
    page.wait_for_timeout(SETTLED)
    buttons = f"[...document.querySelectorAll('{pane} button')]"
    assert page.evaluate(f"{buttons}.filter((b) => b.tabIndex === 0).length") == 1
    page.locator(f"{pane} button").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{buttons}.indexOf(document.activeElement)") == 1


def test_a_card_says_its_result(page, server):
    page.goto(f"{server.url}?tab=extraction")
    page.locator("#quiz-skip-extraction").click()
    name = page.locator("#extraction button").first.get_attribute("aria-label")
    assert "l2 0." in name and "extracted" in name
