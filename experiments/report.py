"""Tables for a terminal: models as columns, figures as rows, so that eighty characters are enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from core.result import ResultRow
from core.terminal import terminal

POCKET_NOTE = "pocket scale: says which method is better under equal conditions, not how good real SAM is"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class _Figure:
    """A row of the table: its label, the column it shows, and how."""

    label: str
    column: str
    shown: Callable[[Any], str]


def points(value: float) -> str:
    """An mIoU of 0..1 with four digits."""
    return f"{value:.4f}"


def count(value: float) -> str:
    """A large number with three or four digits and a unit: 5.659 M."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:g}"


def size(value: int) -> str:
    """Bytes as MB (a million bytes)."""
    return f"{value / 1e6:.2f} MB"


def milliseconds(value: float) -> str:
    """Milliseconds, three digits or more."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def seconds(value: float) -> str:
    """Seconds, or minutes from 100 seconds on."""
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"


QUALITY = (
    _Figure("mIoU, box", "miou", points),
    _Figure("  small objects", "miou_small", points),
    _Figure("  medium objects", "miou_medium", points),
    _Figure("  large objects", "miou_large", points),
    _Figure("mIoU, one point", "miou_point", points),
)
COST = (
    _Figure("parameters", "parameters", count),
    _Figure("  image encoder", "encoder_parameters", count),
    _Figure("MACs, counter full", "macs_full", count),
    _Figure("  image encoder", "encoder_macs_full", count),
    _Figure("MACs, counter modules", "macs_modules", count),
    _Figure("  image encoder", "encoder_macs_modules", count),
    _Figure("checkpoint", "size_bytes", size),
    _Figure("encoder latency", "encoder_latency_ms", milliseconds),
    _Figure("decoder latency", "decoder_latency_ms", milliseconds),
    _Figure("peak memory", "peak_memory_bytes", size),
)
TRAINING = (
    _Figure("images seen", "images_seen", lambda value: f"{value:,}"),
    _Figure("training time", "train_seconds", seconds),
)


def print_comparison(rows: Sequence[ResultRow], folder: Path | None = None) -> None:
    """Print models side by side, what they were measured on, and where the files of the run are."""
    console = terminal()
    console.print(conditions(rows), soft_wrap=True)
    console.print(comparison(rows))
    if any(row.teacher == "sam_pocket" for row in rows):
        console.print(POCKET_NOTE, style="italic")
    if folder is not None:
        console.print(f"files: {folder}/ (report.html, result.json, student.safetensors, masks.png)", soft_wrap=True)


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


def comparison(rows: Sequence[ResultRow]) -> Table:
    """The table; figures that no model has are left out."""
    table = Table(show_edge=False, pad_edge=False, title_justify="left")
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(heading(row), justify="right")
    teacher = next((row for row in rows if row.method == "teacher"), None)
    for group in (QUALITY, COST, TRAINING):
        for figure in group:
            values = [getattr(row, figure.column) for row in rows]
            if any(value is not None for value in values):
                table.add_row(figure.label, *("-" if value is None else figure.shown(value) for value in values))
                if figure.column in ("miou", "miou_point") and teacher is not None and len(rows) > 1:
                    table.add_row("  to teacher, points", *(_difference(row, teacher, figure.column) for row in rows))
        table.add_section()
    return table


def heading(row: ResultRow) -> str:
    """What a column is called."""
    if row.method == "teacher":
        return f"teacher\n{row.teacher}"
    if row.student is None:
        return row.method.replace("_", "\n")
    return f"{row.method}\n{'student' if row.ratio is None else f'ratio {row.ratio:g}'}"


def _difference(row: ResultRow, teacher: ResultRow, column: str) -> str:
    value, reference = getattr(row, column), getattr(teacher, column)
    if value is None or reference is None or row is teacher:
        return "-"
    return f"{100 * (value - reference):+.2f}"
