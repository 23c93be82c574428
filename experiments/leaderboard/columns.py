"""The columns of ``leaderboard.csv``: those of a result row, and what else is known of it."""

import re
from collections.abc import Mapping
from typing import Any

from core.result import COLUMNS, ResultRow
from experiments.tables.row import MEASURED, PUBLISHED, TableRow, model_label

MEANS = {
    "seeds": "seeds",
    "miou_mean": "miou",
    "miou_std": "miou",
    "ap_mean": "ap",
    "ap_std": "ap",
    "miou_point_mean": "point",
    "miou_point_std": "point",
    "to_teacher_points": "to_teacher",
    "point_to_teacher_points": "point_to_teacher",
}
"""Columns that are equal in all seeds of a model."""
TOLD = (
    *("paper", "command", "config_hash", "student_sha256", "teacher_sha256", "git_dirty", "python_version"),
    *("torch_version", "utc", "result_file"),
)
ADDED = ("source", "model", *MEANS, "macs_full_scaled_by_bits", "published_macs_counter", *TOLD)
"""What ``docs/leaderboard.md`` documents beside the columns of :class:`core.result.ResultRow`."""
LEADERBOARD_COLUMNS = (*COLUMNS, *ADDED)
"""The header of ``leaderboard.csv``."""
STATUS_PUBLISHED = "published"
"""The status of a published row, where measured ones have one of :data:`core.result.STATUSES`."""
_OWN = (
    (re.compile(r"(Q-)?TinySAM\b"), "tinysam", None),
    (re.compile(r"MobileSAM\b"), "mobilesam", None),
    (re.compile(r"SlimSAM\b"), "slimsam", None),
    (re.compile(r"scratch-"), "scratch", None),
    (re.compile(r"SAM-([BLH])$"), "teacher", "sam_vit_"),
)


def measured_columns(row: ResultRow, told: Mapping[str, Any], line: TableRow | None) -> dict[str, Any]:
    """Every column of a measured row.

    Args:
        told: what its file tells beside the row, :data:`TOLD` by name.
        line: of a comparison table, over the seeds of its model; None of a row without a score.
    """
    columns: dict[str, Any] = dict.fromkeys(LEADERBOARD_COLUMNS)
    columns |= {name: getattr(row, name) for name in COLUMNS}
    columns |= {"source": MEASURED, "model": model_label(row), **told}
    if line is not None:
        columns |= {
            "seeds": len(line.seeds) or None,
            f"{line.metric}_mean": line.score,
            f"{line.metric}_std": line.score_spread,
            "miou_point_mean": line.point,
            "miou_point_std": line.point_spread,
            "to_teacher_points": line.to_teacher,
            "point_to_teacher_points": line.point_to_teacher,
        }
    return columns


def published_columns(line: TableRow, result_file: str) -> dict[str, Any]:
    """Every column of a figure that a paper says; ``paper`` names the paper and its table.

    Args:
        result_file: where this project keeps it.
    """
    method, teacher = own_method(line.model)
    return {
        **dict.fromkeys(LEADERBOARD_COLUMNS),
        "source": PUBLISHED,
        "status": STATUS_PUBLISHED,
        "model": line.model,
        "method": method,
        "teacher": teacher,
        "data": line.data,
        "protocol": line.protocol,
        line.metric: line.score,
        f"{line.metric}_small": line.small,
        f"{line.metric}_medium": line.medium,
        f"{line.metric}_large": line.large,
        "parameters": line.parameters,
        "macs_full": line.macs_full,
        "macs_modules": line.macs_modules,
        "macs_full_scaled_by_bits": line.macs_scaled,
        "published_macs_counter": line.macs_counter,
        "paper": line.source,
        "result_file": result_file,
    }


def own_method(published: str) -> tuple[str | None, str | None]:
    """Which of this project's methods a paper's model is of, and of the teachers its name; None where it is none."""
    for pattern, method, prefix in _OWN:
        if found := pattern.match(published):
            return method, None if prefix is None else prefix + found[1].lower()
    return None, None
