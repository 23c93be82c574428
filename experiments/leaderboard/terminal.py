"""The leaderboard on a terminal: a line a model."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core.terminal import terminal
from evaluation.baselines import BASELINES
from experiments.leaderboard.folding import Leaderboard, Model, of_conditions
from experiments.report import POCKET_NOTE, count, milliseconds, points
from experiments.tables.row import MEASURED, TableRow

EXPLAINED = (
    "score: mIoU with boxes, or AP, under the protocol; point: mIoU with one point; ±: over seeds; MACs by the counter "
    "full; times hold for the device in the CSV; what papers say is in the files and in: python -m experiments table"
)


def print_leaderboard(board: Leaderboard, written: Sequence[Path] = (), runs: Path | None = None) -> None:
    """Print measured models, best first within their data set and protocol, then failed runs.

    Args:
        written: the files to name below the table.
        runs: where it holds rows, they alone are shown, with their teachers; the files have all.
    """
    console = terminal()
    every = [model for model in board.models if model.line.kind == MEASURED]
    measured = _of_runs(board, every, runs) or every
    for models in of_conditions(measured).values():
        table = _table(_title(models[0].line))
        for model in models:
            table.add_row(Text(_name(model.line)), *_figures(model.line))
        console.print(table)
        console.print()
    failed = [entry for entry in board.entries if entry.columns["status"] == "failed"]
    for entry in failed:
        said = f"failed: {entry.columns['run_id']}: {entry.columns['reason']}"
        console.print(" ".join(said.split()), soft_wrap=True)
    if len(measured) < len(every):
        console.print(f"{len(every) - len(measured)} more models, of results/, are in the files")
    console.print(EXPLAINED, soft_wrap=True)
    if any(entry.columns["teacher"] == "sam_pocket" for entry in board.entries):
        console.print(POCKET_NOTE, style="italic", soft_wrap=True)
    if written:
        console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True)


def _of_runs(board: Leaderboard, models: Sequence[Model], runs: Path | None) -> list[Model]:
    """The models that have a row below a folder, and the teachers and baselines they are compared with."""
    if runs is None:
        return []
    mine = {
        place
        for place, entry in enumerate(board.entries)
        if entry.origin is not None and entry.origin.path.is_relative_to(runs)
    }
    own = [model for model in models if mine & set(model.entries)]
    conditions = {key for key, group in of_conditions(own).items() if group}
    beside = ("teacher", *BASELINES)
    return [
        model
        for key, group in of_conditions(models).items()
        for model in group
        if model in own or (key in conditions and model.line.method in beside)
    ]


def _table(title: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, title=title, title_justify="left", title_style="bold")
    # As wide in every table, so that they stand below each other.
    table.add_column("model", overflow="fold", min_width=22)
    for name, width in (("score", 14), ("point", 6), ("params", 7), ("MACs", 7), ("encoder", 7)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    return table


def _title(line: TableRow) -> str:
    """Escaped, as titles may hold markup."""
    counts = (("instances", line.instances), ("detections", line.detections), ("images", line.images))
    parts = [f"{count:,} {name}" for name, count in counts if count is not None]
    return escape(", ".join([line.data, line.protocol, *parts, *([line.choices] if line.choices else [])]))


def _name(line: TableRow) -> str:
    seeds = f", s{line.seeds[0]}" if len(line.seeds) == 1 else f", {len(line.seeds)} seeds" if line.seeds else ""
    return line.model + seeds


def _figures(line: TableRow) -> list[str]:
    return [
        points(line.score) + ("" if line.score_spread is None else f" ±{line.score_spread:.4f}"),
        "-" if line.point is None else points(line.point),
        "-" if line.parameters is None else count(line.parameters),
        "-" if line.macs_full is None else count(line.macs_full),
        "-" if line.encoder_latency_ms is None else milliseconds(line.encoder_latency_ms),
    ]
