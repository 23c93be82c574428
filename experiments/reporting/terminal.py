"""Tables of models on a terminal: short columns, so that eighty characters are enough; other formats have all."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core.terminal import terminal
from experiments.reporting.columns import COLUMNS, MEASURED, POCKET_NOTE, pocket_teachers
from experiments.reporting.documents import blocks, lines_of, metric_title, tables
from experiments.reporting.models import COMPARISONS, CONDITIONS, Record
from experiments.reporting.results import Results

TABLE_EXPLAINED = (
    "±: standard deviation over seeds; S, M, L: by size; points: difference to the teacher under the same conditions; "
    "one pt: mIoU with one point; format=csv, markdown, latex and json have every column"
)
LEADERBOARD_EXPLAINED = (
    "score: mIoU with boxes, or AP, under the protocol; point: mIoU with one point; ±: over seeds; MACs by the counter "
    "full; encoder: its time over the teacher's, both in turns in one process; what papers say is in the files and in: "
    "python -m experiments table"
)
_COUNTED = ("instances", "detections", "images")
"""What a score rests on."""
_SIZES = ("small", "medium", "large")
_QUALITY = ("seeds", "score", "score_spread", *_SIZES, "to_teacher", "point", "point_to_teacher", "choices")
_COST = ("images_seen", "parameters", "macs_full", "macs_modules", "size_bytes", "encoder_latency_ratio")
_PUBLISHED = ("score", *_SIZES, "parameters", "macs_full", "macs_modules", "macs_full_scaled_by_bits")
_LEADERBOARD = {"score": 14, "point": 6, "parameters": 7, "macs_full": 7, "encoder_latency_ratio": 7}
"""Columns and their least widths: as wide in every table, so that they stand below each other."""


def print_tables(models: pd.DataFrame, stream: IO[str] | None = None) -> None:
    """For each table what was measured (quality, then cost), and in a block of its own what was published."""
    console = terminal(file=stream)
    for title, table in tables(models):
        console.print(f"\n{title}", style="bold")
        for kind, block in blocks(table):
            if kind == MEASURED:
                _print_measured(console, block)
                continue
            for source, of_source in groupby(block, lambda line: line["paper"]):
                console.print(f"published, not measured here: {source}", style="italic")
                console.print(_table(list(of_source), _PUBLISHED))
    console.print(f"\n{TABLE_EXPLAINED}", style="dim", soft_wrap=True)
    if pocket_teachers(models["teacher"]):
        console.print(POCKET_NOTE, style="italic")


def _print_measured(console: Console, block: Sequence[Record]) -> None:
    """Rows that rest on the same instances together, for only these compare."""
    for _, group in groupby(block, lambda line: [line[name] for name in _COUNTED]):
        alike = list(group)
        console.print(f"measured: {', '.join(_counts(alike[0]))}")
        console.print(_table(alike, _QUALITY))
        costly = [line for line in alike if line["parameters"] is not None]
        for device, of_device in groupby(sorted(costly, key=_device), _device):
            console.print(f"cost; time: the encoder's over the teacher's on {', '.join(device)}" if device else "cost")
            console.print(_table(list(of_device), _COST))


def _counts(line: Record) -> list[str]:
    return [f"{line[name]:,} {name}" for name in _COUNTED if line[name] is not None]


def _device(line: Record) -> list[str]:
    return [part for part in (line["device"], line["precision"]) if part]


def _short(line: Record, name: str) -> str:
    if name == "seeds":
        return f"s{line['seeds'][0]}" if len(line["seeds"]) == 1 else str(len(line["seeds"]) or "")
    if name in _SIZES:
        return "" if line[name] is None else f"{line[name]:.3f}"
    return COLUMNS[name].bare(line[name])


def _table(lines: Sequence[Record], names: Sequence[str]) -> Table:
    """The columns that say something."""
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim")
    table.add_column("model", overflow="fold")
    names = [name for name in names if any(_short(line, name) for line in lines)]
    for name in names:
        title = metric_title(lines) if name == "score" else COLUMNS[name].short
        words = name == "choices"
        table.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for line in lines:
        table.add_row(line["model"], *(_short(line, name) for name in names))
    return table


def print_leaderboard(found: Results, written: Sequence[Path] = (), runs: Path | None = None) -> None:
    """Print measured models, best first within their data set and protocol, then failed runs.

    Args:
        written: the files to name below the table.
        runs: where it holds rows, they alone are shown, with their teachers; the files have all.
    """
    console = terminal()
    every = found.models[found.models["source"] == MEASURED]
    measured = _of_runs(found, every, runs)
    for _, models in measured.groupby(list(CONDITIONS), dropna=False, sort=False):
        lines = lines_of(models)
        first = lines[0]
        parts = [first["data"], first["protocol"], *_counts(first), *([first["choices"]] if first["choices"] else [])]
        # Titles may hold markup.
        table = Table(
            show_edge=False, pad_edge=False, title=escape(", ".join(parts)), title_justify="left", title_style="bold"
        )
        table.add_column("model", overflow="fold", min_width=22)
        for name, width in _LEADERBOARD.items():
            title = {"score": "score", "point": "point", "macs_full": "MACs", "encoder_latency_ratio": "encoder"}
            table.add_column(title.get(name, COLUMNS[name].short), justify="right", no_wrap=True, min_width=width)
        for line in lines:
            seeds = line["seeds"]
            of = f", s{seeds[0]}" if len(seeds) == 1 else f", {len(seeds)} seeds" if seeds else ""
            table.add_row(Text(line["model"] + of), *(_figure(line, name) for name in _LEADERBOARD))
        console.print(table)
        console.print()
    for row in lines_of(found.rows[found.rows["status"] == "failed"]):
        console.print(" ".join(f"failed: {row['run_id']}: {row['reason']}".split()), soft_wrap=True)
    if len(measured) < len(every):
        console.print(f"{len(every) - len(measured)} more models, of results/, are in the files")
    console.print(LEADERBOARD_EXPLAINED, soft_wrap=True)
    if pocket_teachers(found.rows["teacher"]):
        console.print(POCKET_NOTE, style="italic", soft_wrap=True)
    if written:
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


def _figure(line: Record, name: str) -> str:
    spread = line["score_spread"] if name == "score" else None
    return (COLUMNS[name].shown(line[name]) or "-") + ("" if spread is None else f" ±{spread:.4f}")


def _of_runs(found: Results, models: pd.DataFrame, runs: Path | None) -> pd.DataFrame:
    """The models that have a row below a folder, and what these are compared with; all of them if there is none."""
    below = found.rows["path"].map(lambda path: runs is not None and path is not None and path.is_relative_to(runs))
    own = models["rows"].map(lambda places: any(below[place] for place in places)).astype(bool)
    if not own.any():
        return models
    shares = own.groupby([models[name] for name in CONDITIONS], dropna=False).transform("any")
    return models[own | (shares & models["method"].isin(COMPARISONS))]
