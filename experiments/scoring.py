"""One model on one data set: both prompts of the protocol, with a bar on standard error."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core import processes
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.protocols import Metric, Segmenter, device_of
from core.terminal import terminal
from data.sample import ImageData
from evaluation.baselines import score_baselines
from evaluation.latency import PRECISIONS
from evaluation.metrics import mean_iou
from evaluation.protocols import PROTOCOLS
from evaluation.records import InstanceRecord, PartialRecords
from evaluation.scorer import Scorer
from experiments.scorable import has_instances, require_records
from teachers.sam import Sam

VALIDATION_IMAGES = 50
BOX_POINT = (PROTOCOLS["box_single@1"], PROTOCOLS["point_best_of_3@1"])
"""What ``box_point@1`` stands for: boxes take the single mask, points the best predicted of three."""


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures that models are scored on.

    Attributes:
        data: the data set, with labels.
        name: of the data set in rows.
        indices: which pictures.
        batch: prompts decoded together.
        protocol: name and version of prompts and choice of masks.
        precision: what models compute in while they are scored.
        data_sha256: of the pictures and their annotations; None where they are made and not read.
    """

    data: ImageData
    name: str
    indices: Sequence[int]
    batch: int
    protocol: str
    precision: str = "float32"
    data_sha256: str | None = None


def score_model(model: Sam, held: EvaluationSet, folder: Path | None = None) -> dict[str, Any]:
    """The columns of ``core.result`` that scoring fills, for a model.

    Args:
        folder: where images are kept as they are scored, so that another call goes on from them; None keeps nothing.
    """
    key = json.dumps([weights_sha256(model), device_of(model).type, held.precision, held.batch])
    scorer = Scorer(model, BOX_POINT, prompt_batch_size=held.batch, autocast=PRECISIONS[held.precision])
    partial = None if folder is None else PartialRecords(folder, key)
    with counted(f"scoring {model.name}", len(held.indices)) as done:
        scored = scorer.score(held.data, held.indices, partial=partial, on_image=done)
    box, point = (scored.instances(protocol.name) for protocol in BOX_POINT)
    return columns(box, held) | point_column(point)


def training_score(data: ImageData, batch: int, is_used: bool = True) -> Callable[[Segmenter], float]:
    """What a run may choose its weights by: mIoU with one point and the single mask, on labelled training pictures.

    These are the last of the training set. EvaluationSet-out pictures never choose anything.

    Args:
        is_used: whether the method is known to ask for it: what it would refuse is refused now.

    Raises:
        InputError: they have no instances; where only their pixels show it, the returned function raises.
    """
    protocol = PROTOCOLS["point_single@1"]
    indices = range(max(0, len(data) - VALIDATION_IMAGES), len(data))
    nothing = InputError(f"{data.name}: the last {len(indices)} training pictures have no instances to validate on")
    if is_used and not has_instances(data, indices):
        raise nothing

    def score(model: Segmenter) -> float:
        records = Scorer(model, [protocol], prompt_batch_size=batch).score(data, indices).instances(protocol.name)
        if not records:
            raise nothing
        return mean_iou(records)["miou"].value

    return score


def score_fillings(held: EvaluationSet) -> dict[str, dict[str, Any]]:
    """The same columns for each baseline; none of them answers to a point."""
    with counted("scoring filled boxes and ellipses", len(held.indices)) as done:
        records = score_baselines(held.data, indices=held.indices, on_image=done)
    return {name: columns(of_baseline, held) for name, of_baseline in records.items()}


def point_column(records: Sequence[InstanceRecord]) -> dict[str, Any]:
    """Records of one point each as a column."""
    return {"miou_point": _value(mean_iou(records), "miou")}


def columns(records: Sequence[InstanceRecord], held: EvaluationSet) -> dict[str, Any]:
    """Records of box prompts as columns.

    Raises:
        InputError: there are none.
    """
    require_records(records, held.data)
    metrics = mean_iou(records)
    names = ("miou", "miou_small", "miou_medium", "miou_large")
    overall = metrics["miou"]
    return {
        "data": held.name,
        "protocol": held.protocol,
        "axes": None if held.data_sha256 is None else {"data_sha256": held.data_sha256},
        **{name: _value(metrics, name) for name in names},
        "instances": len(records),
        "images": len({record.image_id for record in records}),
        "miou_low": overall.low,
        "miou_high": overall.high,
        "skipped": {reason: count for reason, count in held.data.skipped.items() if count},
    }


def _value(metrics: Mapping[str, Metric], name: str) -> float | None:
    return metrics[name].value if name in metrics else None


@contextlib.contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over images on standard error; a line where that is no terminal. Yields ``done(count)``.

    Of several processes the first shows it, for its own share.

    Args:
        total: images of all processes.
    """
    if not processes.is_first():
        yield lambda count: None
        return
    console, total = terminal(stderr=True), -(-total // processes.count())
    if not console.is_terminal:
        console.print(f"{what}: {total} pictures", soft_wrap=True)
        yield lambda count: None
        return
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*shown, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.update(task, completed=count)
