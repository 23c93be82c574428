"""Lines of a comparison table as CSV, Markdown or LaTeX; measured and published ones never unmarked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from experiments.report import count, milliseconds, points
from experiments.tables.row import MEASURED, PUBLISHED, TableRow
from experiments.tables.text_tables import Cell, csv_text, latex_escaped, latex_table, markdown_table

METRICS = {"miou": "mIoU", "ap": "AP"}
HOW_TO_READ = (
    "Rows of kind *measured* were scored by this project, and compare with each other where they rest on the same "
    "instances; those of `sam_pocket`, its students and procedural pictures say which method is better under equal "
    "conditions, never how good real SAM is. Rows of kind *published* are what papers say under a like protocol, of "
    "their own weights, pictures and boxes: nothing of them was measured here. Figures under no protocol like one of "
    "these (`results/published/figures.csv` has them) are left out."
)


@dataclass(frozen=True)
class _Column:
    """A column for people: its title, and a line's cell."""

    title: str
    shown: Callable[[TableRow], str]


def number(key: str, form: Callable[[float], str]) -> Callable[[TableRow], str]:
    """What shows one column of a line; nothing where that is unknown."""

    def shown(row: TableRow) -> str:
        value = getattr(row, key)
        return "" if value is None else form(value)

    return shown


def _seeds(row: TableRow) -> str:
    return f"seed {row.seeds[0]}" if len(row.seeds) == 1 else f"{len(row.seeds)} seeds" if row.seeds else ""


def _score(key: str, spread: str) -> Callable[[TableRow], str]:
    def shown(row: TableRow) -> str:
        value, deviation = getattr(row, key), getattr(row, spread)
        return "" if value is None else points(value) + ("" if deviation is None else f" ± {deviation:.4f}")

    return shown


def megabytes(value: float) -> str:
    """Bytes in millions, without the unit."""
    return f"{value / 1e6:.2f}"


def bare_milliseconds(value: float) -> str:
    """Milliseconds without the unit."""
    return milliseconds(value).removesuffix(" ms")


def _points(value: float) -> str:
    return f"{value:+.2f}"


_KIND = _Column("kind", lambda row: row.kind)
_MODEL = _Column("model", lambda row: row.model)
_QUALITY = (
    _Column("seeds", _seeds),
    _Column("instances", number("instances", "{:,}".format)),
    _Column("detections", number("detections", "{:,}".format)),
    _Column("images seen", number("images_seen", "{:,}".format)),
    _Column("SCORE", _score("score", "score_spread")),
    _Column("small", number("small", points)),
    _Column("medium", number("medium", points)),
    _Column("large", number("large", points)),
    _Column("to teacher (points)", number("to_teacher", _points)),
    _Column("mIoU, one point", _score("point", "point_spread")),
    _Column("one point, to teacher (points)", number("point_to_teacher", _points)),
    _Column("choices", lambda row: row.choices or ""),
)
_COST = (
    _Column("parameters", number("parameters", count)),
    _Column("MACs full", number("macs_full", count)),
    _Column("MACs modules", number("macs_modules", count)),
    _Column("MACs full-scaled-by-bits", number("macs_scaled", count)),
    _Column("size (MB)", number("size_bytes", megabytes)),
    _Column("encoder (ms)", number("encoder_latency_ms", bare_milliseconds)),
    _Column("device", lambda row: ", ".join(part for part in (row.device, row.precision) if part)),
)
_SOURCE = _Column("source", lambda row: row.source or "")

