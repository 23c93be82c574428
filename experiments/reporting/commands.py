"""The commands ``table`` and ``leaderboard``: measured rows and published figures, as tables and as a page."""

import io
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import home_path
from core.provenance import redact_paths
from experiments.config.files import nearest
from experiments.config.schema import OTHER_NAMES, CommandConfig, LeaderboardConfig, TableConfig
from experiments.config.words import typed_value
from experiments.out_place import writing_to
from experiments.reporting.columns import LEADERBOARD, LEADERBOARD_COLUMNS
from experiments.reporting.documents import (
    leaderboard_markdown,
    lines_of,
    measured_first,
    table_csv,
    table_latex,
    table_markdown,
    table_rows,
)
from experiments.reporting.leaderboard_page import FILE, leaderboard_page
from experiments.reporting.results import Results, csv_of, gather
from experiments.reporting.run_pages import FOLDER, write_pages
from experiments.reporting.terminal import print_leaderboard, print_tables
from experiments.runs.job import PlainRow

NONE = "none"
"""``runs=none``: committed rows alone."""


def _runs_of(settings: CommandConfig) -> Path | None:
    """The folder of runs, which need not be there where none was given; None for :data:`NONE`.

    Raises:
        InputError: there is no such folder.
    """
    if settings.runs == NONE:
        return None
    runs = Path(settings.runs)
    if not runs.is_dir() and settings.runs != CommandConfig.runs:
        raise InputError(f"runs={settings.runs}: no such folder; give a folder of runs, or runs={NONE}")
    return runs


def table(settings: TableConfig, cfg: DictConfig) -> list[PlainRow]:
    """Put every model into its table, and print or write it.

    Raises:
        InputError: there is no such folder, no row, or none of the chosen protocol or data set, or it cannot be
            written.
    """
    runs = _runs_of(settings)
    found = gather(runs, settings.results)
    if not len(found.models):
        raise InputError(f"runs={settings.runs}: no row there; start a run with method=slimsam ratio=0.77")
    models = measured_first(narrowed(found, settings.protocol, settings.dataset).models)
    rows = [PlainRow(row) for row in table_rows(models)]
    if settings.out is not None:
        with writing_to(settings.out):
            write_text(home_path(settings.out), rendered(models, settings))
    elif settings.format == "table":
        # Straight to the terminal, whose width and colours are used.
        print_tables(models)
    elif settings.format != "json":
        # Whoever called prints the rows as JSON.
        sys.stdout.write(rendered(models, settings))
    return rows


def rendered(models: pd.DataFrame, settings: TableConfig) -> str:
    """The models in the chosen format."""
    command = _typed_command("table", settings, ("runs", "results", "protocol", "dataset", "format"))
    match settings.format:
        case "csv":
            return table_csv(models)
        case "markdown":
            return table_markdown(models, command)
        case "latex":
            return table_latex(models, command)
        case "json":
            return json.dumps({"rows": table_rows(models)}, allow_nan=False) + "\n"
    stream = io.StringIO()
    print_tables(models, stream)
    return stream.getvalue()


def leaderboard(settings: LeaderboardConfig, cfg: DictConfig) -> list[PlainRow]:
    """Write CSV, Markdown and pages, and show the models; returns the rows.

    Raises:
        InputError: there is no such folder, no row, or none of the chosen protocol or data set, or nothing can be
            written.
    """
    runs = _runs_of(settings)
    out = runs if settings.out is None else home_path(settings.out)
    if out is None:
        raise InputError(f"runs={NONE}: leaves no folder to write to; give one with out=FOLDER")
    found = gather(runs, settings.results, settings.published)
    if not len(found.rows):
        raise InputError(f"runs={settings.runs}: no finished run there; start one with method=slimsam ratio=0.77")
    found = narrowed(found, settings.protocol, settings.dataset)
    keys = ("runs", "out", "results", "published", "protocol", "dataset", "pages")
    with writing_to(out):
        written = write_leaderboard(found, out, _typed_command("leaderboard", settings, keys), settings.pages)
    if settings.format == "table":
        print_leaderboard(found, written, runs)
    return [PlainRow(row) for row in lines_of(found.rows[list(LEADERBOARD_COLUMNS)])]


def write_leaderboard(found: Results, out: Path, command: str, pages: bool = True) -> list[Path]:
    """Write ``leaderboard.csv``, ``.md`` and ``.html``, each atomically, and the pages of single runs.

    Args:
        command: what makes them anew, as it is typed.
        pages: whether each run has a page of its own, linked from the table.

    Returns:
        The files, and the folder of the pages if there is one.
    """
    files = [out / LEADERBOARD, out / "leaderboard.md", out / FILE]
    write_text(files[0], csv_of(found.rows))
    write_text(files[1], leaderboard_markdown(found, command))
    addresses: dict[str, str] = {}
    if pages and found.rows["path"].notna().any():
        addresses = write_pages(found.rows, out)
        files.append(out / FOLDER)
    write_text(files[2], leaderboard_page(found, command, addresses))
    return files


def narrowed(found: Results, protocol: str | None, data: str | None) -> Results:
    """The rows and models of one protocol and one data set, if they are chosen.

    Args:
        protocol, data: a name, of a protocol with or without its version; None: all.

    Raises:
        InputError: no row has it, or none with a score.
    """
    for key, name in (("protocol", protocol), ("data", data)):
        if name is None:
            continue
        own = found.rows[key]
        chosen = own.map(lambda value, name=name: value is not None and name in (value, value.partition("@")[0]))
        if not chosen.any():
            raise InputError(f"{key}={name}: no row has it; {nearest(name, own.dropna().unique())}")
        moved = {old: new for new, old in enumerate(found.rows.index[chosen])}
        # Rows of a model share data set and protocol.
        models = found.models[found.models["rows"].map(lambda places, moved=moved: places[0] in moved).astype(bool)]
        if not len(models):
            raise InputError(f"{key}={name}: no row with a score has it; leave {key}= out to see all rows")
        rows = models["rows"].map(lambda places, moved=moved: tuple(moved[place] for place in places))
        found = Results(found.rows[chosen].reset_index(drop=True), models.assign(rows=rows).reset_index(drop=True))
    return found


def _typed_command(word: str, settings: CommandConfig, keys: Sequence[str]) -> str:
    """A command with the settings that are not as usual, as a shell takes it, without what is personal.

    Args:
        word: of the command.
        keys: of the settings that count.
    """
    usual, typed = type(settings)(), {name: key for key, name in OTHER_NAMES.get(word, {}).items()}
    words = ["python", "-m", "experiments", word]
    for key in keys:
        value = getattr(settings, key)
        if value != getattr(usual, key):
            shown = str(value).lower() if isinstance(value, bool) else typed_value(value)
            words.append(f"{typed.get(key, key)}={shown}")
    return shlex.join(redact_paths(words))
