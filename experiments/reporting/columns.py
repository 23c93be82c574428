"""The columns of every table of results: ``columns.csv`` is the one list, and how a value is shown stands here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.result import joined_precisions
from experiments.reporting.text_tables import csv_lines, plain_table

LEADERBOARD = "leaderboard.csv"
"""The file of all rows, in the folder of runs."""
MEASURED, PUBLISHED = "measured", "published"
"""The two kinds of rows: what this project scored, and what a paper says under conditions of its own."""
METRICS = {"miou": "mIoU", "ap": "AP"}
POCKET = "sam_pocket"
POCKET_2 = "sam2_pocket"
POCKET_TEACHERS = (POCKET, "sam_photo", POCKET_2)
"""The teachers in the package: small, and trained in hours."""
POCKET_NOTE = "pocket scale: says which method is better under equal conditions, not how good real SAM is"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def pocket_teachers(teachers: Iterable[object]) -> list[str]:
    """Those of rows that :data:`POCKET_NOTE` must stand beside."""
    found = set(teachers)
    return [name for name in POCKET_TEACHERS if name in found]


def computed_on(devices: Iterable[str | None], training: Iterable[str | None], scoring: str | None) -> str:
    """The processors behind rows and what they computed in, for the line above a table."""
    on = " and ".join(sorted({device for device in devices if device}))
    trained = joined_precisions(training)
    if scoring is None or trained in (None, scoring):
        return on if scoring is None else f"{on}, {scoring}"
    return f"{on}, trained in {trained}, scored in {scoring}"


def share(value: float) -> str:
    """A score of 0..1 with four digits."""
    return f"{value:.4f}"


def with_spread(value: float | None, spread: float | None) -> str:
    """A mean score and its standard deviation, as far as they are known."""
    return ("" if value is None else share(value)) + ("" if spread is None else f" ± {spread:.4f}")


def count(value: float) -> str:
    """A large number with three or four digits and a unit: 5.659 M."""
    for size, unit in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:g}"


def size(value: float) -> str:
    """Bytes in MB (a million bytes)."""
    return f"{_megabytes(value)} MB"


def milliseconds(value: float) -> str:
    """Milliseconds, three digits or more."""
    return f"{_digits(value)} ms"


def seconds(value: float) -> str:
    """Seconds, or minutes from 100 seconds on."""
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.2f}"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _seeds(value: Any) -> str:
    return f"seed {value[0]}" if len(value) == 1 else f"{len(value)} seeds" if value else ""


FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "share": share,
    "whole": "{:,}".format,
    "ratio": "{:g}".format,
    "digits": _digits,
    "points": "{:+.2f}".format,
    "count": count,
    "megabytes": _megabytes,
    "seconds": seconds,
    "seeds": _seeds,
}
"""How values are shown without their unit, by names that ``columns.csv`` and the leaderboard's page have too."""
_USUAL = {"number": "share", "count": "whole"}


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: of the value in a row of results (``of`` is ``row``) or in a line over the seeds of a model (``model``).
        kind: ``text``, ``number``, ``count``, ``truth`` or ``mapping``.
        form: how a value is shown, of :data:`FORMS`.
        unit: of what the form shows.
        best: ``higher`` or ``lower`` values are better; ``lower`` also where small ones are looked at first.
        part: whether it is a part of the figure above it in a report.
        label: in a report or a card, where there is room; ``head``: above a column; ``short``: of a terminal's table.
        description: for ``docs/leaderboard.md`` and the page.
    """

    name: str
    of: str
    kind: str
    form: str
    unit: str
    best: str
    part: bool
    label: str
    head: str
    short: str
    description: str

    def bare(self, value: Any) -> str:
        """A value without its unit, which :attr:`title` has; nothing where it is unknown."""
        return "" if value is None else FORMS[self.form](value)

    def shown(self, value: Any) -> str:
        """A value with its unit."""
        return "" if value is None else f"{self.bare(value)} {self.unit}".strip()

    @property
    def title(self) -> str:
        """The head with the unit."""
        return f"{self.head} ({self.unit})" if self.unit else self.head

    @property
    def line(self) -> str:
        """The label, indented if it is of a part."""
        return f"  {self.label}" if self.part else self.label


def _read() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for raw in csv_lines(Path(__file__).with_name("columns.csv")):
        label = raw["label"] or raw["name"].replace("_", " ")
        head = raw["head"] or label
        form = raw["form"] or _USUAL.get(raw["kind"], "text")
        texts = {**raw, "form": form, "label": label, "head": head, "short": raw["short"] or head}
        found[raw["name"]] = Column(part=texts.pop("part") == "yes", **texts)
    return found


COLUMNS = _read()
"""Every column, by name."""
LEADERBOARD_COLUMNS = tuple(column.name for column in COLUMNS.values() if column.of == "row")
"""The header of ``leaderboard.csv``: a result row's columns (:data:`core.result.COLUMNS`), and what is known beside."""

