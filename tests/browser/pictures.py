"""Pictures of every tab of a running app: `python -m tests.browser.pictures http://127.0.0.1:7860 shots`.

Writes each tab light, dark and on a telephone, whole, to be looked at before a release. With `--docs` it writes only
those that README shows, into docs/images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.browser.conftest import ARGUMENTS, CHROMIUM

TABS = ("story", "target", "sp-set", "finetune", "attack", "extraction", "compare", "defend", "report", "class")
MODES = {"light": (1280, ""), "dark": (1280, "&__theme=dark"), "phone": (390, "")}
SETTLE = 6000  # milliseconds until a tab has drawn, on a busy machine too
# What README shows: tab, theme, what the picture begins with ("" for the top of the page), its height in pixels.
IN_README = {
    "app": ("story", "light", "", 800),
    "membership": ("attack", "light", "#headline", 700),
    "extraction": ("extraction", "dark", "#extraction-headline", 640),
    "compare": ("compare", "light", "#effects", 640),
}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"


def picture(browser, base: str, tab: str, mode: str, path: Path, part: tuple[str, int] | None = None) -> None:
    """One tab with its prediction skipped: whole, or the `part` that begins with an element, so many pixels high."""
    width, query = MODES[mode]
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"{base}?tab={tab}{query}")
    page.wait_for_timeout(SETTLE)
    for skip in ("#quiz-skip", "#quiz-skip-extraction"):
        if page.locator(skip).is_visible():
            page.locator(skip).click()
            page.wait_for_timeout(SETTLE)
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    clip = None
    if part is not None:
        first, height = part
        top = page.locator(first).first.bounding_box()["y"] - 4 if first else 0
        clip = {"x": 0, "y": top, "width": width, "height": height}
    page.screenshot(path=path, full_page=True, clip=clip)
    page.close()
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("shots"))
    parser.add_argument("--docs", action="store_true", help="only the pictures of README, into docs/images")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    base = given.url.rstrip("/") + "/"
    folder = DOCS if given.docs else given.folder
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        if given.docs:
            for name, (tab, mode, *part) in IN_README.items():
                picture(browser, base, tab, mode, folder / f"{name}.png", tuple(part))
        else:
            for mode in MODES:
                for tab in TABS:
                    picture(browser, base, tab, mode, folder / f"{mode}-{tab}.png")
        browser.close()


if __name__ == "__main__":
    main()
