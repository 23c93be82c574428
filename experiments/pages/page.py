"""One HTML page in one file: style, scripts and pictures are inside, and nothing may be fetched."""

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# The browser itself refuses every request: a page opened from disk shows what is in the file.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def page(
    title: str,
    body: str,
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    styles: Sequence[str] = (),
) -> str:
    """A whole document.

    Args:
        title: plain text.
        body: HTML; whoever made it has escaped what came from files (:func:`text`).
        scripts: JavaScript sources, run in order after the body.
        data: values that scripts read with ``JSON.parse(document.getElementById(key).textContent)``.
        styles: style sheets that follow ``style.css``.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        # Browsers otherwise ask for /favicon.ico.
        '<link rel="icon" href="data:,">',
        f"<title>{text(title)}</title>",
        *(f"<style>\n{sheet}</style>" for sheet in (source("style.css"), *styles)),
        "</head>",
        "<body>",
        body,
        *(
            f'<script type="application/json" id="{text(key)}">{as_json(value)}</script>'
            for key, value in (data or {}).items()
        ),
        *(f"<script>\n{script}</script>" for script in scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def text(value: object) -> str:
    """Any value as text that HTML shows as it is, in elements and in quoted attributes."""
    # Half a character, as JSON and file names may hold, cannot be written as UTF-8.
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def as_json(value: object) -> str:
    """JSON that may stand inside a script element: no string in it can end that element.

    Raises:
        ValueError: a number is not finite.
    """
    content = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return content.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def source(name: str) -> str:
    """A style sheet or script that lies beside this file."""
    return (HERE / name).read_text(encoding="utf-8")
