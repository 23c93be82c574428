"""A comparison of two models in words: for a terminal, as Markdown, as CSV and as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from core.terminal import terminal
from evaluation.comparison import ALL, Comparison, InstancePair
from evaluation.metrics import size_classes
from experiments.comparison.rows import ComparedRow, compared_rows
from experiments.recorded_evaluation import RecordedEvaluation
from experiments.reporting.text_tables import csv_text, markdown_table

FIGURES = ("", "instances", "first", "second", "points", "95 % interval", "wins/ties/losses")
PAIRS = ("image", "annotation", "area", "first", "second", "points")
EXPLAINED = (
    "points: second less first, times 100; interval: bootstrap over images; wins: the second is better, ties: exactly "
    "equal IoU"
)
_CSV = (
    *("protocol", "image_id", "annotation_id", "category_id", "area_pixels", "size_class", "iou_first", "iou_second"),
    *("difference_points", "iou_pred_first", "iou_pred_second"),
)


@dataclass(frozen=True)
class Compared:
    """Two evaluations, compared.

    Attributes:
        by_protocol: of each protocol that both have.
        bounds: of each protocol's size classes.
        notes: what was left out or differs, a line each.
        count: single instances to show, at most, on each side.
    """

    first: RecordedEvaluation
    second: RecordedEvaluation
    by_protocol: Mapping[str, Comparison]
    bounds: Mapping[str, str]
    notes: Sequence[str]
    count: int

    def rows(self) -> list[ComparedRow]:
        """A row a protocol and group."""
        data, folders = self.first.rows[0].data, (str(self.first.folder), str(self.second.folder))
        return [
            row
            for protocol, comparison in self.by_protocol.items()
            for row in compared_rows(protocol, data, folders, comparison, self.count)
        ]

    def csv(self) -> str:
        """Every pair, a line each."""
        lines = []
        for protocol, comparison in self.by_protocol.items():
            for pair in comparison.pairs:
                one, other = pair.first, pair.second
                size = " ".join(size_classes(one.area, self.bounds[protocol]))
                ids = (protocol, one.image_id, one.annotation_id, one.category_id, one.area, size)
                figures = (one.iou, other.iou, 100 * pair.difference, one.iou_pred, other.iou_pred)
                lines.append((*ids, *figures))
        return csv_text(_CSV, lines)

    def markdown(self, pictures: Sequence[str] = ()) -> str:
        """The figures and single instances of each protocol.

        Args:
            pictures: file names beside this one.
        """
        parts = ["# Comparison", f"- first: {self.first.about()}\n- second: {self.second.about()}", EXPLAINED + "."]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        for protocol, comparison in self.by_protocol.items():
            parts += [f"## {_heading(self, protocol, comparison)}"]
            parts += [markdown_table(FIGURES, figure_cells(comparison))]
            for title, pairs in _extremes(comparison, self.count):
                parts += [f"### {title}", markdown_table(PAIRS, pair_cells(pairs))]
        parts += [f"![{name}]({name})" for name in pictures]
        return "\n\n".join(parts) + "\n"

    def print(self) -> None:
        """Show it on the terminal, but for the notes."""
        console = terminal()
        for side, evaluation in (("first", self.first), ("second", self.second)):
            console.print(f"{side:<6}  {evaluation.about()}: {evaluation.folder}", soft_wrap=True)
        for protocol, comparison in self.by_protocol.items():
            console.print(f"\n{_heading(self, protocol, comparison)}", soft_wrap=True)
            console.print(_table(FIGURES, figure_cells(comparison)))
            for title, pairs in _extremes(comparison, self.count):
                console.print(f"\n{title}")
                console.print(_table(PAIRS, pair_cells(pairs)))
        console.print(f"\n{EXPLAINED}", soft_wrap=True, style="dim")


def figure_cells(comparison: Comparison) -> list[list[str]]:
    """A line for all pairs, and one a size class."""
    return [
        [
            size,
            f"{figures.instances:,}",
            f"{figures.first:.4f}",
            f"{figures.second:.4f}",
            f"{100 * figures.difference:+.2f}",
            "-" if figures.low is None or figures.high is None else _interval(figures.low, figures.high),
            f"{figures.wins}/{figures.ties}/{figures.losses}",
        ]
        for size, figures in comparison.figures.items()
    ]


def pair_cells(pairs: Sequence[InstancePair]) -> list[list[str]]:
    """A line an instance."""
    return [
        [
            str(pair.first.image_id),
            str(pair.first.annotation_id),
            f"{pair.first.area:,.0f}",
            f"{pair.first.iou:.4f}",
            f"{pair.second.iou:.4f}",
            f"{100 * pair.difference:+.2f}",
        ]
        for pair in pairs
    ]


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def _extremes(comparison: Comparison, count: int) -> list[tuple[str, list[InstancePair]]]:
    """The largest losses and gains, where there are any, each with a title."""
    found = (("largest losses", comparison.worst(count)), ("largest gains", comparison.best(count)))
    return [(title, pairs) for title, pairs in found if pairs]


def _heading(compared: Compared, protocol: str, comparison: Comparison) -> str:
    whole = comparison.figures[ALL]
    return f"{protocol} on {compared.first.rows[0].data}: {whole.instances:,} instances in {whole.images:,} images"


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim")
    for name in header:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    return table
