"""How help is set: two columns, at most a hundred characters a line."""

import re
import textwrap
from collections.abc import Iterable

WIDTH = 100


def columns(rows: Iterable[tuple[str, str]], left: int = 22) -> str:
    """Names and what they are, aligned; a long line goes on below itself, a long name has a line of its own.

    Args:
        left: width of the names.
    """
    lines = []
    for name, text in rows:
        first = f"  {name:<{left}}  "
        if len(name) > left:
            lines.append(f"  {name}")
            first = " " * (left + 4)
        lines.append(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=" " * (left + 4)) or first)
    return "\n".join(line.rstrip() for line in lines)


def single_lines(rows: Iterable[tuple[str, str]], most: int = 22) -> str:
    """Names and what they are, one line each: a text that is too long ends where a part of it does.

    Args:
        most: width of the names; longer ones push their own text to the right.
    """
    rows = list(rows)
    left = min(max((len(name) for name, _ in rows), default=0), most)
    lines = [(f"  {name:<{left}}  ", text) for name, text in rows]
    return "\n".join(f"{name}{_clipped(text, WIDTH - len(name))}".rstrip() for name, text in lines)


def _clipped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    ends = [match.start() for match in re.finditer(r"[,;:] | \(", text[: width + 1])]
    return text[: ends[-1]] if ends and ends[-1] > width // 2 else textwrap.shorten(text, width, placeholder=" ...")


def paragraph(text: str, indent: int = 0) -> str:
    """Words, filled."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def listed(names: Iterable[str]) -> str:
    """Names with commas, indented and filled; none is broken."""
    return textwrap.fill(
        ", ".join(names),
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
