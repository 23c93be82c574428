"""Strategies of finding all masks side by side, and what TinySAM's authors published of theirs."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from core.provenance import ROOT
from evaluation.everything import EverythingSettings
from experiments.everything.row import StrategyRow
from experiments.reporting.columns import size

PUBLISHED = ROOT / "results" / "published" / "everything.csv"
Key = tuple[int | None, int, float | None]
"""Of a strategy: points a side of the coarse grid (None: dense), of the dense grid, threshold (None: dense)."""

_OF_SEARCH = ("strategy", "points_per_side", "coarse_points_per_side", "high_score_thresh")
_THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh")
_MEASURED = (
    "mean best IoU",
    "AR@100",
    "AR@1000",
    "masks",
    "prompts",
    "seconds",
    "time to dense",
    "peak memory",
)
_PUBLISHED = ("*published mIoU*", "*published seconds*", "*published time to dense*")


@dataclass(frozen=True)
class Published:
    """What the paper says of a strategy: mIoU in 0..1, and seconds a picture on its own accelerator."""

    miou: float
    seconds: float
    note: str


@cache
def published() -> dict[Key, Published]:
    """The published strategies in the paper's order; none in an installed copy, which carries no results."""
    if not PUBLISHED.is_file():
        return {}
    found: dict[Key, Published] = {}
    with open(PUBLISHED, encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
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


def _key(row: StrategyRow) -> Key:
    return (*row.sides, row.threshold)


def strategies_table(rows: Sequence[StrategyRow]) -> str:
    """One table a model and data set, as Markdown, in the paper's order; strategies it does not have come last."""
    groups: dict[tuple[Any, ...], list[StrategyRow]] = {}
    for row in rows:
        groups.setdefault(_conditions(row), []).append(row)
    return "\n\n".join(_table(group) for group in groups.values())


def _table(rows: Sequence[StrategyRow]) -> str:
    order = list(published())
    rows = sorted(rows, key=lambda row: order.index(_key(row)) if _key(row) in order else len(order))
    varied = [key for key in rows[0].settings if key not in _OF_SEARCH and len({r.settings[key] for r in rows}) > 1]
    notes = sorted({published()[_key(row)].note for row in rows if _key(row) in published()})
    remark = f" *Published*: {'; '.join(notes)}; its level does not compare." if notes else ""
    dense = {row.sides[1]: row for row in rows if row.sides[0] is None}
    slowest = dense[max(dense)] if dense else None
    names = ["strategy", *(f"`{key}`" for key in varied), *_MEASURED, *(_PUBLISHED if notes else ())]
    lines = [f"{conditions(rows[0], varied)}{remark}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [
            _name(_key(row)),
            *(str(row.settings[key]) for key in varied),
            *(f"{value:.4f}" for value in (row.mean_best_iou, row.average_recall_100, row.average_recall_1000)),
            f"{row.proposals:.1f}",
            f"{row.prompts:,.0f}",
            f"{_seconds(row):.3g}",
            "" if slowest is None else f"{_seconds(row) / _seconds(slowest):.2f}",
            size(row.peak_memory_bytes),
            *(_published_cells(_key(row)) if notes else ()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(row: StrategyRow) -> float:
    return row.seconds if row.processor_seconds is None else row.processor_seconds


def _published_cells(key: Key) -> list[str]:
    if key not in published():
        return ["", "", ""]
    line = published()[key]
    dense = next(of_dense for (coarse, _, _), of_dense in published().items() if coarse is None)
    return [f"*{line.miou:.4f}*", f"*{line.seconds:.4f}*", f"*{line.seconds / dense.seconds:.2f}*"]


def conditions(row: StrategyRow, varied: Sequence[str] = ()) -> str:
    """What a table was measured on, in a line.

    Args:
        varied: settings that are columns of their own.
    """
    kept = "".join(f"`{key}` {row.settings[key]}; " for key in _THRESHOLDS if key not in varied)
    part = "" if row.split is None else f" ({row.split})"
    of_processor = "" if row.processor_seconds is None else " of the processor's time"
    return (
        f"`{row.model}`, protocol `{row.protocol}` on `{row.data}`{part}, {row.instances:,} instances in "
        f"{row.images:,} images; {kept}{row.device}, {row.precision}, {_threads(row.threads)}; masks and prompts a "
        f"picture on average, median seconds{of_processor} a picture."
    )


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _conditions(row: StrategyRow) -> tuple[Any, ...]:
    """What rows of one table have in common."""
    return row.model, row.checkpoint, row.data, row.images, row.instances, row.device, row.threads, row.precision


def print_sweep(rows: Sequence[object]) -> None:
    """After a sweep: its strategies in tables, if there are any."""
    strategies = [row for row in rows if isinstance(row, StrategyRow)]
    if strategies:
        print(f"\n{strategies_table(strategies)}")