_RAW: dict[str, Callable[[TableRow], Cell]] = {
    **{key: lambda row, key=key: getattr(row, key) for key in ("data", "protocol", "kind", "model", "method", "ratio")},  # type: ignore[misc]
    **{key: lambda row, key=key: getattr(row, key) for key in ("teacher", "student", "variant")},  # type: ignore[misc]
    "weight_bits": lambda row: row.weight_bits,
    "activation_bits": lambda row: row.activation_bits,
    "choices": lambda row: row.choices,
    "seeds": lambda row: " ".join(map(str, row.seeds)) or None,
    "seeds_count": lambda row: len(row.seeds) or None,
    "run_ids": lambda row: " ".join(row.run_ids) or None,
    "instances_count": lambda row: row.instances,
    "images_count": lambda row: row.images,
    "detections_count": lambda row: row.detections,
    "training_images_seen_count": lambda row: row.images_seen,
    "metric": lambda row: METRICS[row.metric],
    "score_0_to_1": lambda row: row.score,
    "score_standard_deviation_0_to_1": lambda row: row.score_spread,
    "score_small_0_to_1": lambda row: row.small,
    "score_medium_0_to_1": lambda row: row.medium,
    "score_large_0_to_1": lambda row: row.large,
    "difference_to_teacher_points": lambda row: row.to_teacher,
    "one_point_miou_0_to_1": lambda row: row.point,
    "one_point_miou_standard_deviation_0_to_1": lambda row: row.point_spread,
    "one_point_difference_to_teacher_points": lambda row: row.point_to_teacher,
    "parameters_count": lambda row: row.parameters,
    "macs_full_count": lambda row: row.macs_full,
    "macs_modules_count": lambda row: row.macs_modules,
    "macs_full_scaled_by_bits_count": lambda row: row.macs_scaled,
    "published_macs_counter": lambda row: row.macs_counter,
    "size_mb": lambda row: None if row.size_bytes is None else row.size_bytes / 1e6,
    "encoder_latency_ms": lambda row: row.encoder_latency_ms,
    "device": lambda row: row.device,
    "precision": lambda row: row.precision,
    "source": lambda row: row.source,
}


def csv_format(rows: Sequence[TableRow]) -> str:
    """Every line of every table in one; raw numbers, empty where unknown."""
    return csv_text(list(_RAW), [[raw(row) for raw in _RAW.values()] for row in rows])


def markdown_format(rows: Sequence[TableRow], command: str) -> str:
    """A page.

    Args:
        command: what makes it anew.
    """
    parts = ["# Comparison", f"Made by `{command}`. {HOW_TO_READ}"]
    for title, table in tables(rows):
        parts += [f"## {title}", markdown_lines(table)]
    return "\n\n".join(parts) + "\n"


def markdown_lines(table: Sequence[TableRow], marks: Mapping[TableRow, str] | None = None) -> str:
    """The lines of one table, with the columns that say something of them.

    Args:
        marks: what stands before the names of some models.
    """
    columns = _shown((_KIND, _MODEL, *_QUALITY, *_COST, _SOURCE), table)
    cells = [[_marked(column, row, marks or {}) for column in columns] for row in table]
    return markdown_table(_titles(columns, table), cells)


def _marked(column: _Column, row: TableRow, marks: Mapping[TableRow, str]) -> str:
    return f"{marks[row]} {column.shown(row)}" if column is _MODEL and row in marks else column.shown(row)


def latex_format(rows: Sequence[TableRow], command: str) -> str:
    """A ``tabular`` a table; measured lines stand above the last rule, published ones below it."""
    parts = [f"% Made by {command}; needs \\usepackage{{booktabs}}"]
    for title, table in tables(rows):
        columns = _shown((_KIND, _MODEL, *_QUALITY, *_COST, _SOURCE), table)
        cells = [[[column.shown(row) for column in columns] for row in block] for _, block in blocks(table)]
        parts.append(f"% {latex_escaped(title)}\n{latex_table(_titles(columns, table), cells)}")
    return "\n\n".join(parts) + "\n"


def tables(rows: Sequence[TableRow]) -> Iterator[tuple[str, list[TableRow]]]:
    """Lines that follow each other with one data set and protocol, with a title."""
    for (data, protocol), table in groupby(rows, key=lambda row: (row.data, row.protocol)):
        yield f"{data}, {protocol}", list(table)


def blocks(table: Sequence[TableRow]) -> list[tuple[str, list[TableRow]]]:
    """A table's lines by kind, measured first."""
    kinds = ((kind, [row for row in table if row.kind == kind]) for kind in (MEASURED, PUBLISHED))
    return [(kind, block) for kind, block in kinds if block]


def _shown(columns: Sequence[_Column], table: Sequence[TableRow]) -> list[_Column]:
    """Those that say something of a line."""
    return [column for column in columns if any(column.shown(row) for row in table)]


def _titles(columns: Sequence[_Column], table: Sequence[TableRow]) -> list[str]:
    metrics = " or ".join(dict.fromkeys(METRICS[row.metric] for row in table))
    return [metrics if column.title == "SCORE" else column.title for column in columns]
