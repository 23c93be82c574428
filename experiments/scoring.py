"""One model on one data set: both prompts of the protocol, with a bar on standard error."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from core import distributed
from core.checkpoint import weights_sha256
from core.errors import InputError
from core.progress import counted
from core.protocols import Segmenter, device_of
from core.threads import allowed
from data.annotated_images import AnnotatedImages
from data.content import ReadFromFiles
from data.exclusions import NO_ANNOTATIONS
from data.sample import ImageData
from evaluation.baselines import score_baselines
from evaluation.latency import PRECISIONS
from evaluation.metrics import bootstrap_interval, mean_iou
from evaluation.paired_seeds import ImageScores
from evaluation.protocols import BOX_POINT, PROTOCOLS, ScoringProtocol
from evaluation.records import InstanceRecord, PartialRecords, keep_parts
from evaluation.scorer import Scorer
from experiments.config.groups import ShapesData
from teachers.sam import Sam


def has_instances(data: ImageData, indices: Sequence[int]) -> bool:
    """Whether the rules admit an instance of one of the images; True where nobody knows without reading them all."""
    return not isinstance(data, ReadFromFiles) or any(data.instance_count(index) for index in indices)


def require_instances(data: ImageData, indices: Sequence[int], key: str) -> None:
    """Refuse images of which none has an instance that the rules admit.

    Args:
        indices: of the images that are to be scored or learnt from.
        key: of the data set's settings, for messages.

    Raises:
        InputError: there is none; the message says what was left out.
    """
    if has_instances(data, indices):
        return
    if has_instances(data, range(len(data))):
        problem = f"none of the {len(indices)} requested images has an instance"
        raise InputError(f"{data.name}: {problem}; give a larger evaluation.images")
    source, fix = data.name, "give annotations that have some"
    if isinstance(data, AnnotatedImages):
        source = f"{data.truth_path}"
        fix = f"correct the file, or give {key}.least_area=0 or {key}.crowd=true where such are to count"
    raise InputError(f"{source}: no annotation is left as an instance ({_left_out(data)}); {fix}")


def require_points(data: ImageData, indices: Sequence[int]) -> None:
    """Refuse images of which an instance does not name the point that it was annotated from.

    Raises:
        InputError: there is one; the message names the first.
    """
    if not isinstance(data, ReadFromFiles):
        return
    for index in indices:
        if (found := data.without_point(index)) is not None:
            problem = f"its annotations name no points (point_coords of annotation {found} is missing)"
            raise InputError(f"{data.image_name(index)}: {problem}; choose a protocol with another prompt")


def require_records(records: Sized, data: ImageData) -> None:
    """Refuse to report on nothing.

    Raises:
        InputError: there are no records of instances.
    """
    if not len(records):
        problem = f"no instance could be scored ({_left_out(data)})"
        raise InputError(f"{data.name}: {problem}; look at the masks and images of this data set")


def _left_out(data: ImageData) -> str:
    counts = {reason: count for reason, count in data.skipped.items() if count and reason not in NO_ANNOTATIONS}
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items()) or "there are none"


VALIDATION_IMAGES = 50
IOUS = ("miou", "miou_point")
"""The columns of their mIoUs."""
RULES = ("crowd", "least_area")
"""Settings of data sets that say which annotations are instances; protocols may have their own."""


@dataclass(frozen=True)
class EvaluationSet:
    """Images that models are scored on.

    Attributes:
        data: the data set, with labels.
        name: of the data set in rows.
        indices: which images.
        batch: prompts decoded together.
        protocol: name and version of prompts and choice of masks.
        precision: what models compute in while they are scored.
        data_sha256: of the images and their annotations; None where they are made and not read.
        image_batch, workers: images encoded together, and processes that read them ahead.
        rules: what instances the data set admits, as axes of rows, where that is not the usual; see :func:`own_rules`.
    """

    data: ImageData
    name: str
    indices: Sequence[int]
    batch: int
    protocol: str
    precision: str = "float32"
    data_sha256: str | None = None
    image_batch: int = 1
    workers: int = 0
    rules: dict[str, str] = field(default_factory=dict)


def images_at_once(evaluation: Any, device: torch.device) -> tuple[int, int]:
    """Images encoded together, and processes that read ahead, by the settings of an evaluation and the device."""
    cuda = device.type == "cuda"
    workers = (min(8, allowed()) if cuda else 0) if evaluation.workers is None else evaluation.workers
    return evaluation.image_batch_size or (8 if cuda else 1), workers


def own_rules(data: Any) -> dict[str, str]:
    """What settings of a data set change about what is scored, as axes of rows; the usual: none.

    Which instances it admits (``crowd``, ``least_area``); of images that are made, and have no content to hash, what
    they are made of.
    """
    usual = ScoringProtocol(name="usual")
    differing = (key for key in RULES if hasattr(data, key) and getattr(data, key) != getattr(usual, key))
    found = {key: replace(usual, **{key: getattr(data, key)}).axes()[key] for key in differing}
    if isinstance(data, ShapesData):
        made = {"split": "validation"} | {name: getattr(ShapesData, name) for name in ("seed", "size", "difficulty")}
        found |= {key: str(getattr(data, key)) for key, value in made.items() if getattr(data, key) != value}
    return found


_NOT_OF_RECORDS = ("missing",)
"""Settings of a data set that no record of an image depends on, beside those of no identity: content counts."""


def described(data: Any) -> dict[str, Any]:
    """The settings of a data set that records of its images depend on."""
    return {
        part.name: getattr(data, part.name)
        for part in dataclasses.fields(data)
        if part.metadata.get("identity", True) and part.name not in _NOT_OF_RECORDS
    }


@dataclass(frozen=True)
class Kept:
    """Where images are kept as they are scored, so that another scoring goes on from them.

    Attributes:
        folder: of this scoring.
        about: what records depend on beside model, device, precision and protocols, as plain values.
        contents: what each image and its annotations are, each different.
        shared: a folder where whole scorings are kept for others, which are of other runs; None where there are none.
    """

    folder: Path
    about: Sequence[Any]
    contents: Sequence[str]
    shared: Path | None = None


def score_model(
    model: Sam, evaluation_set: EvaluationSet, kept: Kept | None = None
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The columns of ``core.result`` that scoring fills, for a model, and its mean IoUs image by image.

    Args:
        kept: None keeps nothing.
    """
    scorer = Scorer(
        model,
        BOX_POINT,
        prompt_batch_size=evaluation_set.batch,
        image_batch_size=evaluation_set.image_batch,
        workers=evaluation_set.workers,
        autocast=PRECISIONS[evaluation_set.precision],
    )
    partial = None
    if kept is not None:
        computed = [weights_sha256(model), device_of(model).type, evaluation_set.precision, evaluation_set.batch]
        # Scores that were kept earlier are of one image at a time.
        computed += [evaluation_set.image_batch] if evaluation_set.image_batch > 1 else []
        key = json.dumps([*computed, [protocol.axes() for protocol in BOX_POINT], *kept.about], sort_keys=True)
        partial = PartialRecords(kept.folder, key, kept.contents, [] if kept.shared is None else [kept.shared])
    with counted(f"scoring {model.name}", len(evaluation_set.indices)) as done:
        scored = scorer.score(evaluation_set.data, evaluation_set.indices, partial=partial, on_image=done)
    if partial is not None and kept is not None and kept.shared is not None and distributed.is_main():
        keep_parts(partial.folder, partial.key, kept.shared)
    box, point = (scored.instances(protocol.name) for protocol in BOX_POINT)
    by_image = ImageScores.of(dict(zip(IOUS, (box, point), strict=True)))
    return columns(box, point, evaluation_set), by_image.to_dict()


