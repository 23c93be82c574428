"""The command ``table``: measured rows and published figures, in one table for each data set and protocol."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import home_path
from experiments.config.messages import nearest
from experiments.config.schema import TableConfig
from experiments.config.typed_command import typed_command
from experiments.out_place import writing_to
from experiments.tables.formats import csv_format, latex_format, markdown_format
from experiments.tables.published_figures import published_rows
from experiments.tables.row import TableRow
from experiments.tables.rows import gathered_rows, measured_first, table_rows
from experiments.tables.terminal import print_tables

_TYPED = ("runs", "results", "protocol", "dataset", "format")
NONE = "none"
"""``runs=none``: committed rows alone."""


def table(settings: TableConfig, cfg: DictConfig) -> list[TableRow]:
    """Put every row into its table, and print or write it."""
    rows = chosen_rows(settings)
    if settings.format == "json" and settings.out is None:
        # Whoever called prints them.
        return rows
    if settings.format == "table" and settings.out is None:
        # Straight to the terminal, whose width and colours are used.
        print_tables(rows)
        return rows
    text = rendered(rows, settings)
    if settings.out is None:
        sys.stdout.write(text)
        return rows
    with writing_to(settings.out):
        write_text(home_path(settings.out), text)
    return rows


def chosen_rows(settings: TableConfig) -> list[TableRow]:
    """The lines that the settings ask for, each table's measured ones first.

    Raises:
        InputError: there are none, or none of the protocol or data set that is asked for.
    """
    runs = None if settings.runs == NONE else Path(settings.runs)
    if runs is not None and not runs.is_dir() and settings.runs != TableConfig.runs:
        raise InputError(f"runs={settings.runs}: no such folder; give a folder of runs, or runs={NONE}")
    rows = [*table_rows(*gathered_rows(runs, settings.results)), *published_rows()]
    for key, wanted in (("protocol", settings.protocol), ("data", settings.dataset)):
        known = list(dict.fromkeys(getattr(row, key) for row in rows))
        if wanted is not None and rows:
            rows = [row for row in rows if wanted in (getattr(row, key), getattr(row, key).partition("@")[0])]
            if not rows:
                raise InputError(f"{key}={wanted}: no row has it; {nearest(wanted, known)}")
    if not rows:
        raise InputError(f"runs={settings.runs}: no row there; start a run with method=slimsam ratio=0.77")
    return measured_first(rows)


def rendered(rows: Sequence[TableRow], settings: TableConfig) -> str:
    """The rows in the format that is asked for."""
    command = typed_command("table", settings, _TYPED)
    if settings.format == "csv":
        return csv_format(rows)
    if settings.format == "markdown":
        return markdown_format(rows, command)
    if settings.format == "latex":
        return latex_format(rows, command)
    if settings.format == "json":
        return json.dumps({"rows": [row.to_dict() for row in rows]}, allow_nan=False) + "\n"
    stream = io.StringIO()
    print_tables(rows, stream)
    return stream.getvalue()
