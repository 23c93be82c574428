"""One entry of an annotation or results file at a time: read, checked and reduced to what an evaluator needs."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from core.errors import InputError
from data.annotations import rle_area, to_rle
from data.json_fields import numbers, require_int, value

MOST_LVIS_DETECTIONS = 300
"""How many detections of an image LVIS counts, the best ones."""
FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent: how LVIS groups its categories."""


def entries(listed: object, where: str) -> Iterator[dict[str, Any]]:
    """The objects of a list, as copies whose numpy values (scores, ids, boxes) have become Python's.

    Raises:
        InputError: it is no list, or holds something else than objects.
    """
    if not isinstance(listed, list | tuple):
        raise InputError(f"{where}: is a {type(listed).__name__}, not a list; give the content of a COCO-style file")
    for place, entry in enumerate(listed):
        if not isinstance(entry, Mapping):
            kind = type(entry).__name__
            raise InputError(f"{where}: number {place} is a {kind}, not an object; correct the file")
        yield {
            key: found.tolist() if isinstance(found, np.ndarray | np.generic) else found for key, found in entry.items()
        }


def known(found: int, where: str, kind: str, listed: Collection[int]) -> int:
    """The id ``found``, or InputError when the ground truth's ``listed`` ids lack it; ``kind``: image or category."""
    if found not in listed:
        raise InputError(f"{where}: the ground truth lists no {kind} {found}; give the annotation file it belongs to")
    return found


def image_of(entry: dict[str, Any], style: str, iou_type: str) -> dict[str, Any]:
    """An image as its id, its size where masks are compared, and LVIS's two lists of categories.

    Those are ``neg_category_ids`` (known not to be there) and ``not_exhaustive_category_ids`` (not all annotated).
    """
    image: dict[str, Any] = {"id": require_int(entry, "id", "ground truth: an image")}
    if iou_type == "segm":
        image |= {key: require_int(entry, key, f"ground truth: image {image['id']}", 1) for key in ("height", "width")}
    if style == "lvis":
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            listed = entry.get(key)
            if not isinstance(listed, list):
                raise InputError(
                    f'ground truth: image {image["id"]}: "{key}" is {str(listed)[:40]}, not a list; '
                    'give an annotation file of LVIS, or the style "coco"'
                )
            if strange := [category for category in listed if type(category) is not int]:
                found = f'"{key}" holds {str(strange[0])[:40]!r}'
                raise InputError(f"ground truth: image {image['id']}: {found}, not an id; correct the file")
            image[key] = list(entry[key])
    return image


def category_of(entry: dict[str, Any], style: str) -> dict[str, Any]:
    """A category as its id and, of LVIS, its group of frequency."""
    category: dict[str, Any] = {"id": require_int(entry, "id", "ground truth: a category")}
    if style == "lvis":
        category["frequency"] = entry.get("frequency")
        if category["frequency"] not in FREQUENCIES:
            raise InputError(
                f'ground truth: category {category["id"]}: "frequency" is {category["frequency"]!r}, not one of '
                f'{", ".join(FREQUENCIES)}; give an annotation file of LVIS, or the style "coco"'
            )
    return category


def shape_of(entry: dict[str, Any], image: dict[str, Any], iou_type: str, where: str) -> dict[str, Any]:
    """What is compared - ``segmentation`` as compressed RLE, or ``bbox`` (x, y, width, height) - and its area."""
    if iou_type == "bbox":
        box = numbers(value(entry, "bbox", where), 4, "bbox", where)
        return {"bbox": box, "area": box[2] * box[3]}
    rle = to_rle(value(entry, "segmentation", where), (image["height"], image["width"]), where)
    return {"segmentation": rle, "area": rle_area(rle)}
