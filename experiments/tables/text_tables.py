"""A table of cells as CSV, Markdown or LaTeX, whatever the cells hold."""

import csv
import io
from collections.abc import Sequence

Cell = str | int | float | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """RFC 4180: numbers as they are; words that a spreadsheet would take for a formula behind a quote."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _harmless(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; the first column to the left, numbers to the right."""
    right = numeric_columns(header, rows)
    lines = [header, ["--:" if number else "---" for number in right], *rows]
    return "\n".join(
        "| " + " | ".join(cells if place == 1 else map(markdown_escaped, cells)) + " |"
        for place, cells in enumerate(lines)
    )


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
