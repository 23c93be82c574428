"""Every row that was measured here, and what papers say, gathered once for the CSV, the Markdown and the page."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from core.provenance import ROOT
from core.result import ResultRow
from evaluation.baselines import BASELINES
from experiments.leaderboard.columns import LEADERBOARD_COLUMNS, measured_columns, published_columns
from experiments.leaderboard.sources import Source, sources
from experiments.tables.published_figures import FIGURES, published_rows
from experiments.tables.row import TableRow
from experiments.tables.rows import is_scored, lines_with_rows, settings_of_runs, with_images_seen
from experiments.tables.text_tables import Cell, csv_text

FILE = "leaderboard.csv"
# What differs between two measurements of one and the same comparison.
_OF_A_RUN = ("run_id", "git_sha", "seed", "encoder_latency_ms", "decoder_latency_ms", "peak_memory_bytes")


@dataclass(frozen=True)
class Entry:
    """A line of ``leaderboard.csv``.

    Attributes:
        columns: raw values by the names of :data:`LEADERBOARD_COLUMNS`, in their order; None is unknown.
        origin: the file it was read from; None of a published figure.
    """

    columns: Mapping[str, Any]
    origin: Source | None = None

    def to_dict(self) -> dict[str, Any]:
        """The columns by name."""
        return dict(self.columns)


@dataclass(frozen=True)
class Model:
    """A model over its seeds, or as a paper has it: what a plot and a readable table show.

    Attributes:
        line: its line of a comparison table.
        entries: the places of its rows in :attr:`Leaderboard.entries`.
    """

    line: TableRow
    entries: tuple[int, ...]


@dataclass(frozen=True)
class Leaderboard:
    """All of it.

    Attributes:
        entries: measured ones in the order of their files, then published ones.
        models: in the order of comparison tables; a row without a score, as of a failed run, is of none.
    """

    entries: list[Entry]
    models: list[Model]


def fold(runs: Path, results: bool = True, published: bool = True) -> Leaderboard:
    """Write ``leaderboard.csv`` anew, atomically, unless there is no row; returns what is in it.

    Args:
        runs: folder of runs.
        results, published: whether the committed rows and the published figures are in it.
    """
    board = gather(runs, results, published)
    if board.entries:
        write_text(runs / FILE, csv_of(board.entries))
    return board


def gather(runs: Path | None, results: bool = True, published: bool = True) -> Leaderboard:
    """Read every file; a comparison that many runs made equally is there once, and so is a copied row."""
    files = list(sources(runs, results))
    read = [(source, row) for source in files for row in source.rows]
    # Told apart by identity below, so the rows are put into lines as they will be listed.
    known = with_images_seen([row for _, row in read])
    lines = lines_with_rows([row for row in known if is_scored(row)], settings_of_runs(files))
    place = {id(row): number for number, (_, rows) in enumerate(lines) for row in rows}
    entries: list[Entry] = []
    behind: dict[int, list[int]] = {}
    seen: set[Hashable] = set()
    for (source, row), same in zip(read, known, strict=True):
        key = _content(row)
        if key in seen:
            continue
        seen.add(key)
        number = place.get(id(same))
        told = {**source.told, "result_file": source.shown}
        if number is not None:
            behind.setdefault(number, []).append(len(entries))
        entries.append(Entry(measured_columns(row, told, None if number is None else lines[number][0]), source))
    models = [Model(line, tuple(behind[number])) for number, (line, _) in enumerate(lines) if number in behind]
    for line in published_rows() if published else []:
        models.append(Model(line, (len(entries),)))
        entries.append(Entry(published_columns(line, FIGURES.relative_to(ROOT).as_posix())))
    return Leaderboard(entries, models)


def _content(row: ResultRow) -> Hashable:
    """What makes two rows one: everything, or of a comparison everything but what another run of it changes."""
    comparison = row.method in (*BASELINES, "teacher")
    values = [value for name, value in vars(row).items() if not comparison or name not in _OF_A_RUN]
    return tuple(json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for value in values)


def csv_of(entries: Iterable[Entry]) -> str:
    """The lines, under a header: numbers as Python writes them, so that reading back gives the same ones."""
    return csv_text(LEADERBOARD_COLUMNS, [[cell(value) for value in entry.columns.values()] for entry in entries])


def cell(value: Any) -> Cell:
    """A raw value for a cell: mappings as JSON, truth as a word."""
    if value is None or type(value) in (str, float, int):
        return value
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value


def of_conditions(models: Sequence[Model]) -> dict[tuple[Hashable, ...], list[Model]]:
    """Models whose figures compare: equal data, protocol, choices and counts; published ones by themselves."""
    found: dict[tuple[Hashable, ...], list[Model]] = {}
    for model in models:
        line = model.line
        key = (line.data, line.protocol, line.kind, line.instances, line.images, line.detections, line.choices)
        found.setdefault(key, []).append(model)
    return found
