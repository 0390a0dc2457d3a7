"""A lesson in two browsers: the teacher opens a class, a group joins by the link, and its prediction arrives."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import WAIT, watch
from tests.browser.test_smoke import until

pytestmark = pytest.mark.browser


def test_a_class_meets_on_one_page(page, chromium, server):
    from playwright.sync_api import expect

    until(page, "window.s2l?.opened")
    page.get_by_role("tab", name="Class").click()
    page.locator("#open-class").click()
    code = page.locator(".class-code")
    expect(code).to_have_text(re.compile("^[A-Z2-9]{6}$"))
    link = page.locator("#class-board a").get_attribute("href")
    assert link == f"{server.url}?class={code.inner_text()}&tab=class"
    expect(page).to_have_url(re.compile(f"class={code.inner_text()}"))
    expect(page.locator("#class-board .class-qr")).to_be_visible()
    expect(page.locator("#reveal-class")).to_be_visible()

    theirs = chromium.new_context(viewport={"width": 390, "height": 800})
    theirs.set_default_timeout(2 * WAIT)
    group = theirs.new_page()
    seen = watch(group)
    group.goto(link + "&tab=class")
    expect(group.locator("#class-code textarea, #class-code input")).to_have_value(code.inner_text())
    expect(group.locator("#reveal-class")).not_to_be_visible()
    group.locator("#group-name textarea, #group-name input").fill("<b>Owls</b>")
    group.locator("#join-class").click()
    expect(group.locator("#class-board")).to_contain_text("In the class: <b>Owls</b> (1)")
    expect(page.locator("#class-board")).to_contain_text("<b>Owls</b>")  # by itself, within seconds
    group.goto(link + "&tab=attack")
    for number in range(1, 4):
        expect(group.locator("#quiz-photo")).to_contain_text(f"{number} of 3: which of these")
        group.locator('#quiz-photo button[data-pick="1"]').click()
    expect(page.locator("#class-board")).to_contain_text("What the class predicted")
    expect(page.locator("#class-board")).to_contain_text("Which of four was a training photo?")
    seen.check()
    theirs.close()


def test_a_code_that_does_not_exist_shows_nothing(page, server):
    from playwright.sync_api import expect

    page.goto(server.url + "?class=ABCDEF&tab=class")
    expect(page.locator("#toast-body, .toast-body").first).to_contain_text("no longer exists")
    page.locator("#class-code textarea, #class-code input").fill("ABCDEF")
    page.locator("#group-name textarea, #group-name input").fill("Owls")
    page.locator("#join-class").click()
    expect(page.get_by_text("there is no class with this code").first).to_be_visible()
    expect(page.locator(".class-code")).to_have_count(0)
