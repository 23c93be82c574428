"""What the evaluators are given: copies of ground truth and results that are checked and brought to one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from core.errors import InputError
from data.json_fields import numbers, require_int, value
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


class GroundTruth:
    """What results are compared with: an annotation file's content, copied and checked.

    Args:
        truth, style, iou_type, image_ids: as :func:`evaluation.average_precision.figures.average_precision` takes them.

    Attributes:
        images, categories: as of :class:`Prepared`, by id; all that the file lists.
        image_ids: of the images that were chosen.

    Raises:
        InputError: a key is missing or has a wrong value, ``image_ids`` names an image that ``truth`` does not list, or
            there is no image to score.
    """

    def __init__(
        self, truth: Mapping[str, Any], style: str, iou_type: str, image_ids: Sequence[int] | None = None
    ) -> None:
        content = dict(truth) if isinstance(truth, Mapping) else truth
        listed = {key: value(content, key, "ground truth") for key in ("images", "annotations", "categories")}
        images = [image_of(entry, style, iou_type) for entry in entries(listed["images"], "ground truth: images")]
        categories = [category_of(entry, style) for entry in entries(listed["categories"], "ground truth: categories")]
        self.style, self.iou_type = style, iou_type
        self.images = {image["id"]: image for image in images}
        self.categories = {category["id"]: category for category in categories}
        self.image_ids = chosen_images(image_ids, self.images)
        self._raw = listed["annotations"]

    def checked(self) -> Self:
        """The same, once all of its annotations have been checked.

        Raises:
            InputError: see :attr:`annotations`.
        """
        _ = self.annotations
        return self

    @cached_property
    def annotations(self) -> list[dict[str, Any]]:
        """As of :class:`Prepared` but for their ids; those of the chosen images.

        Raises:
            InputError: a key is missing or has a wrong value.
        """
        found = []
        for entry in entries(self._raw, "ground truth: annotations"):
            where = f"ground truth: annotation {entry.get('id')}"
            annotation = _placed(entry, where)
            if annotation["image_id"] not in self.image_ids or annotation["category_id"] not in self.categories:
                continue
            annotation["iscrowd"] = int(self.style == "coco" and bool(entry.get("iscrowd")))
            annotation |= shape_of(entry, self.images[annotation["image_id"]], self.iou_type, where)
            if "area" in entry:
                (annotation["area"],) = numbers([entry["area"]], 1, "area", where)
            if self.style == "lvis" and entry.get("ignore"):
                annotation["area"] = _IGNORED_AREA
            found.append(annotation)
        self._raw = ()
        return found


def prepare(
    truth: GroundTruth, results: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None = None
) -> Prepared:
    """Ground truth and results as an evaluator takes them.

    Args:
        image_ids: those to score; None: all that ``truth`` has.

    Raises:
        InputError: a key of a result or an annotation is missing or has a wrong value, a result or ``image_ids`` names
            an id that ``truth`` does not list, or there is no image to score.
    """
    images = truth.images
    chosen = truth.image_ids if image_ids is None else chosen_images(image_ids, images) & truth.image_ids
    detections: list[dict[str, Any]] = []
    for place, entry in enumerate(entries(results, "results")):
        where = f"result {place}"
        detection = _placed(entry, where)
        known(detection["image_id"], where, "image", images)
        known(detection["category_id"], where, "category", truth.categories)
        (detection["score"],) = numbers([value(entry, "score", where)], 1, "score", where)
        if detection["image_id"] in chosen:
            detection |= {"id": len(detections) + 1, "iscrowd": 0}
            detections.append(detection | shape_of(entry, images[detection["image_id"]], truth.iou_type, where))
    annotations = [annotation for annotation in truth.annotations if annotation["image_id"] in chosen]
    return Prepared(
        [dict(images[id_]) for id_ in sorted(chosen)],
        [dict(truth.categories[id_]) for id_ in sorted(truth.categories)],
        [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
        detections,
        truth.style,
        truth.iou_type,
    )


def chosen_images(image_ids: Sequence[int] | None, images: Mapping[int, Any]) -> frozenset[int]:
    """The ids that are given, or all; each must be listed, and there must be one."""
    chosen = images if image_ids is None else [known(id_, "image_ids", "image", images) for id_ in image_ids]
    if not chosen:
        raise InputError("no image to score; leave image_ids out, or give a ground truth that lists images")
    return frozenset(chosen)


def _placed(entry: dict[str, Any], where: str) -> dict[str, Any]:
    return {key: require_int(entry, key, where) for key in ("image_id", "category_id")}
