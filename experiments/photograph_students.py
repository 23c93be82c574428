"""Students of photographs with a detector's boxes, in everything mode, and quantised: tables of docs/photographs.md.

All three stand beside :mod:`experiments.photographs`, whose runs they are of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from core.result import ResultRow
from evaluation.paired_seeds import seed_difference
from experiments.budget import Model, label
from experiments.everything.strategies import StrategyRow, read_row
from experiments.paper_table import interval_in_points
from experiments.photographs import NAME, TEACHER, VALIDATION, Photographs, committed_of
from experiments.reporting.columns import COLUMNS, share
from experiments.reporting.text_tables import plain_table
from experiments.result_file import read_rows

QUANTISED = "+ptq"
"""How the methods of quantised students end."""
WITH_DETECTOR, IN_EVERYTHING = f"{NAME}_detector", f"{NAME}_everything"
"""Folders of ``results/``, a file a student, named by its run."""
SINGLE, BEST = "detector_box_single@1", "detector_box_best_of_3@1"
_NO_ROW = "No row is committed yet: the commands below make them."


@dataclass(frozen=True)
class Elsewhere:
    """How students were scored by other protocols than their runs', by the id of the run, or the teacher's name."""

    detected: Mapping[str, Sequence[ResultRow]]
    everything: Mapping[str, StrategyRow]

    @classmethod
    def committed(cls) -> "Elsewhere":
        """What ``results/`` has."""
        detected = {name: read_rows(path) for name, path in committed_of(WITH_DETECTOR).items()}
        return cls(detected, {name: read_row(path) for name, path in committed_of(IN_EVERYTHING).items()})

    def ap(self, names: Sequence[str], protocol: str) -> list[float]:
        """Mask AP of each that has it."""
        rows = [row for name in names for row in self.detected.get(name, ()) if row.protocol == protocol]
        return [row.ap for row in rows if row.ap is not None]

    def found(self, names: Sequence[str], column: str) -> list[float]:
        """A column of everything mode, of each that has it."""
        return [getattr(self.everything[name], column) for name in names if name in self.everything]


def elsewhere_table(found: Photographs, scores: Elsewhere) -> str:
    """AP of masks for a detector's boxes on COCO, and what everything mode finds, a line a model."""
    if not scores.detected or not scores.everything:
        return _NO_ROW
    lines = [_elsewhere("teacher", [TEACHER], scores)]
    for model in found.models():
        lines.append(_elsewhere(label(model), [str(row.run_id) for row in found.rows(VALIDATION, model)], scores))
    row = next(row for rows in scores.detected.values() for row in rows if row.protocol == SINGLE)
    other = next(iter(scores.everything.values()))
    about = (
        f"`{SINGLE}` and `{BEST}`: {row.detections:,} boxes in {row.images:,} images of COCO; `{other.protocol}`, "
        f"{other.settings['points_per_side']} points a side: {other.instances:,} instances in {other.images:,} images "
        f"of *validation*; {other.device}, {other.precision}. In brackets 95 % intervals of Student's t over seeds."
    )
    header = ["model", "seeds", "AP, single mask", "AP, best of three", "everything: mean best IoU", "AR@1000", "masks"]
    return f"{about}\n\n{plain_table(header, lines)}"


def _elsewhere(name: str, runs: Sequence[str], scores: Elsewhere) -> list[str]:
    cells = [_over_seeds(scores.ap(runs, protocol)) for protocol in (SINGLE, BEST)]
    cells += [_over_seeds(scores.found(runs, column)) for column in ("mean_best_iou", "average_recall_1000")]
    masks = scores.found(runs, "proposals")
    seeds = max(len(scores.ap(runs, SINGLE)), len(masks))
    return [name, "" if name == "teacher" else str(seeds), *cells, f"{mean(masks):.0f}" if masks else ""]


def _over_seeds(values: Sequence[float]) -> str:
    """The mean, with its interval where there are several."""
    if len(values) < 2:
        return share(values[0]) if values else ""
    level = seed_difference(values, [0.0] * len(values))
    return f"{level.difference:.4f} [{level.low:.4f}, {level.high:.4f}]"


def quantised_photographs(found: Photographs, quantised: Photographs, scores: Elsewhere) -> str:
    """What 8 bits cost each student on each measure, in points with intervals, mask AP before and after, and bytes.

    Args:
        quantised: the same models, ``committed(QUANTISED)``.
        scores: of both with a detector's boxes.
    """
    lines = [
        _quantised(found, quantised, scores, model) for model in quantised.models() if found.rows(VALIDATION, model)
    ]
    if not lines:
        return _NO_ROW
    titles = [title for *_, title in quantised.measures()]
    header = [
        "model",
        "bits",
        "seeds",
        *(f"quantised - float, {title}" for title in titles),
        "AP, single mask, float",
        "AP, quantised",
        "file, float",
        "file, quantised",
    ]
    return plain_table(header, lines)


def _quantised(found: Photographs, quantised: Photographs, scores: Elsewhere, model: Model) -> list[str]:
    after = quantised.rows(VALIDATION, model)
    before = [row for row in found.rows(VALIDATION, model) if row.seed in {one.seed for one in after}]
    cells = []
    for data, column, _ in quantised.measures():
        sides = quantised.rows(data, model), found.rows(data, model)
        # Each knows the scores of its own rows alone.
        both = replace(quantised.scored[data], scores={**found.scored[data].scores, **quantised.scored[data].scores})
        compared = both.between(*sides, column) if all(sides) else None
        cells.append("" if compared is None else interval_in_points(compared[0]) + ("¹" if compared[1] == 1 else ""))
    for rows in (before, after):
        detected = scores.ap([str(row.run_id) for row in rows], SINGLE)
        # Of the same seeds, or none.
        cells.append(share(mean(detected)) if len(detected) == len(after) else "")
    size = [COLUMNS["size_bytes"].shown(rows[0].size_bytes) for rows in (before, after) if rows]
    return [label(model), f"W{after[0].weight_bits}A{after[0].activation_bits}", str(len(before)), *cells, *size]
