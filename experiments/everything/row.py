"""One strategy of finding all masks, scored: a row, its file, and its name."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from core.errors import InputError
from core.plain_file import read_json
from core.provenance import impersonal
from experiments.out_place import writing_to

SCHEMA_VERSION = 1
_AGAIN = "do it again with force=true"


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """What one strategy finds on one data set with one model, and what that takes. Raw numbers; None is unknown.

    Attributes:
        run_id: name of the file.
        checkpoint: as it was given; ``model`` is its name, ``method`` and ``ratio`` what made it.
        data: the data set scored on; ``split`` is the part of it.
        protocol: ``everything@1``: proposals of the whole picture against its instances, whatever their category.
        images, instances: what the figures rest on.
        mean_best_iou: over instances, the IoU of the best proposal; ``_low`` and ``_high`` are its 95 % interval.
        average_recall_100, average_recall_1000: COCO's, with so many best predicted proposals a picture.
        proposals, prompts, encodings: a picture, on average: masks found, points asked, pictures or crops encoded.
        seconds: a picture, encoding and everything else included; median over pictures.
        processor_seconds: the same of the processor's time, all threads together, which other work on the machine
            hardly changes; None where an accelerator computes.
        peak_memory_bytes: see :func:`evaluation.memory.peak_memory`; of the first picture, weights included.
        threads: CPU threads that PyTorch may use for one operator.
        settings: of :class:`evaluation.everything.EverythingSettings`.
    """

    run_id: str
    checkpoint: str
    model: str
    method: str | None
    ratio: float | None
    data: str
    split: str | None
    protocol: str
    images: int
    instances: int
    mean_best_iou: float
    mean_best_iou_low: float | None
    mean_best_iou_high: float | None
    average_recall_100: float
    average_recall_1000: float
    proposals: float
    prompts: float
    encodings: float
    seconds: float
    processor_seconds: float | None
    peak_memory_bytes: int
    device: str
    threads: int
    precision: str
    settings: dict[str, Any]
    git_sha: str | None
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Every column in order, as plain values."""
        return dataclasses.asdict(self)

    @property
    def sides(self) -> tuple[int | None, int]:
        """Points a side of the coarse grid, None of the dense strategy, and of the dense grid."""
        dense = int(self.settings["points_per_side"])
        if self.settings["strategy"] == "dense":
            return None, dense
        coarse = self.settings["coarse_points_per_side"]
        return max(1, dense // 4) if coarse is None else int(coarse), dense

    @property
    def threshold(self) -> float | None:
        """The logit above which a mask covers its pixels; None of the dense strategy."""
        return None if self.settings["strategy"] == "dense" else float(self.settings["high_score_thresh"])


def write_row(path: Path, row: StrategyRow, about: Mapping[str, Any]) -> None:
    """Write a row and what goes with it (settings, provenance), atomically, without what is personal.

    Raises:
        InputError: the file cannot be written.
    """
    with writing_to(path.parent):
        content = impersonal({"rows": [row.to_dict()], **about})
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_row(path: Path) -> StrategyRow:
    """The row of a file that :func:`write_row` wrote.

    Raises:
        InputError: damaged, or of another version.
    """
    content = read_json(path, _AGAIN)
    try:
        row = StrategyRow(**content["rows"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: no row of the command everything ({error}); {_AGAIN}") from None
    if row.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: a row of version {row.schema_version!r}, this version reads {SCHEMA_VERSION}; {_AGAIN}"
        )
    return row
