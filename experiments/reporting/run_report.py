"""What a run or an evaluation found: models beside each other, figures below, so that eighty characters are enough."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from core.result import ResultRow
from core.terminal import terminal
from experiments.reporting.columns import COLUMNS, POCKET_NOTE, pocket_teachers

QUALITY = ("miou", "miou_small", "miou_medium", "miou_large", "miou_point")
COST = (
    *("parameters", "encoder_parameters", "macs_full", "encoder_macs_full", "macs_modules", "encoder_macs_modules"),
    *("size_bytes", "encoder_latency_ms", "encoder_latency_ratio", "decoder_latency_ms", "decoder_latency_ratio"),
    "peak_memory_bytes",
)
TRAINING = ("images_seen", "importance_images", "train_seconds")
PROTOCOL = (
    *("instances", "detections", "images", "miou", "miou_low", "miou_high", "miou_small", "miou_medium", "miou_large"),
    *("miou_images", "miou_categories", "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_rare"),
    *("ap_common", "ap_frequent", "average_recall"),
)
"""Columns of one model under several protocols."""
TOGETHER = 3
"""Protocols side by side in eighty characters."""


class Figure(NamedTuple):
    """A line of a report: what it is called, and of each model its value as it stands in the row and as it is shown."""

    label: str
    values: list[Any]
    shown: list[str]


def figures(rows: Sequence[ResultRow], names: Sequence[str], teacher: ResultRow | None = None) -> list[Figure]:
    """The columns that some row has; below an mIoU the differences to the teacher, where there is one."""
    found = []
    for name in names:
        values = [getattr(row, name) for row in rows]
        if all(value is None for value in values):
            continue
        label = "mIoU, box" if name == "miou" and names is not PROTOCOL else COLUMNS[name].line
        found.append(Figure(label, values, [COLUMNS[name].shown(value) or "-" for value in values]))
        if name in ("miou", "miou_point") and teacher is not None and len(rows) > 1:
            reference = getattr(teacher, name)
            known = [
                None if value is None or reference is None or row is teacher else 100 * (value - reference)
                for row, value in zip(rows, values, strict=True)
            ]
            found.append(
                Figure("  to teacher, points", known, ["-" if value is None else f"{value:+.2f}" for value in known])
            )
    return found


def heading(row: ResultRow) -> str:
    """What the column of a model is called, in two lines."""
    if row.method == "teacher":
        return f"teacher\n{row.teacher}"
    if row.student is None:
        return row.method.replace("_", "\n")
    return f"{row.method}\n{'student' if row.ratio is None else f'ratio {row.ratio:g}'}"


def conditions(rows: Sequence[ResultRow]) -> str:
    """One line: protocol, data, how many instances, device, precision, seed."""
    last = rows[-1]
    parts = []
    if last.protocol:
        counts = (("instances", last.instances), ("detections", last.detections))
        counted = [f"{number:,} {name}" for name, number in counts if number is not None]
        images = [] if last.images is None else [f"{last.images:,} images"]
        on = " in ".join([" and ".join(counted), *images] if counted else images)
        parts.append(f"{last.protocol} on {last.data}{f': {on}' if on else ''}")
    parts += [str(part) for part in (last.device, last.precision) if part]
    if last.seed is not None:
        parts.append(f"seed {last.seed}")
    return ", ".join(parts) or "counted from shapes, no weights and no data"


def print_comparison(rows: Sequence[ResultRow], folder: Path | None = None) -> None:
    """Print models side by side, what they were measured on, what was left out, and where the files of the run are."""
    console = terminal()
    console.print(conditions(rows))
    console.print(comparison(rows))
    if left_out := left_out_line(rows[-1].skipped):
        console.print(left_out, soft_wrap=True)
    if pocket_teachers(row.teacher for row in rows):
        console.print(POCKET_NOTE, style="italic")
    if folder is not None:
        console.print(f"files: {folder}/ (report.html, result.json, student.safetensors, masks.png)", soft_wrap=True)


def comparison(rows: Sequence[ResultRow]) -> Table:
    """Models side by side; figures that no model has are left out."""
    teacher = next((row for row in rows if row.method == "teacher"), None)
    groups = [figures(rows, names, teacher) for names in (QUALITY, COST, TRAINING)]
    return _table([heading(row) for row in rows], groups)


def print_protocols(rows: Sequence[ResultRow]) -> None:
    """Print one model under several protocols, its cost, what was left out, and the protocols' choices."""
    console, first = terminal(), rows[0]
    on = f"{heading(first).replace(chr(10), ' ')} on {first.data}, {first.device}, {first.precision}"
    console.print(on, soft_wrap=True)
    for start in range(0, len(rows), TOGETHER):
        beside = rows[start : start + TOGETHER]
        console.print(_table([str(row.protocol) for row in beside], [figures(beside, PROTOCOL)]))
    console.print(cost_line(first), soft_wrap=True)
    if left_out := left_out_line(first.skipped):
        console.print(left_out, soft_wrap=True)
    for line in axes_lines(rows):
        console.print(line, soft_wrap=True, style="dim")
    if pocket_teachers([first.teacher]):
        console.print(POCKET_NOTE, style="italic")


def left_out_line(skipped: Mapping[str, int]) -> str:
    """Counts by reason (:data:`data.exclusions.REASONS`) in one line; empty where there are none."""
    counts = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items() if count)
    return f"left out or changed by rule: {counts}" if counts else ""


def cost_line(row: ResultRow) -> str:
    """What a model costs, in one line; what is a part of the figure before it stands in brackets behind it."""
    parts: list[str] = []
    for label, _, shown in figures([row], COST):
        if label.startswith(" ") and parts:
            parts[-1] += f" ({label.strip()} {shown[0]})"
        else:
            parts.append(f"{label.strip()} {shown[0]}")
    return "; ".join(parts)


def axes_lines(rows: Sequence[ResultRow]) -> list[str]:
    """Every choice of every protocol: those that all share first."""
    axes = {str(row.protocol): dict(row.axes or {}) for row in rows}
    names = [name for name in dict.fromkeys(name for own in axes.values() for name in own) if name != "name"]
    shared = [name for name in names if len({own.get(name) for own in axes.values()}) == 1]
    first = next(iter(axes.values()))
    lines = ["every protocol here: " + ", ".join(f"{name}={first[name]}" for name in shared)]
    for protocol, own in axes.items():
        differing = ", ".join(f"{name}={own[name]}" for name in names if name in own and name not in shared)
        lines += [f"{protocol}: {differing}"] if differing else []
    return lines


def _table(heads: Sequence[str], groups: Sequence[Sequence[Figure]]) -> Table:
    table = Table(show_edge=False, pad_edge=False, title_justify="left")
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    for group in groups:
        for label, _, shown in group:
            table.add_row(label, *shown)
        table.add_section()
    return table
