"""All rows of all runs in one CSV file, made anew from the result files each time."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.checkpoint import replacing
from core.errors import InputError
from core.result import COLUMNS, ResultRow
from experiments.report import count, milliseconds, points
from experiments.result_file import FAILED, NAME, read_rows

FILE = "leaderboard.csv"
_COMPARISONS = ("filled_box", "filled_ellipse", "teacher")
# What differs between two measurements of one and the same comparison.
_OF_A_RUN = ("run_id", "git_sha", "seed", "encoder_latency_ms", "decoder_latency_ms", "peak_memory_bytes")


def fold(runs: Path) -> list[ResultRow]:
    """Write ``leaderboard.csv`` from every run below a folder, atomically; returns its rows."""
    rows = collect(runs)
    if rows:
        # Here, because no other command waits for pandas.
        import pandas as pd

        frame = pd.DataFrame([row.to_dict() for row in rows], columns=list(COLUMNS), dtype=object)
        frame["skipped"] = [json.dumps(row.skipped, sort_keys=True) for row in rows]
        with replacing(runs / FILE) as temporary:
            frame.to_csv(temporary, index=False)
    return rows


def collect(runs: Path) -> list[ResultRow]:
    """The rows of every run, finished or failed, by run; a comparison that many runs made is there once."""
    rows: list[ResultRow] = []
    seen: set[str] = set()
    for folder in sorted(path for path in runs.glob("*") if path.is_dir()) if runs.is_dir() else []:
        path = next((folder / name for name in (NAME, FAILED) if (folder / name).is_file()), None)
        for row in readable_rows(path) if path else []:
            content = {key: value for key, value in row.to_dict().items() if key not in _OF_A_RUN}
            key = json.dumps(content, sort_keys=True)
            if row.method not in _COMPARISONS or key not in seen:
                rows.append(row)
            seen.add(key)
    return rows


def readable_rows(path: Path) -> list[ResultRow]:
    """A file's rows; one that cannot be read is named on standard error and left out."""
    try:
        return read_rows(path)
    except InputError as error:
        Console(stderr=True).print(f"left out: {error}", highlight=False, soft_wrap=True)
        return []


def print_leaderboard(rows: Sequence[ResultRow]) -> None:
    """Print the best-known figures of every row, best box mIoU first within a data set and a teacher."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("teacher", "data"):
        table.add_column(name)
    for name in ("box", "point", "params", "MACs", "encoder"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (row.data or "", row.teacher or "", -(row.miou or 0))):
        table.add_row(
            _model(row),
            row.teacher or "-",
            row.data or "-",
            "-" if row.miou is None else points(row.miou),
            "-" if row.miou_point is None else points(row.miou_point),
            "-" if row.parameters is None else count(row.parameters),
            "-" if row.macs_full is None else count(row.macs_full),
            "-" if row.encoder_latency_ms is None else milliseconds(row.encoder_latency_ms),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("mIoU with boxes and with one point; MACs by the counter full; times hold for the device in the CSV")


def _model(row: ResultRow) -> str:
    """Method, ratio and seed in one cell."""
    parts = [row.method.replace("_", " ")]
    parts += [] if row.ratio is None else [f"{row.ratio:g}"]
    parts += [] if row.seed is None else [f"s{row.seed}"]
    return " ".join([*parts, "failed"] if row.status == "failed" else parts)