MODEL_COLUMNS = (
    *("source", "data", "protocol", "model", "method", "ratio", "teacher", "student", "variant", "weight_bits"),
    *("activation_bits", "choices", "seeds", "run_ids", "instances", "images", "detections", "images_seen", "metric"),
    *("score", "score_spread", "small", "medium", "large", "point", "point_spread", "to_teacher", "point_to_teacher"),
    *("parameters", "macs_full", "macs_modules", "macs_full_scaled_by_bits", "published_macs_counter", "size_bytes"),
    *("encoder_latency_ratio", "encoder_latency_ms", "device_hours", "device", "precision", "training_precision"),
    "paper",
)
"""What is known of a model over its seeds; here ``seeds`` are the seeds themselves."""
TABLE_COLUMNS = (
    *("source", "model", "seeds", "instances", "detections", "images_seen", "score", "small", "medium", "large"),
    *("to_teacher", "point", "point_to_teacher", "choices", "parameters", "macs_full", "macs_modules"),
    *("macs_full_scaled_by_bits", "size_bytes", "encoder_latency_ratio", "device", "paper"),
)
"""Of models in Markdown and LaTeX; the score is called by its metric, means have their spreads behind them."""
SPREADS = {"score": "score_spread", "point": "point_spread"}
TABLE_JSON = {
    "source": "kind",
    "macs_full_scaled_by_bits": "macs_scaled",
    "published_macs_counter": "macs_counter",
    "paper": "source",
}
"""Columns that the command ``table`` calls otherwise in its JSON, so that what reads it goes on."""
TABLE_CSV = {
    "data": "data",
    "protocol": "protocol",
    "kind": "source",
    **{name: name for name in MODEL_COLUMNS[3:12]},
    "seeds": "seeds",
    "seeds_count": "seeds",
    "run_ids": "run_ids",
    "instances_count": "instances",
    "images_count": "images",
    "detections_count": "detections",
    "training_images_seen_count": "images_seen",
    "metric": "metric",
    "score_0_to_1": "score",
    "score_standard_deviation_0_to_1": "score_spread",
    "score_small_0_to_1": "small",
    "score_medium_0_to_1": "medium",
    "score_large_0_to_1": "large",
    "difference_to_teacher_points": "to_teacher",
    "one_point_miou_0_to_1": "point",
    "one_point_miou_standard_deviation_0_to_1": "point_spread",
    "one_point_difference_to_teacher_points": "point_to_teacher",
    "parameters_count": "parameters",
    "macs_full_count": "macs_full",
    "macs_modules_count": "macs_modules",
    "macs_full_scaled_by_bits_count": "macs_full_scaled_by_bits",
    "published_macs_counter": "published_macs_counter",
    "size_mb": "size_bytes",
    "encoder_latency_ratio": "encoder_latency_ratio",
    "encoder_latency_ms": "encoder_latency_ms",
    "device": "device",
    "precision": "precision",
    "training_precision": "training_precision",
    "source": "paper",
}
"""The header of the CSV of the command ``table``, which spells out units, and the columns behind it."""


def known_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of ``leaderboard.csv`` in which some row has a value, in their order."""
    return [name for name in LEADERBOARD_COLUMNS if any(row.get(name) not in (None, {}) for row in rows)]


def documented() -> str:
    """The columns of ``leaderboard.csv`` as a table for ``docs/leaderboard.md``."""
    rows = [column for column in COLUMNS.values() if column.of == "row"]
    return plain_table(["column", "kind", "what"], [[f"`{one.name}`", one.kind, one.description] for one in rows])
