"""An image of a page, as ``docs/leaderboard.png`` is made: ``python -m tests.pages.screenshot PAGE IMAGE``."""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open a page in Debian's Chromium and save what is seen of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--size", default="1280x1100", help="of the window, in CSS pixels")
    parser.add_argument("--dark", action="store_true")
    chosen = parser.parse_args()
    width, height = map(int, chosen.size.split("x"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if chosen.dark else "light"
        )
        page.goto(chosen.page.resolve().as_uri())
        page.wait_for_load_state("load")
        page.screenshot(path=chosen.image, animations="disabled")
        browser.close()


if __name__ == "__main__":
    main()
