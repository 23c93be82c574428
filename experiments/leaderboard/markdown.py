"""``leaderboard.md``: tables to read, by data set and protocol, and every row with its exact figures."""

from collections.abc import Sequence

from experiments.leaderboard.folding import Entry, Leaderboard, cell
from experiments.leaderboard.pareto import on_front
from experiments.report import POCKET_NOTE
from experiments.tables.formats import HOW_TO_READ, markdown_lines, tables
from experiments.tables.row import MEASURED
from experiments.tables.rows import measured_first
from experiments.tables.text_tables import markdown_table

FILE = "leaderboard.md"
FRONT = "◆"
POCKET = "sam_pocket"
EXACT = (
    *("source", "model", "seed", "status", "reason", "miou", "miou_point", "ap", "parameters", "macs_full"),
    *("macs_modules", "macs_full_scaled_by_bits", "size_bytes", "encoder_latency_ms", "images_seen", "device"),
    *("precision", "instances", "images", "paper", "run_id", "result_file"),
)
"""Columns of the exact rows; ``leaderboard.csv`` has all."""


def markdown_of(board: Leaderboard, command: str) -> str:
    """The whole page.

    Args:
        command: what makes it anew.
    """
    lines = measured_first(model.line for model in board.models)
    best = dict.fromkeys(on_front(board.models), FRONT)
    parts = ["# Leaderboard", f"{counted(board.entries)} Made by `{command}`. {HOW_TO_READ}"]
    parts.append(
        f"Scores are means over seeds ± standard deviation. {FRONT} marks the models that none with the same "
        "conditions and no more multiply-accumulates beats (counter `full`, or the one that is known)."
    )
    for title, table in tables(lines):
        parts += [f"## {title}", *_note([line.teacher for line in table]), markdown_lines(table, best)]
    parts += ["## Every row", "Raw figures, as in `leaderboard.csv`, which has every column."]
    for title, entries in _by_conditions(board.entries).items():
        parts += [
            f"<details><summary>{title.replace('&', '&amp;').replace('<', '&lt;')}: {len(entries)}</summary>",
            *_note([entry.columns["teacher"] for entry in entries]),
            _exact(entries),
            "</details>",
        ]
    return "\n\n".join(parts) + "\n"


def counted(entries: Sequence[Entry]) -> str:
    """One sentence: how many rows there are, of which kind, and when the newest was measured."""
    measured = [entry for entry in entries if entry.columns["source"] == MEASURED]
    failed = sum(entry.columns["status"] == "failed" for entry in measured)
    newest = max((entry.columns["utc"] for entry in measured if entry.columns["utc"]), default=None)
    kinds = [f"{len(measured) - failed:,} measured", f"{len(entries) - len(measured):,} published"]
    kinds += [f"{failed:,} of failed runs"] if failed else []
    return f"{len(entries):,} rows: {', '.join(kinds)}{f'; the newest of {newest[:10]}' if newest else ''}."


def _note(teachers: Sequence[str | None]) -> list[str]:
    return [f"`{POCKET}` is of {POCKET_NOTE}."] if POCKET in teachers else []


def _by_conditions(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        about = [entry.columns["data"] or "no data set", entry.columns["protocol"] or "no protocol"]
        found.setdefault(", ".join(about), []).append(entry)
    return dict(sorted(found.items()))


def _exact(entries: Sequence[Entry]) -> str:
    columns = [name for name in EXACT if any(entry.columns[name] is not None for entry in entries)]
    return markdown_table(columns, [[_text(entry.columns[name]) for name in columns] for entry in entries])


def _text(value: object) -> str:
    found = cell(value)
    return "" if found is None else str(found)
