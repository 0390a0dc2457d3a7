"""Pictures of every tab of a running app: `python -m tests.browser.pictures http://127.0.0.1:7860 shots`.

Writes each tab light, dark and on a telephone, whole, to be looked at before a release. With `--docs` it writes only
those that README shows, into docs/images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.browser.conftest import ARGUMENTS, CHROMIUM

TABS = ("story", "target", "sp-set", "finetune", "attack", "extraction", "compare", "report")
MODES = {"light": (1280, ""), "dark": (1280, "&__theme=dark"), "phone": (390, "")}
SETTLE = 6000  # milliseconds until a tab has drawn, on a busy machine too
# What README shows: tab, theme, height in pixels of the part from the top.
IN_README = {"app": ("story", "light", 1060), "membership": ("attack", "light", 1400),
             "extraction": ("extraction", "dark", 1400), "compare": ("compare", "light", 1400)}  # fmt: skip
DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"


def picture(browser, base: str, tab: str, mode: str, path: Path, height: int | None = None) -> None:
    """One tab with its prediction skipped; the whole page, or its first `height` pixels."""
    width, query = MODES[mode]
    page = browser.new_page(viewport={"width": width, "height": height or 900})
    page.goto(f"{base}?tab={tab}{query}")
    page.wait_for_timeout(SETTLE)
    for skip in ("#quiz-skip", "#quiz-skip-extraction"):
        if page.locator(skip).is_visible():
            page.locator(skip).click()
            page.wait_for_timeout(SETTLE)
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=height is None)
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
            for name, (tab, mode, height) in IN_README.items():
                picture(browser, base, tab, mode, folder / f"{name}.png", height)
        else:
            for mode in MODES:
                for tab in TABS:
                    picture(browser, base, tab, mode, folder / f"{mode}-{tab}.png")
        browser.close()


if __name__ == "__main__":
    main()
