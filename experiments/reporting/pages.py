"""One HTML page in one file: style, scripts and images are inside, and nothing may be fetched."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent


@cache
def _templates() -> jinja2.Environment:
    """The templates beside this file; what is put into them is text, never markup."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A number that is not finite is no JSON.
    found.globals["zip"] = zip
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    return found


def render(template: str, title: str, styles: Sequence[str], scripts: Sequence[str] = (), **values: Any) -> str:
    """A whole document.

    Args:
        template: its file beside this one; it extends ``page.html.j2``.
        styles: style sheets beside this file.
        scripts: JavaScript, run in order after the body.
        values: what the template shows.
    """
    sheets = [source(name) for name in styles]
    code = [Markup(script) for script in scripts]
    made = _templates().get_template(template).render(title=title, styles=sheets, scripts=code, **values)
    # Half a character, as JSON and file names may hold, cannot be written as UTF-8.
    return made.encode("utf-8", "replace").decode()


@cache
def source(name: str) -> Markup:
    """A style sheet or script that lies beside this file."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


def link(path: Path, at: Path) -> str:
    """The address of a file in a page in the folder ``at``; a colon or a question mark in a name is a part of it."""
    relative = os.path.relpath(path, at).replace(os.sep, "/")
    return quote(relative.encode("utf-8", "surrogateescape"), safe="/.-_~+")
