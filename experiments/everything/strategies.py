"""Strategies of finding all masks, scored: a row each, its file, and a table beside the paper's."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import read_json
from core.provenance import ROOT
from evaluation.everything import EverythingSettings
from experiments.out_place import writing_to
from experiments.reporting.columns import share, size
from experiments.reporting.text_tables import csv_lines, plain_table
from experiments.result_file import write_result

SCHEMA_VERSION = 1
PUBLISHED = ROOT / "results" / "published" / "everything.csv"
Key = tuple[int | None, int, float | None]
"""Of a strategy: points a side of the coarse grid (None: dense), of the dense grid, threshold (None: dense)."""
_AGAIN = "do it again with force=true"
_OF_SEARCH = ("strategy", "points_per_side", "coarse_points_per_side", "high_score_thresh")
_THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh")
_CONDITIONS = ("model", "checkpoint", "data", "images", "instances", "device", "threads", "precision", "runtime")
"""What rows of one table have in common."""
_MEASURED = ("mean best IoU", "AR@100", "AR@1000", "masks", "prompts", "seconds", "time to dense", "peak memory")
_PUBLISHED = ("*published mIoU*", "*published seconds*", "*published time to dense*")


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """What one strategy finds on one data set with one model, and what that takes. Raw numbers; None is unknown.

    Attributes:
        run_id: name of the file.
        checkpoint: as it was given; ``model`` is its name, ``method`` and ``ratio`` what made it.
        data: the data set scored on; ``split`` is the part of it.
        protocol: ``everything@1``: proposals of the full image against its instances, whatever their category.
        images, instances: what the figures rest on.
        mean_best_iou: over instances, the IoU of the best proposal; ``_low`` and ``_high`` are its 95 % interval, a
            bootstrap over images, None of a single one. Earlier rows have the normal one over instances
            (``results/README.md``).
        average_recall_100, average_recall_1000: COCO's, with so many best predicted proposals an image.
        proposals, prompts, encodings: an image, on average: masks found, point prompts, images or crops encoded.
        seconds: an image, encoding and everything else included; median over images.
        processor_seconds: the same of the processor's time, all threads together, which other work on the machine
            hardly changes; None where an accelerator computes.
        peak_memory_bytes: see :func:`evaluation.latency.peak_memory`; of the first image, weights included; None of
            exported files.
        threads: CPU threads that PyTorch may use for one operator.
        runtime: what ran exported files; None of a model that PyTorch ran as it is.
        settings: of :class:`evaluation.everything.EverythingSettings`.
        skipped: what was left out, or changed by rule, by reason (:data:`data.exclusions.REASONS`); None of earlier
            rows, which did not keep it.
    """

    run_id: str
    checkpoint: str
    model: str
    method: str | None
    ratio: float | None
    data: str
    split: str | None
    protocol: str
    images: int
    instances: int
    mean_best_iou: float
    mean_best_iou_low: float | None
    mean_best_iou_high: float | None
    average_recall_100: float
    average_recall_1000: float
    proposals: float
    prompts: float
    encodings: float
    seconds: float
    processor_seconds: float | None
    peak_memory_bytes: int | None
    device: str
    threads: int
    precision: str
    settings: dict[str, Any]
    git_sha: str | None
    runtime: str | None = None
    skipped: dict[str, int] | None = None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Every column in order, as plain values."""
        return dataclasses.asdict(self)

    @property
    def key(self) -> Key:
        """Which strategy it is."""
        dense = int(self.settings["points_per_side"])
        if self.settings["strategy"] == "dense":
            return None, dense, None
        coarse = self.settings["coarse_points_per_side"]
        return max(1, dense // 4) if coarse is None else int(coarse), dense, float(self.settings["high_score_thresh"])

    @property
    def time(self) -> float:
        """Seconds an image: the processor's, where they are known."""
        return self.seconds if self.processor_seconds is None else self.processor_seconds


def write_row(path: Path, row: StrategyRow, about: Mapping[str, Any]) -> None:
    """Write a row and what goes with it (settings, provenance), atomically, without what is personal.

    Raises:
        InputError: the file cannot be written.
    """
    with writing_to(path.parent):
        write_result(path, [row], about)


def read_row(path: Path) -> StrategyRow:
    """The row of a file that :func:`write_row` wrote.

    Raises:
        InputError: damaged, or of another version.
    """
    content = read_json(path, _AGAIN)
    try:
        row = StrategyRow(**content["rows"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: no row of the command everything ({error}); {_AGAIN}") from None
    if row.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: a row of version {row.schema_version!r}, this version reads {SCHEMA_VERSION}; {_AGAIN}"
        )
    return row


@dataclass(frozen=True)
class Published:
    """What the paper says of a strategy: mIoU in 0..1, and seconds an image on its own accelerator."""

    miou: float
    seconds: float
    note: str


@cache
def published() -> dict[Key, Published]:
    """The published strategies in the paper's order; none in an installed copy, which carries no results."""
    found: dict[Key, Published] = {}
    for line in csv_lines(PUBLISHED):
        coarse, threshold = line["coarse_points_per_side"], line["high_score_thresh"]
        key = int(coarse) if coarse else None, int(line["points_per_side"]), float(threshold) if threshold else None
        note = f"{line['source']}, {line['model']} on {line['device']}"
        found[key] = Published(float(line["miou"]), float(line["seconds"]), note)
    return found


def strategy_name(settings: EverythingSettings) -> str:
    """Such as ``dense 32`` or ``hierarchical 8/32 8.5``."""
    coarse = settings.coarse_side(0) if settings.strategy == "hierarchical" else None
    return _name((coarse, settings.points_per_side, None if coarse is None else settings.high_score_thresh))


def _name(key: Key) -> str:
    coarse, dense, threshold = key
    return f"dense {dense}" if coarse is None else f"hierarchical {coarse}/{dense} {threshold:g}"


def strategies_table(rows: Sequence[StrategyRow]) -> str:
    """One table a model and data set, as Markdown, in the paper's order; strategies it does not have come last."""
    groups: dict[tuple[Any, ...], list[StrategyRow]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in _CONDITIONS), []).append(row)
    return "\n\n".join(_table(group) for group in groups.values())


def _table(rows: Sequence[StrategyRow]) -> str:
    papers = published()
    order = list(papers)
    rows = sorted(rows, key=lambda row: order.index(row.key) if row.key in order else len(order))
    varied = [key for key in rows[0].settings if key not in _OF_SEARCH and len({r.settings[key] for r in rows}) > 1]
    notes = sorted({papers[row.key].note for row in rows if row.key in papers})
    remark = f" *Published*: {'; '.join(notes)}; its level does not compare." if notes else ""
    slowest = max((row for row in rows if row.key[0] is None), key=lambda row: row.key[1], default=None)
    lines = []
    for row in rows:
        cells = [_name(row.key), *(str(row.settings[key]) for key in varied)]
        cells += map(share, (row.mean_best_iou, row.average_recall_100, row.average_recall_1000))
        cells += [f"{row.proposals:.1f}", f"{row.prompts:,.0f}", f"{row.time:.3g}"]
        cells += [
            "" if slowest is None else f"{row.time / slowest.time:.2f}",
            "" if row.peak_memory_bytes is None else size(row.peak_memory_bytes),
        ]
        lines.append([*cells, *(_published_cells(row.key) if notes else ())])
    header = ["strategy", *(f"`{key}`" for key in varied), *_MEASURED, *(_PUBLISHED if notes else ())]
    return f"{_conditions(rows[0], varied)}{remark}\n\n{plain_table(header, lines)}"


def _published_cells(key: Key) -> list[str]:
    if key not in published():
        return ["", "", ""]
    line = published()[key]
    dense = next(of_dense for (coarse, _, _), of_dense in published().items() if coarse is None)
    return [f"*{line.miou:.4f}*", f"*{line.seconds:.4f}*", f"*{line.seconds / dense.seconds:.2f}*"]


def _conditions(row: StrategyRow, varied: Sequence[str]) -> str:
    """What a table was measured on, in a line; the settings ``varied`` are columns of their own."""
    kept = "".join(f"`{key}` {row.settings[key]}; " for key in _THRESHOLDS if key not in varied)
    part = "" if row.split is None else f" ({row.split})"
    of_processor = "" if row.processor_seconds is None else " of the processor's time"
    return (
        f"`{row.model}`, protocol `{row.protocol}` on `{row.data}`{part}, {row.instances:,} instances in "
        f"{row.images:,} images; {kept}{row.device}, {row.precision}, {row.threads} thread{'s' * (row.threads != 1)}; "
        f"masks and prompts an image on average, median seconds{of_processor} an image."
    )


def print_sweep(rows: Sequence[object]) -> None:
    """After a sweep: its strategies in tables, if there are any."""
    strategies = [row for row in rows if isinstance(row, StrategyRow)]
    if strategies:
        print(f"\n{strategies_table(strategies)}")
