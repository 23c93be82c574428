"""A comparison table for a terminal: short columns, so that eighty characters are enough; other formats have all."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import IO

from rich.console import Console
from rich.table import Table

from core.terminal import terminal
from experiments.report import POCKET_NOTE, count
from experiments.tables.formats import METRICS, bare_milliseconds, blocks, megabytes, number, tables
from experiments.tables.row import MEASURED, TableRow

EXPLAINED = (
    "±: standard deviation over seeds; S, M, L: by size; points: difference to the teacher under the same conditions; "
    "one pt: mIoU with one point; format=csv, markdown, latex and json have every column"
)
_Columns = dict[str, Callable[[TableRow], str]]


def _seeds(row: TableRow) -> str:
    return f"s{row.seeds[0]}" if len(row.seeds) == 1 else str(len(row.seeds) or "")


_SIZES: _Columns = {name[0].upper(): number(name, "{:.3f}".format) for name in ("small", "medium", "large")}
_QUALITY: _Columns = {
    "seeds": _seeds,
    "SCORE": number("score", "{:.4f}".format),
    "±": number("score_spread", "{:.4f}".format),
    **_SIZES,
    "points": number("to_teacher", "{:+.2f}".format),
    "one pt": number("point", "{:.4f}".format),
    "points ": number("point_to_teacher", "{:+.2f}".format),
    "choices": lambda row: row.choices or "",
}
_COST: _Columns = {
    "images seen": number("images_seen", "{:,}".format),
    "params": number("parameters", count),
    "MACs full": number("macs_full", count),
    "modules": number("macs_modules", count),
    "MB": number("size_bytes", megabytes),
    "ms": number("encoder_latency_ms", bare_milliseconds),
}
_PUBLISHED: _Columns = {
    "SCORE": number("score", "{:.4f}".format),
    **_SIZES,
    "params": number("parameters", count),
    "MACs full": number("macs_full", count),
    "modules": number("macs_modules", count),
    "by bits": number("macs_scaled", count),
}
_FOLDED = ("choices",)


def print_tables(rows: Sequence[TableRow], stream: IO[str] | None = None) -> None:
    """For each table what was measured (quality, then cost), and in a block of its own what was published."""
    console = terminal(file=stream)
    for title, table in tables(rows):
        console.print(f"\n{title}", style="bold")
        for kind, block in blocks(table):
            if kind == MEASURED:
                _print_measured(console, block)
            else:
                for source, of_source in groupby(block, lambda row: row.source):
                    console.print(f"published, not measured here: {source}", style="italic")
                    console.print(_table(list(of_source), _PUBLISHED))
    console.print(f"\n{EXPLAINED}", style="dim", soft_wrap=True)
    if any(row.teacher == "sam_pocket" for row in rows):
        console.print(POCKET_NOTE, style="italic")


def _print_measured(console: Console, block: Sequence[TableRow]) -> None:
    """Rows that rest on the same instances together, for only these compare."""
    for (instances, detections, images), group in groupby(block, lambda r: (r.instances, r.detections, r.images)):
        alike = list(group)
        numbers = ((instances, "instances"), (detections, "detections"), (images, "images"))
        rested = ", ".join(f"{number:,} {what}" for number, what in numbers if number is not None)
        console.print(f"measured: {rested}")
        console.print(_table(alike, _QUALITY))
        costly = [row for row in alike if row.parameters is not None]
        for device, of_device in groupby(
            sorted(costly, key=lambda row: (row.device or "", row.precision or "")),
            lambda row: ", ".join(part for part in (row.device, row.precision) if part),
        ):
            console.print(f"cost; encoder's time on {device}" if device else "cost")
            console.print(_table(list(of_device), _COST))


def _table(rows: Sequence[TableRow], columns: _Columns) -> Table:
    """The columns that say something."""
    metric = " or ".join(dict.fromkeys(METRICS[row.metric] for row in rows))
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim")
    table.add_column("model", overflow="fold")
    shown = {name: show for name, show in columns.items() if any(show(row) for row in rows)}
    for name in shown:
        words = name in _FOLDED
        title = metric if name == "SCORE" else name.strip()
        table.add_column(title, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(row.model, *(show(row) for show in shown.values()))
    return table
