"""What the evaluators are given: copies of ground truth and results that are checked and brought to one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import InputError
from data.json_fields import numbers, value, whole
from evaluation.average_precision.entries import category_of, entries, image_of, known, shape_of

# Beyond every size class: an evaluator ignores the annotation in each of them.
_IGNORED_AREA = 1e11


@dataclass(frozen=True)
class Prepared:
    """Everything one evaluation needs. The dictionaries are the evaluator's own, to be changed at will.

    Attributes:
        images: ``id``, ``height`` and ``width`` (for masks) and, of LVIS, the two lists of categories; ordered by id.
        categories: ``id`` and, of LVIS, ``frequency``; ordered by id.
        annotations: ``id`` (from 1), ``image_id``, ``category_id``, ``area``, ``iscrowd``, and ``segmentation`` (RLE
            with bytes) or ``bbox``; in the order given, only those of the images and categories above.
        detections: likewise, with ``score``.
        style, iou_type: as :func:`evaluation.average_precision.figures.average_precision` takes them.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    style: str
    iou_type: str


def prepare(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    style: str,
    iou_type: str,
    image_ids: Sequence[int] | None = None,
) -> Prepared:
    """Check and copy; the arguments are those of :func:`evaluation.average_precision.figures.average_precision`.

    Raises:
        InputError: a key is missing or has a wrong value, a result or ``image_ids`` names an id that ``truth`` does
            not list, or there is no image to score.
    """
    content = dict(truth) if isinstance(truth, Mapping) else truth
    listed = {key: value(content, key, "ground truth") for key in ("images", "annotations", "categories")}
    all_images = [image_of(entry, style, iou_type) for entry in entries(listed["images"], "ground truth: images")]
    all_categories = [category_of(entry, style) for entry in entries(listed["categories"], "ground truth: categories")]
    images = {image["id"]: image for image in all_images}
    categories = {category["id"]: category for category in all_categories}
    chosen = set(images) if image_ids is None else {known(id_, "image_ids", "image", images) for id_ in image_ids}
    if not chosen:
        raise InputError("no image to score; leave image_ids out, or give a ground truth that lists images")

    detections: list[dict[str, Any]] = []
    for place, entry in enumerate(entries(results, "results")):
        where = f"result {place}"
        detection = _placed(entry, where)
        known(detection["image_id"], where, "image", images)
        known(detection["category_id"], where, "category", categories)
        (detection["score"],) = numbers([value(entry, "score", where)], 1, "score", where)
        if detection["image_id"] in chosen:
            detection |= {"id": len(detections) + 1, "iscrowd": 0}
            detections.append(detection | shape_of(entry, images[detection["image_id"]], iou_type, where))

    annotations: list[dict[str, Any]] = []
    for entry in entries(listed["annotations"], "ground truth: annotations"):
        where = f"ground truth: annotation {entry.get('id')}"
        annotation = _placed(entry, where)
        if annotation["image_id"] not in chosen or annotation["category_id"] not in categories:
            continue
        annotation |= {"id": len(annotations) + 1, "iscrowd": int(style == "coco" and bool(entry.get("iscrowd")))}
        annotation |= shape_of(entry, images[annotation["image_id"]], iou_type, where)
        if "area" in entry:
            (annotation["area"],) = numbers([entry["area"]], 1, "area", where)
        if style == "lvis" and entry.get("ignore"):
            annotation["area"] = _IGNORED_AREA
        annotations.append(annotation)

    return Prepared(
        [images[id_] for id_ in sorted(chosen)],
        [categories[id_] for id_ in sorted(categories)],
        annotations,
        detections,
        style,
        iou_type,
    )


def _placed(entry: dict[str, Any], where: str) -> dict[str, Any]:
    return {key: whole(entry, key, where) for key in ("image_id", "category_id")}
