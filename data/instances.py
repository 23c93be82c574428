"""The written rules on which annotations count, shared by every data set with COCO-style annotations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotations import check_segmentation, decode_rle, rle_area, to_rle
from data.json_fields import numbers, value, whole
from data.sample import ImageSample

REASONS = {
    "unknown_image": "the annotation's image is not listed",
    "crowd": "iscrowd is 1: a region, not an instance",
    "area_below_1": "the annotated area is below one pixel",
    "empty_box": "the box has no width or no height, or lies outside the image",
    "empty_mask": "the segmentation covers no pixel (known once the sample was read)",
    "clipped_box": "kept, with its box cut to the image",
    "image_without_instances": "images (not annotations) that have no usable instance",
}
"""What ``skipped`` counts. An annotation that several of the first four fit counts under the first of them."""

# COCO rounds x and width to 0.01 each, so a box may end this far outside without being wrong.
_ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation that the rules admit: box xyxy in image pixels, area in pixels, checked segmentation."""

    annotation_id: int
    box_xyxy: tuple[float, float, float, float]
    area: float
    segmentation: object
    point_xy: tuple[float, float] | None


class Rules:
    """Admits annotations one after the other and counts those left out."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(REASONS, 0)
        self._seen: set[int] = set()
        self._empty: set[int] = set()

    @property
    def counts(self) -> dict[str, int]:
        """How often each of :data:`REASONS` applied so far (a copy)."""
        return {**self._counts, "empty_mask": len(self._empty)}

    def count(self, reason: str) -> None:
        """Count one case of a reason."""
        self._counts[reason] += 1

    def admit(self, raw: object, size_hw: tuple[int, int] | None, source: Path) -> Instance | None:
        """Check one annotation (all of it, before any rule) and apply the rules.

        Args:
            raw: the annotation as JSON gave it.
            size_hw: size of its image, None when no such image is listed.
            source: the file it came from, for messages.

        Returns:
            The instance, or None when a rule leaves it out.

        Raises:
            InputError: a key is missing or of the wrong type, the id was seen before, or the segmentation is malformed.
        """
        annotation_id = whole(raw, "id", f"{source}: an annotation")
        where = f"{source}: annotation {annotation_id}"
        if annotation_id in self._seen:
            raise InputError(f"{where}: the id occurs twice; give every annotation its own id")
        self._seen.add(annotation_id)
        x, y, width, height = numbers(value(raw, "bbox", where), 4, "bbox", where)
        (area,) = numbers([value(raw, "area", where)], 1, "area", where)
        segmentation = value(raw, "segmentation", where)
        if size_hw is None:
            self.count("unknown_image")
            return None
        check_segmentation(segmentation, size_hw, where)
        assert isinstance(raw, dict)
        if raw.get("iscrowd"):
            self.count("crowd")
            return None
        if area < 1:
            self.count("area_below_1")
            return None
        limits = (size_hw[1], size_hw[0], size_hw[1], size_hw[0])
        corners = (x, y, x + width, y + height)
        left, top, right, bottom = (min(max(c, 0.0), float(end)) for c, end in zip(corners, limits, strict=True))
        if right <= left or bottom <= top:
            self.count("empty_box")
            return None
        box = (left, top, right, bottom)
        if any(abs(cut - corner) > _ROUNDING for cut, corner in zip(box, corners, strict=True)):
            self.count("clipped_box")
        return Instance(annotation_id, box, area, segmentation, _first_point(raw, where))

    def with_pixels(
        self, instances: Iterable[Instance], size_hw: tuple[int, int], source: Path
    ) -> list[tuple[Instance, dict[str, Any]]]:
        """The instances whose mask is not empty, with it as RLE; each empty one is counted once however often read."""
        pairs = []
        for instance in instances:
            rle = to_rle(instance.segmentation, size_hw, f"{source}: annotation {instance.annotation_id}")
            if rle_area(rle):
                pairs.append((instance, rle))
            else:
                self._empty.add(instance.annotation_id)
        return pairs

    def sample(
        self, image_id: int, name: str, image: NDArray[np.uint8], instances: Iterable[Instance], source: Path
    ) -> ImageSample:
        """A picture and its instances, masks decoded at the picture's size."""
        size_hw = (image.shape[0], image.shape[1])
        pairs = self.with_pixels(instances, size_hw, source)
        masks = np.zeros((len(pairs), *size_hw), dtype=np.bool_)
        for row, (_, rle) in enumerate(pairs):
            masks[row] = decode_rle(rle)
        boxes = np.array([instance.box_xyxy for instance, _ in pairs], dtype=np.float64).reshape(-1, 4)
        areas = np.array([instance.area for instance, _ in pairs], dtype=np.float64)
        return ImageSample(image_id, name, image, masks, boxes, areas, tuple(i.annotation_id for i, _ in pairs))


def _first_point(raw: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """SA-1B's ``point_coords`` (the prompt an annotation came from), if there is one."""
    if "point_coords" not in raw:
        return None
    points = raw["point_coords"]
    if not isinstance(points, list) or not points:
        raise InputError(f'{where}: "point_coords" is not a list of points; correct the annotation')
    x, y = numbers(points[0], 2, "point_coords", where)
    return x, y
