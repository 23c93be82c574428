"""The written rules on which annotations count, shared by every data set with COCO-style annotations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotations import check_segmentation, decode_rle, pack_segmentation, rle_area, to_rle
from data.json_fields import numbers, value, whole
from data.sample import ImageSample
from data.skipped import Skipped

# COCO rounds x and width to 0.01 each, so a box may end this far outside without being wrong.
_ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation that the rules admit.

    Attributes:
        annotation_id: the data set's own.
        category_id: None where the data set's annotations name no categories.
        box_xyxy: in pixels of the original image, cut to it.
        area: as annotated, in pixels.
        segmentation: checked and packed, for :func:`data.annotations.to_rle`.
        point_xy: the point it was annotated from, where that is told (SA-1B).
    """

    annotation_id: int
    category_id: int | None
    box_xyxy: tuple[float, float, float, float]
    area: float
    segmentation: object
    point_xy: tuple[float, float] | None


class Rules:
    """Admits annotations one after the other and counts those left out.

    Args:
        crowd: True admits crowd regions like any instance.
        least_area: annotations whose ``area`` is below are left out, in pixels.
        missing: one of :data:`data.skipped.ON_MISSING`, about pictures that are missing, damaged or of another size
            than listed.

    Attributes:
        categories: the ids that the file lists, where it lists some.

    Raises:
        InputError: ``least_area`` or ``missing`` is no such value.
    """

    def __init__(self, crowd: bool = False, least_area: float = 1.0, missing: str = "refuse") -> None:
        self.skipped = Skipped(least_area, missing)
        self.categories: frozenset[int] | None = None
        self._crowd, self._least_area = crowd, least_area
        self._seen: set[int] = set()
        self._categorised: bool | None = None

    def admit(self, raw: object, size_hw: tuple[int, int] | None, source: Path) -> Instance | None:
        """Check one annotation (all of it, before any rule) and apply the rules.

        Args:
            raw: the annotation as JSON gave it.
            size_hw: size of its image, None when no such image is listed.
            source: the file it came from, for messages.

        Returns:
            The instance, or None when a rule leaves it out.

        Raises:
            InputError: a key is missing or of the wrong type, the id was seen before, the segmentation is malformed,
                ``iscrowd`` is not 0 or 1, or some annotations name a category and others do not.
        """
        annotation_id = whole(raw, "id", f"{source}: an annotation")
        where = f"{source}: annotation {annotation_id}"
        if annotation_id in self._seen:
            raise InputError(f"{where}: the id occurs twice; give every annotation its own id")
        self._seen.add(annotation_id)
        x, y, width, height = numbers(value(raw, "bbox", where), 4, "bbox", where)
        (area,) = numbers([value(raw, "area", where)], 1, "area", where)
        segmentation = value(raw, "segmentation", where)
        category_id = self._category(raw, where)
        if size_hw is None:
            self.skipped.count("unknown_image")
            return None
        check_segmentation(segmentation, size_hw, where)
        assert isinstance(raw, dict)
        # JSON has numbers and truth values for it; of anything else nobody knows which side it means.
        if raw.get("iscrowd", 0) not in (0, 1):
            problem = f'"iscrowd" is {str(raw["iscrowd"])[:40]!r}, not 0 or 1'
            raise InputError(f"{where}: {problem}; correct the annotation")
        if raw.get("iscrowd") and not self._crowd:
            self.skipped.count("crowd")
            return None
        if area < self._least_area:
            self.skipped.count(self.skipped.small_area)
            return None
        limits = (size_hw[1], size_hw[0], size_hw[1], size_hw[0])
        corners = (x, y, x + width, y + height)
        left, top, right, bottom = (min(max(c, 0.0), float(end)) for c, end in zip(corners, limits, strict=True))
        if right <= left or bottom <= top:
            self.skipped.count("empty_box")
            return None
        box = (left, top, right, bottom)
        if any(abs(cut - corner) > _ROUNDING for cut, corner in zip(box, corners, strict=True)):
            self.skipped.count("clipped_box")
        if self.categories is not None and category_id is not None and category_id not in self.categories:
            self.skipped.count("unknown_category")
        packed = pack_segmentation(segmentation)
        return Instance(annotation_id, category_id, box, area, packed, _first_point(raw, where))

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
                self.skipped.count_empty_mask(instance.annotation_id)
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
        ids = tuple(instance.annotation_id for instance, _ in pairs)
        categories = tuple(i.category_id for i, _ in pairs if i.category_id is not None)
        points = [instance.point_xy for instance, _ in pairs if instance.point_xy is not None]
        told = np.array(points, dtype=np.float64).reshape(-1, 2) if len(points) == len(pairs) else None
        return ImageSample(image_id, name, image, masks, boxes, areas, ids, categories, told)

    def _category(self, raw: object, where: str) -> int | None:
        """The category an annotation names: every one of a data set does, or none."""
        named = isinstance(raw, dict) and "category_id" in raw
        if self._categorised not in (None, named):
            problem = "is missing, which others have" if self._categorised else "is given, which others lack"
            raise InputError(f'{where}: the key "category_id" {problem}; give every annotation one, or none')
        self._categorised = named
        return whole(raw, "category_id", where) if named else None


def _first_point(raw: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """SA-1B's ``point_coords`` (the prompt an annotation came from), if there is one."""
    if "point_coords" not in raw:
        return None
    points = raw["point_coords"]
    if not isinstance(points, list) or not points:
        raise InputError(f'{where}: "point_coords" is not a list of points; correct the annotation')
    x, y = numbers(points[0], 2, "point_coords", where)
    return x, y
