"""A headless Chromium for pages that were made, shared by all tests of a process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pages.example_site import PHONE, WIDE, Site

__all__ = ["PHONE", "WIDE"]

Opened = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium; tests are skipped where it or playwright is missing."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no chromium on the path (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (sampress[test])")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def opened(browser: Any) -> Opened:
    """Open a file: ``with opened(path, viewport=PHONE, color_scheme="dark") as page``.

    Whatever the browser complains of, and every request for something outside the file, fails the test at the end.
    """

    @contextmanager
    def open_file(path: Path, viewport: dict[str, int] | None = None, **options: Any) -> Iterator[Any]:
        address = path.resolve().as_uri()
        context = browser.new_context(viewport=viewport or WIDE, **options)
        try:
            page, troubles = context.new_page(), list[str]()
            page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.split("#")[0] == address or request.url.startswith(("data:", "blob:"))
                    else troubles.append(f"request: {request.url}")
                ),
            )
            page.goto(address)
            yield page
            assert not troubles
        finally:
            context.close()

    return open_file


@pytest.fixture(scope="module")
def site(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The example in a browser alone, without runtime and model."""
    made = Site(tmp_path_factory.mktemp("browser") / "site", browser)
    yield made
    made.close()
