"""Figures that prose quotes from the tables of committed rows, and whether they still say what the prose says.

A figure stands between ``<!-- cell:TABLE; KEY; ...; COLUMN; SAYS -->`` and ``<!-- /cell -->``: of the table named, the
one line that has all keys among its cells, and its cell below COLUMN. SAYS is what the sentence makes of it: ``above``
and ``below`` where the 95 % interval lies on that side of 0, ``undecided`` where it holds 0, ``value`` where the
figure alone is quoted.
"""

import re
from collections.abc import Callable, Iterator

from core.errors import InputError

_MARKED = re.compile(r"(<!-- cell:([^;>]+); (.+?) -->).*?(<!-- /cell -->)", re.DOTALL)
_INTERVAL = re.compile(r"\[([+-]?[0-9.]+), ([+-]?[0-9.]+)\]")
_SAYS = ("above", "below", "undecided", "value")


def with_quotes(text: str, table: Callable[[str], str]) -> str:
    """A page with its quoted figures made anew.

    Args:
        table: the Markdown of a table, by its name.

    Raises:
        InputError: no line or several have the keys, or the rows no longer say what the sentence does.
    """

    def quote(marks: re.Match[str]) -> str:
        *keys, column, says = (part.strip() for part in marks[3].split(";"))
        if says not in _SAYS:
            raise InputError(f"{marks[1]} ends with one of {', '.join(_SAYS)}; it ends with {says!r}")
        found = quoted(table(marks[2]), keys, column, marks[1])
        if says != "value" and says != verdict(found):
            raise InputError(f"{marks[1]}: the rows say {found}, which is {verdict(found)}; change the sentence")
        return f"{marks[1]}{found}{marks[4]}"

    return _MARKED.sub(quote, text)


def quoted(table: str, keys: list[str], column: str, mark: str) -> str:
    """The cell below a column of the one line that has all keys among its cells, without emphasis.

    Raises:
        InputError: no line or several are such.
    """
    found = [line[column] for line in _lines(table) if column in line and set(keys) <= {*line.values()}]
    if len(found) != 1:
        raise InputError(f"{mark}: {len(found) or 'no'} lines have the keys {'; '.join(keys)} and the column {column}")
    return found[0]


def verdict(cell: str) -> str:
    """What the interval of a cell says of its difference: ``above`` 0, ``below`` it, or ``undecided``.

    Raises:
        InputError: the cell has no interval.
    """
    interval = _INTERVAL.search(cell)
    if interval is None:
        raise InputError(f"{cell!r} has no interval; quote it as a value")
    low, high = interval[1], interval[2]
    if float(low) == float(high) == 0:
        return "undecided"
    # A bound that is shown as +0.0 or -0.0 lies on that side of 0.
    above = float(low) > 0 or (float(low) == 0 and low.startswith("+"))
    below = float(high) < 0 or (float(high) == 0 and high.startswith("-"))
    return "above" if above else "below" if below else "undecided"


def _lines(text: str) -> Iterator[dict[str, str]]:
    """The lines of all Markdown tables in a text, by column; a column without a name has its number."""
    header: list[str] | None = None
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith("|"):
            header = None
        elif following.startswith("|--") or following.startswith("|:-"):
            header = [name or str(number) for number, name in enumerate(_cells(line))]
        elif header is not None and not line.startswith(("|--", "|:-")):
            yield dict(zip(header, _cells(line), strict=True))


def _cells(line: str) -> list[str]:
    return [cell.replace("**", "").strip(" *`") for cell in line.strip().strip("|").split("|")]
