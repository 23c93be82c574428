"""docs/examples/browser, served for tests as ``python -m http.server`` serves it, and without any other network."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.provenance import ROOT

WIDE = {"width": 1400, "height": 1000}
PHONE = {"width": 390, "height": 844}
EXAMPLE = ROOT / "docs" / "examples" / "browser"
PAGE = ("index.html", "page.js", "sam.js")


class Site:
    """The example with a model beside it, served on this machine alone.

    Attributes:
        folder: what is served.
        requested: the paths that were requested.
    """

    def __init__(self, folder: Path, browser: Any) -> None:
        self.folder, self.browser, self.requested = folder, browser, list[str]()
        folder.mkdir()
        for name in PAGE:
            shutil.copy(EXAMPLE / name, folder)
        site = self

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *words: Any) -> None:
                site.requested.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def opened(self, query: str = "", script: str = "", viewport: Any = None, **options: Any) -> Iterator[Any]:
        """Open the page; a request for anything on another machine fails, and fails the test."""
        context = self.browser.new_context(viewport=viewport or WIDE, **options)
        foreign, troubles = list[str](), list[str]()
        # Requests of workers pass here too.
        context.route(lambda address: not address.startswith(self.address), lambda route: route.abort())
        context.on(
            "request",
            lambda request: (
                None if request.url.startswith((self.address, "blob:", "data:")) else foreign.append(request.url)
            ),
        )
        try:
            page = context.new_page()
            page.add_init_script(script)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            # The browser itself reports a missing file.
            page.on("console", lambda said: None if "404" in said.text else troubles.append(said.text))
            page.goto(f"{self.address}/index.html{query}")
            yield page
            assert not foreign and not troubles
        finally:
            context.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