def training_score(data: ImageData, batch: int, is_used: bool = True) -> Callable[[Segmenter], float]:
    """What a run may choose its weights by: mIoU with one point and the single mask, on labelled training images.

    These are the last of the training set. Held-out images never choose anything.

    Args:
        is_used: whether the method is known to ask for it: what it would refuse is refused now.

    Raises:
        InputError: they have no instances; where only their pixels show it, the returned function raises.
    """
    protocol = PROTOCOLS["point_single@1"]
    indices = range(max(0, len(data) - VALIDATION_IMAGES), len(data))
    nothing = InputError(f"{data.name}: the last {len(indices)} training images have no instances to validate on")
    if is_used and not has_instances(data, indices):
        raise nothing

    def score(model: Segmenter) -> float:
        records = Scorer(model, [protocol], prompt_batch_size=batch).score(data, indices).instances(protocol.name)
        if not records:
            raise nothing
        return mean_iou(records)["miou"].value

    return score


@dataclass(frozen=True)
class Fillings:
    """What each baseline scored, by its name; none of them answers to a point.

    Attributes:
        columns: as of :func:`score_model`.
        by_image: mean IoUs image by image, of boxes alone.
    """

    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_image: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)


def score_fillings(evaluation_set: EvaluationSet) -> Fillings:
    """Score filled boxes and ellipses."""
    with counted("scoring filled boxes and ellipses", len(evaluation_set.indices)) as done:
        records = score_baselines(evaluation_set.data, indices=evaluation_set.indices, on_image=done)
    return Fillings(
        {name: columns(of_baseline, (), evaluation_set) for name, of_baseline in records.items()},
        {name: ImageScores.of({IOUS[0]: of_baseline}).to_dict() for name, of_baseline in records.items()},
    )


def columns(
    box: Sequence[InstanceRecord], point: Sequence[InstanceRecord], evaluation_set: EvaluationSet
) -> dict[str, Any]:
    """Records of box prompts, and of one point each, as columns.

    Raises:
        InputError: there are none of boxes.
    """
    require_records(box, evaluation_set.data)
    metrics, of_points = mean_iou(box), mean_iou(point)
    low, high = bootstrap_interval(box)
    axes = dict(evaluation_set.rules)
    if evaluation_set.data_sha256 is not None:
        axes["data_sha256"] = evaluation_set.data_sha256
    return {
        "data": evaluation_set.name,
        "protocol": evaluation_set.protocol,
        "axes": axes or None,
        **{name: metric.value for name, metric in metrics.items()},
        "miou_point": of_points["miou"].value if of_points else None,
        "instances": len(box),
        "images": len({record.image_id for record in box}),
        "miou_low": low,
        "miou_high": high,
        "skipped": {reason: count for reason, count in evaluation_set.data.skipped.items() if count},
    }
