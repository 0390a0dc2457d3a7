"""The Compare tab in a browser: one figure that follows every choice."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def figure(page, server, expect):
    page.goto(server.url + "?tab=compare")
    expect(page.locator("#effects .fx").first).to_be_visible()
    return page.locator("#effects")


@pytest.fixture(scope="session")
def expect(chromium):
    return pytest.importorskip("playwright.sync_api").expect


def test_the_figure_follows_every_choice(page, figure, expect):
    said = figure.locator("[data-says]")
    expect(figure.locator(".fx .name").first).to_have_text("fresh, shaken")  # the main finding comes first
    figure.get_by_role("button", name="Methods").click()
    expect(figure.locator(".fx")).to_have_count(8)
    figure.get_by_role("button", name="SecMI", exact=True).click()
    expect(said).to_contain_text("The paper has")
    figure.get_by_role("button", name="Loss", exact=True).click()
    figure.get_by_role("button", name="both models together").click()
    expect(said).to_contain_text("with both models together, the Loss attack gets stronger")
    figure.get_by_role("button", name="Labs").click()
    expect(figure.locator(".fx .name").first).to_have_text("fresh, shaken")
    figure.get_by_role("button", name="Fair split or not").click()
    expect(figure.get_by_role("button", name="both models together")).to_be_disabled()
    figure.get_by_role("button", name="before and after").click()
    expect(figure.locator(".fx .from")).to_have_count(9)
    expect(said).to_contain_text("never sees the model")


def test_rows_are_chosen_by_keyboard_and_said(page, figure, expect):
    rows = figure.locator(".fx")
    rows.first.focus()
    page.keyboard.press("Enter")
    expect(rows.first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
    label = rows.nth(1).locator(".name").inner_text()
    expect(figure.locator("[data-says][role=status]")).to_contain_text(label)
    chip = figure.get_by_role("button", name="PIA")
    chip.focus()
    page.keyboard.press("Space")
    expect(figure.get_by_role("button", name="PIA")).to_be_focused()  # redrawn, but the focus stays


def test_the_figure_fits_a_telephone(context, server, expect):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}?tab=compare")
    row = page.locator("#effects .fx").first
    expect(row).to_be_visible()
    for part in (".name", ".said", ".track"):
        box = row.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, part
    assert page.evaluate("document.documentElement.scrollHeight") < 4000
    expect(page.locator("#tables table").first).to_be_hidden()  # folded
