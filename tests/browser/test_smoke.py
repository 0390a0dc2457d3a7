"""The page opens in a browser, draws, and reacts. Half a minute; the rest is `pytest -m browser`."""

from s2l.lab.people import CELEBRITY_NAMES


def test_the_page_opens_and_a_person_is_picked(page):
    from playwright.sync_api import expect

    expect(page.locator("#people img")).to_have_count(4, timeout=60_000)
    expect(page.locator("#photos img").first).to_be_visible()
    page.locator(f'#people [data-name="{CELEBRITY_NAMES[2]}"]').click()
    expect(page.locator("#prompt textarea")).to_have_value(f"a photo of {CELEBRITY_NAMES[2]}")
    expect(page.locator("#photos")).to_contain_text(f"{CELEBRITY_NAMES[2]} too, from the same source")
    expect(page.locator("#photos img").first).to_have_attribute("alt", f"member photo 1 of {CELEBRITY_NAMES[2]}")
    page.locator("#prompt textarea").fill(f"a photo of {CELEBRITY_NAMES[2]} riding a unicorn")
    expect(page.locator("#words mark")).to_have_count(2)  # "riding" and "unicorn"
