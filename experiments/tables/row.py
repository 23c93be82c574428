"""A line of a comparison table: one model, measured here over its seeds or published in a paper."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from core.result import ResultRow

MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A line. Scores in 0..1 are means over seeds; None is unknown.

    Attributes:
        kind: :data:`MEASURED` here, or :data:`PUBLISHED` in a paper, whose conditions are its own.
        model: what it is called in a table.
        seeds: of training.
        run_ids: where the figures come from.
        instances, images, detections: what the score rests on.
        images_seen: in training.
        metric: ``miou`` or ``ap``.
        score_spread, point_spread: standard deviations over seeds; None of a single one.
        point: mIoU with one point, of ``box_point@1``.
        to_teacher, point_to_teacher: differences to the teacher's row under the same conditions, in points.
        macs_scaled: multiply-accumulates that a paper scales by the bits, by a rule of its own.
        macs_counter: of published ones: how their source counts, as this project names it.
        encoder_latency_ms: the median of all measurements.
        source: of published ones: where they stand.
    """

    kind: str
    data: str
    protocol: str
    model: str
    method: str | None = None
    ratio: float | None = None
    teacher: str | None = None
    student: str | None = None
    variant: str | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    choices: str | None = None
    seeds: tuple[int, ...] = ()
    run_ids: tuple[str, ...] = ()
    instances: int | None = None
    images: int | None = None
    detections: int | None = None
    images_seen: int | None = None
    metric: str
    score: float
    score_spread: float | None = None
    small: float | None = None
    medium: float | None = None
    large: float | None = None
    point: float | None = None
    point_spread: float | None = None
    to_teacher: float | None = None
    point_to_teacher: float | None = None
    parameters: int | None = None
    macs_full: int | None = None
    macs_modules: int | None = None
    macs_scaled: int | None = None
    macs_counter: str | None = None
    size_bytes: int | None = None
    encoder_latency_ms: float | None = None
    device: str | None = None
    precision: str | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The columns by name."""
        return asdict(self)


def model_label(row: ResultRow) -> str:
    """Method, ratio, student, variant and bits, as far as each says something that the others do not."""
    if row.method == "teacher":
        return f"teacher {row.teacher}"
    name = row.method.replace("_", " ") + ("" if row.ratio is None else f" {row.ratio:g}")
    student = re.sub(r"-?w\d+a\d+$", "", (row.student or "").removeprefix(f"{row.teacher}-"))
    own = row.method.partition("+")[0] + ("" if row.ratio is None else f"-{row.ratio:g}")
    parts = [name, *([student] if student not in ("", own, row.teacher) else [])]
    parts += [row.variant] if row.variant not in (None, row.method) else []
    return ", ".join([*parts, *([] if row.weight_bits is None else [f"W{row.weight_bits}A{row.activation_bits}"])])
