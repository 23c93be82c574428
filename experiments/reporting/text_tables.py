"""A table of cells as CSV, Markdown or LaTeX, whatever the cells hold."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "{}_%&#$"},
}


def csv_lines(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file by column, as text; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """RFC 4180: numbers as they are, mappings as JSON, words that a spreadsheet would take for formulas behind a quote.

    ``pandas.DataFrame.to_csv`` would write whole numbers of a column with gaps as 1.0.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_csv_cell(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    value = plain_cell(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def plain_cell(value: Any) -> Any:
    """A value for a cell: mappings as JSON, truth as a word."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; the first column to the left, numbers to the right."""
    right = numeric_columns(header, rows)
    head, *body = (_markdown_line(map(markdown_escaped, cells)) for cells in (header, *rows))
    return "\n".join([head, _markdown_line("--:" if number else "---" for number in right), *body])


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose cells are Markdown themselves, every column to the left."""
    return "\n".join([_markdown_line(header), "|---" * len(header) + "|", *map(_markdown_line, rows)])


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_escaped(text: str) -> str:
    """Text that stays one cell, and stays text."""
    for sign, instead in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(sign, instead)
    return " ".join(text.split())


def latex_table(header: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]]) -> str:
    r"""A ``tabular`` of the package ``booktabs``; a rule stands between blocks of rows."""
    right = numeric_columns(header, [row for block in blocks for row in block])
    columns = "".join("r" if number else "l" for number in right)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(header)]
    for block in blocks:
        lines += [r"\midrule", *map(_latex_line, block)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_escaped, cells)) + r" \\"


def latex_escaped(text: str) -> str:
    """Text in which no sign has a meaning to LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def numeric_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold numbers, with or without a unit, and so stand to the right."""
    return [
        any(row[place] for row in rows) and all(row[place][:1] in "+-0123456789" for row in rows)
        for place in range(len(header))
    ]
