"""The command ``compare``: two evaluations, instance by instance."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import home_path
from core.terminal import terminal
from evaluation.comparison import ALL, Comparison, InstancePair, compare_records
from evaluation.metrics import size_classes
from experiments.config.files import nearest
from experiments.config.schema import CompareConfig
from experiments.out_place import check_out, writing_to
from experiments.recorded_evaluation import RecordedEvaluation, check_comparable, read_evaluation
from experiments.reporting.text_tables import csv_text, markdown_table
from experiments.runs.job import PlainRow

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

    @property
    def sides(self) -> tuple[tuple[str, RecordedEvaluation], ...]:
        """Both, with what each is called."""
        return ("first", self.first), ("second", self.second)


def compare(settings: CompareConfig, cfg: DictConfig) -> list[PlainRow]:
    """Pair the instances of two evaluations; show what differs, and write it where ``out`` says."""
    if settings.count < 0:
        raise InputError(f"count={settings.count} must be at least 0")
    if settings.out is not None:
        check_out(settings.out, home_path(settings.out) / "comparison.csv")
    runs = Path(settings.runs)
    first, second = (read_evaluation(key, getattr(settings, key), runs) for key in ("first", "second"))
    check_comparable(first, second)
    protocols = _shared(first, second, settings.protocol)
    bounds = {name: first.axes(name).get("bounds", "half_open") for name in protocols}
    averages = {name: first.axes(name).get("average", "instances") for name in protocols}
    comparisons = {
        name: compare_records(first.records[name], second.records[name], bounds[name], average=averages[name])
        for name in protocols
    }
    for name, comparison in comparisons.items():
        if not comparison.pairs:
            raise InputError(
                f"{name}: no instance is in both ({comparison.only_first} in the first alone, {comparison.only_second} "
                "in the second); compare evaluations of the same images"
            )
    notes = list(_notes(first, second, comparisons))
    notes += _not_compared(first, second, protocols) if settings.protocol is None else []
    compared = Compared(first, second, comparisons, bounds, notes, settings.count)
    stream = sys.stdout if settings.format == "table" else sys.stderr
    if settings.format == "table":
        print_compared(compared)
    for note in notes:
        print(note, file=stream)
    if settings.out is not None:
        print(_write(compared, settings), file=stream)
    return rows_of(compared)


def _shared(first: RecordedEvaluation, second: RecordedEvaluation, protocol: str | None) -> list[str]:
    """The protocols that both have, or the chosen one."""
    shared = [name for name in first.records if name in second.records]
    if not shared:
        one, other = (", ".join(evaluation.records) for evaluation in (first, second))
        raise InputError(f"no protocol is in both: {one} in the first, {other} in the second; evaluate again under one")
    if protocol is None:
        return shared
    chosen = [name for name in shared if protocol in (name, name.partition("@")[0])]
    if not chosen:
        raise InputError(f"protocol={protocol} is not in both evaluations; {nearest(protocol, shared)}")
    return chosen


def _notes(
    first: RecordedEvaluation, second: RecordedEvaluation, comparisons: Mapping[str, Comparison]
) -> Iterator[str]:
    """What is not known to be the same, has no counterpart, or had other prompts."""
    # Evaluations of earlier versions do not say what was scored.
    unknown = [side for side, evaluation in (("first", first), ("second", second)) if evaluation.is_unknown]
    if unknown:
        found = f"the {' and the '.join(unknown)} was written without the hashes of images and annotations"
        yield f"{found}: that both scored the same is taken on trust; evaluate again to know"
    for name, c in comparisons.items():
        if c.only_first or c.only_second:
            only = f"{c.only_first:,} instances only in the first and {c.only_second:,} only in the second"
            yield f"{name}: left out, {only}"
    seeds = [evaluation.setting("evaluation", "seed") for evaluation in (first, second)]
    drawn = [name for name in comparisons if first.axes(name).get("jitter", "0.0") != "0.0"]
    if drawn and seeds[0] != seeds[1]:
        # Boxes with noise are the same only under the same seed.
        differ = f"evaluation.seed is {seeds[0]} in the first and {seeds[1]} in the second"
        yield f"{', '.join(drawn)}: {differ}: the models were given other boxes"


def _not_compared(first: RecordedEvaluation, second: RecordedEvaluation, protocols: Sequence[str]) -> Iterator[str]:
    """What only one side has."""
    for side, evaluation in (("first", first), ("second", second)):
        for name, records in evaluation.records.items():
            if name not in protocols:
                yield f"{name}: only in the {side}, {len(records):,} instances not compared"
        detected = [str(row.protocol) for row in evaluation.rows if row.ap is not None]
        if detected:
            yield f"{', '.join(detected)}: average precision in the {side}, which no single instance has"


def _write(compared: Compared, settings: CompareConfig) -> str:
    """Write the files; returns a line that says which."""
    # Here, because matplotlib makes folders in the user's home as soon as it is imported.
    from experiments.reporting.comparison_images import NotDrawn, draw_extremes

    assert settings.out is not None
    out = home_path(settings.out)
    with writing_to(settings.out):
        write_text(out / "comparison.csv", csv_of(compared))
        try:
            # Under the first protocol.
            name, comparison = next(iter(compared.by_protocol.items()))
            images, reason = draw_extremes(out, dict(compared.sides), name, comparison, settings), ""
        except NotDrawn as error:
            images, reason = [], f"; no images were drawn: {error}"
        write_text(out / "comparison.md", markdown_of(compared, images))
    return f"files: {out}/ ({', '.join(['comparison.csv', 'comparison.md', *images])}){reason}"


def rows_of(compared: Compared) -> list[PlainRow]:
    """A row a protocol and group of instances (``all``, or a size class): mIoU in 0..1, differences in points.

    ``worst`` and ``best`` are single instances, the largest loss or gain first; ``only_first`` and ``only_second``
    count the protocol's instances without a counterpart.
    """

    def points(value: float | None) -> float | None:
        return None if value is None else 100 * value

    rows = []
    for protocol, comparison in compared.by_protocol.items():
        for size, figures in comparison.figures.items():
            extremes = {"worst": comparison.worst, "best": comparison.best}
            row: dict[str, Any] = {
                "protocol": protocol,
                "data": compared.first.rows[0].data,
                "size": size,
                "first": str(compared.first.folder),
                "second": str(compared.second.folder),
                "instances": figures.instances,
                "images": figures.images,
                "miou_first": figures.first,
                "miou_second": figures.second,
                "difference_points": points(figures.difference),
                "low_points": points(figures.low),
                "high_points": points(figures.high),
                **{name: getattr(figures, name) for name in ("wins", "ties", "losses")},
                "only_first": comparison.only_first,
                "only_second": comparison.only_second,
                **{
                    name: [_pair(p) for p in of(compared.count)] if size == ALL else [] for name, of in extremes.items()
                },
            }
            rows.append(PlainRow(row))
    return rows


def _pair(pair: InstancePair) -> dict[str, Any]:
    ids = {"image_id": pair.first.image_id, "annotation_id": pair.first.annotation_id, "area": pair.first.area}
    return {**ids, "iou_first": pair.first.iou, "iou_second": pair.second.iou}


def csv_of(compared: Compared) -> str:
    """Every pair, a line each."""
    lines = []
    for protocol, comparison in compared.by_protocol.items():
        for pair in comparison.pairs:
            one, other = pair.first, pair.second
            size = " ".join(size_classes(one.area, compared.bounds[protocol]))
            ids = (protocol, one.image_id, one.annotation_id, one.category_id, one.area, size)
            lines.append((*ids, one.iou, other.iou, 100 * pair.difference, one.iou_pred, other.iou_pred))
    return csv_text(_CSV, lines)


def markdown_of(compared: Compared, images: Sequence[str] = ()) -> str:
    """The figures and single instances of each protocol.

    Args:
        images: file names beside this one.
    """
    sides = "\n".join(f"- {side}: {evaluation.about()}" for side, evaluation in compared.sides)
    parts = ["# Comparison", sides, EXPLAINED + "."]
    parts += ["\n".join(f"- {note}" for note in compared.notes)] if compared.notes else []
    for heading, tables in _sections(compared):
        parts.append(f"## {heading}")
        for title, header, cells in tables:
            parts += [*([f"### {title}"] if title else []), markdown_table(header, cells)]
    return "\n\n".join([*parts, *(f"![{name}]({name})" for name in images)]) + "\n"


def print_compared(compared: Compared) -> None:
    """Show it on the terminal, but for the notes."""
    console = terminal()
    for side, evaluation in compared.sides:
        console.print(f"{side:<6}  {evaluation.about()}: {evaluation.folder}", soft_wrap=True)
    for heading, tables in _sections(compared):
        console.print(f"\n{heading}", soft_wrap=True)
        for title, header, cells in tables:
            if title:
                console.print(f"\n{title}")
            table = Table(show_edge=False, pad_edge=False, box=None, header_style="dim")
            for name in header:
                table.add_column(name, justify="right" if name else "left", no_wrap=True)
            for line in cells:
                table.add_row(*line)
            console.print(table)
    console.print(f"\n{EXPLAINED}", soft_wrap=True, style="dim")


def _sections(compared: Compared) -> Iterator[tuple[str, list[tuple[str, Sequence[str], list[list[str]]]]]]:
    """A heading a protocol, and its tables: of all pairs and each size class, of the largest losses, and gains."""
    for protocol, comparison in compared.by_protocol.items():
        figures = [
            [
                size,
                f"{found.instances:,}",
                f"{found.first:.4f}",
                f"{found.second:.4f}",
                f"{100 * found.difference:+.2f}",
                "-"
                if found.low is None or found.high is None
                else f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
                f"{found.wins}/{found.ties}/{found.losses}",
            ]
            for size, found in comparison.figures.items()
        ]
        extremes = (("largest losses", comparison.worst), ("largest gains", comparison.best))
        pairs = [(title, of(compared.count)) for title, of in extremes]
        every = comparison.figures[ALL]
        data = compared.first.rows[0].data
        yield (
            f"{protocol} on {data}: {every.instances:,} instances in {every.images:,} images",
            [("", FIGURES, figures), *((title, PAIRS, list(map(_cells, found))) for title, found in pairs if found)],
        )


def _cells(pair: InstancePair) -> list[str]:
    ids = [str(pair.first.image_id), str(pair.first.annotation_id), f"{pair.first.area:,.0f}"]
    return [*ids, f"{pair.first.iou:.4f}", f"{pair.second.iou:.4f}", f"{100 * pair.difference:+.2f}"]
