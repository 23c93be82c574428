"""COCO's and LVIS's figures by faster-coco-eval, whose loops are compiled, to the official evaluators' last digit."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from evaluation.average_precision.entries import FREQUENCIES, MOST_LVIS_DETECTIONS
from evaluation.average_precision.prepared import Prepared

Array = NDArray[np.float64]

_MOST_DETECTIONS = {"coco": [1, 10, 100], "lvis": [MOST_LVIS_DETECTIONS]}
_THRESHOLDS, _POINTS, _SIZES = 10, 101, 4
"""IoU 0.5, 0.55, ..., 0.95; recall 0, 0.01, ..., 1; all, small, medium and large."""
_IOU_50, _IOU_75 = 0, 5

_ONE_OF_ONE = float(1 / (1 + np.spacing(1)))
"""The precision of one hit and no miss in the official evaluators, which add this much to every denominator so that it
is not 0. Against two or more it is lost in rounding."""


def evaluate_faster(prepared: Prepared) -> Sequence[float]:
    """The figures of ``prepared.style`` in the order of its official evaluator; -1 for one that is undefined.

    Each category is evaluated by itself, on the images where it is annotated or detected: LVIS's validation set has
    24 million pairs of image and category, nearly all of them empty, and the evaluator holds every pair it is given.
    """
    annotations, detections = prepared.annotations, prepared.detections
    if prepared.style == "lvis":
        annotations, detections = _counted_by_lvis(prepared)
    annotated, detected = _by_category(annotations), _by_category(detections)
    limits = len(_MOST_DETECTIONS[prepared.style])
    precision = np.full((_THRESHOLDS, _POINTS, len(prepared.categories), _SIZES, limits), -1.0)
    recall = np.full((_THRESHOLDS, len(prepared.categories), _SIZES, limits), -1.0)
    for place, category in enumerate(prepared.categories):
        # A category without annotations stays undefined, and no mean counts it.
        if found := annotated[category["id"]]:
            precision[:, :, place], recall[:, place] = _curves(prepared, category, found, detected[category["id"]])

    # The official means run over [thresholds, recall points, categories] in this order, which rounding remembers.
    small_to_large = range(1, _SIZES)
    figures = [precision[..., 0, -1], precision[_IOU_50, ..., 0, -1], precision[_IOU_75, ..., 0, -1]]
    figures += [precision[..., size, -1] for size in small_to_large]
    if prepared.style == "lvis":
        groups = np.array([category["frequency"] for category in prepared.categories], dtype=str)
        figures += [precision[:, :, groups == group, 0, -1] for group in FREQUENCIES]
    figures += [recall[..., 0, limit] for limit in range(limits)]
    figures += [recall[..., size, -1] for size in small_to_large]
    return [_mean(figure) for figure in figures]


def _counted_by_lvis(prepared: Prepared) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The annotations and detections that lvis looks at, which faster-coco-eval leaves to its caller.

    First an image's detections are limited, the first of equal scores winning. Then everything without area is passed
    over, and detections of a category that nobody looked for on their image, neither finding it nor noting its absence.
    """
    annotations = [annotation for annotation in prepared.annotations if annotation["area"] > 0]
    looked_for = {(image["id"], category) for image in prepared.images for category in image["neg_category_ids"]}
    looked_for |= {(annotation["image_id"], annotation["category_id"]) for annotation in annotations}
    of_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for detection in prepared.detections:
        of_image[detection["image_id"]].append(detection)
    detections = []
    for found in of_image.values():
        if len(found) > MOST_LVIS_DETECTIONS:
            found = sorted(found, key=lambda detection: -detection["score"])[:MOST_LVIS_DETECTIONS]
        detections += [
            detection
            for detection in found
            if detection["area"] > 0 and (detection["image_id"], detection["category_id"]) in looked_for
        ]
    return annotations, detections


def _by_category(entries: list[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    of_category: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        of_category[entry["category_id"]].append(entry)
    return of_category


def _curves(
    prepared: Prepared,
    category: dict[str, Any],
    annotations: list[dict[str, Any]],
    detections: list[dict[str, Any]],
) -> tuple[Array, Array]:
    """One category's precision ``[thresholds, points, sizes, limits]`` and recall ``[thresholds, sizes, limits]``.

    Limits are those on the number of detections; -1 marks sizes without annotations.
    """
    shown = {entry["image_id"] for entries in (annotations, detections) for entry in entries}
    listed = {"images": [image for image in prepared.images if image["id"] in shown], "categories": [category]}
    evaluation = COCOeval_faster(
        COCO({**listed, "annotations": annotations}),
        COCO({**listed, "annotations": detections}),
        prepared.iou_type,
        lvis_style=prepared.style == "lvis",
        rle_iou_max_workers=1,  # a pool of threads for each category costs more than it saves
    )
    settings = evaluation.params
    settings.maxDets = list(_MOST_DETECTIONS[prepared.style])
    # One more recall point for each size, which a second hit reaches and the first does not.
    counted = [
        sum(not entry["iscrowd"] and low <= entry["area"] <= high for entry in annotations)
        for low, high in settings.areaRng
    ]
    settings.recThrs = np.append(settings.recThrs, [1.5 / max(1, count) for count in counted])
    evaluation.evaluate()
    evaluation.accumulate()
    reached = evaluation.eval["precision"][:, :, 0]
    precision, recall = reached[:, :_POINTS], evaluation.eval["recall"][:, 0]
    second = np.stack([reached[:, _POINTS + size, size] for size in range(_SIZES)], axis=1)
    # Precision 1 comes from the first hit alone unless the second has it too.
    alone = (precision == 1) & (second != 1)[:, None]
    return np.where(alone, _ONE_OF_ONE, precision), recall


def _mean(values: Array) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0
