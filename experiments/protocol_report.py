"""One model under several protocols, for a terminal: a column each, and every choice behind it."""

from collections.abc import Sequence

from rich.table import Table

from core.result import ResultRow
from core.terminal import terminal
from experiments.report import COST, POCKET_NOTE, heading

LINES = (
    ("instances", "instances"),
    ("detections", "detections"),
    ("images", "images"),
    ("mIoU", "miou"),
    ("  95 %, from", "miou_low"),
    ("  to", "miou_high"),
    ("  small", "miou_small"),
    ("  medium", "miou_medium"),
    ("  large", "miou_large"),
    ("  mean over images", "miou_images"),
    ("  mean over categories", "miou_categories"),
    ("AP", "ap"),
    ("  AP50", "ap50"),
    ("  AP75", "ap75"),
    ("  small", "ap_small"),
    ("  medium", "ap_medium"),
    ("  large", "ap_large"),
    ("  rare", "ap_rare"),
    ("  common", "ap_common"),
    ("  frequent", "ap_frequent"),
    ("AR", "average_recall"),
)
"""Labels, and the columns of a row that they show."""
TOGETHER = 3
"""Protocols side by side in eighty characters."""


def print_protocols(rows: Sequence[ResultRow]) -> None:
    """Print the rows of one model, its cost, what was left out, and the protocols' choices."""
    console, first = terminal(), rows[0]
    on = f"{heading(first).replace(chr(10), ' ')} on {first.data}, {first.device}, {first.precision}"
    console.print(on, soft_wrap=True)
    for start in range(0, len(rows), TOGETHER):
        console.print(_table(rows[start : start + TOGETHER]))
    known = [(figure, getattr(first, figure.column)) for figure in COST]
    cost = [f"{figure.label.strip()} {figure.shown(value)}" for figure, value in known if value is not None]
    console.print(", ".join(cost), soft_wrap=True)
    if first.skipped:
        left_out = ", ".join(f"{reason} {count:,}" for reason, count in first.skipped.items())
        console.print(f"left out or changed by rule: {left_out}", soft_wrap=True)
    for line in axes_lines(rows):
        console.print(line, soft_wrap=True, style="dim")
    if first.teacher == "sam_pocket":
        console.print(POCKET_NOTE, style="italic")


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


def _table(rows: Sequence[ResultRow]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(str(row.protocol), justify="right")
    for label, column in LINES:
        values = [getattr(row, column) for row in rows]
        if any(value is not None for value in values):
            table.add_row(label, *(_shown(value) for value in values))
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
