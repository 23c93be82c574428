"""What a report of runs shows, as plain data: no package and no network are needed to read it."""

from collections.abc import Sequence
from dataclasses import dataclass

STAGES = (
    *("bottleneck_aligning", "embedding_aligning", "one_step"),
    *("scratch", "encoder", "decoder", "full_stage"),
)
"""Stages of the methods here, by the names of their logs."""
CURVES = (
    ("mIoU over time, boxes", "miou"),
    ("mIoU over time, one point", "miou_point"),
    ("Loss", "loss"),
    ("Learning rate", "rate"),
    ("Images a second", "images_per_s"),
    ("Peak memory, bytes", "peak_memory_bytes"),
)
"""Titles of the curves, and the figure each shows."""
TRADE_OFF = ("ratio", "macs_full", "parameters", "size_bytes", "encoder_latency_ms", "miou", "miou_point")
"""Columns of the parallel coordinates, from what was chosen to what came out."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        kind: ``line``, ``scatter``, ``parallel``, ``table`` or ``pictures``.
        title: above it.
        x, y: what is plotted: of a line figures in the history, of a scatter those of the summary.
        keys: columns of parallel coordinates, the table's key, or where pictures lie.
    """

    kind: str
    title: str
    x: str | None = None
    y: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


def layout(stages: Sequence[str] = STAGES) -> tuple[Section, ...]:
    """Comparison first, then what every stage did over its own steps.

    Args:
        stages: whose curves are shown; one that no run has stays empty.
    """
    compared = (
        Panel("table", "Students, teachers and filled prompts", keys=("comparison",)),
        Panel("scatter", "mIoU with boxes by MACs, counter full", "macs_full", ("miou",)),
        Panel("scatter", "mIoU with one point by MACs, counter full", "macs_full", ("miou_point",)),
        Panel("parallel", "What was chosen, and what came out", keys=TRADE_OFF),
        Panel("pictures", "Boxes, ground truth, teacher and student", keys=("masks/comparison",)),
    )
    curves = (
        Section(title, tuple(Panel("line", stage, f"{stage}/step", (f"{stage}/{name}",)) for stage in stages))
        for title, name in CURVES
    )
    return (Section("Comparison", compared), *curves)
