"""The written rules on which annotations count, shared by every data set with COCO-style annotations."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotations import check_segmentation, decode_rle, pack_segmentation, rle_area, to_rle
from data.box_form import meets
from data.content import Stamp
from data.exclusions import Exclusions
from data.json_fields import is_number, numbers, require_int, value
from data.run_lengths import RunLengths, expand_all
from data.sample import EncodedSample, ImageSample, ScaledImage
from data.tar_members import File

# COCO rounds x and width to 0.01 each, so a box may end this far outside without being wrong.
ROUNDING = 0.02
RULES_VERSION = 2
"""What was kept of files under earlier rules is made anew."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotation that the rules admit.

    Attributes:
        annotation_id: the data set's own.
        category_id: None where the data set's annotations name no categories.
        box_xyxy: in pixels of the original image, cut to it.
        area: as annotated, in pixels.
        segmentation: checked and packed, for :func:`data.annotations.to_rle`.
        point_xy: the point it was annotated from, where that is known (SA-1B).
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
        missing: one of :data:`data.exclusions.ON_MISSING`, about images that are missing, damaged or of another size
            than listed.
        unusable: likewise, about annotations that cannot be used.

    Attributes:
        stamp: of the annotation file before it was read (:func:`data.content.stamp_of`), if all share one.
        described: the version, and the arguments that decide which annotations are admitted, as text.
        categories: the ids that the file lists, where it lists some.
        categorised: whether annotations name a category: all do, or none. None: as the first one has it.
        unusable: the places of annotations that were skipped because they cannot be used, in the order of admission.
        seen: the ids of all annotations so far.
        left_out: the places of those that a rule left out unchecked, with the sizes of their images.

    Raises:
        InputError: ``least_area``, ``missing`` or ``unusable`` is no such value.
    """

    def __init__(
        self, crowd: bool = False, least_area: float = 1.0, missing: str = "refuse", unusable: str = "refuse"
    ) -> None:
        self.skipped = Exclusions(least_area, missing, unusable)
        self.stamp: Stamp | None = None
        self.categories: frozenset[int] | None = None
        self.categorised: bool | None = None
        self.unusable: set[int] = set()
        self.left_out: dict[int, tuple[int, int] | None] = {}
        self._place = -1
        self._crowd, self._least_area = crowd, least_area
        self.described = f"{RULES_VERSION} {crowd} {least_area!r} {unusable}"
        self.seen: set[int] = set()

    def found(self) -> dict[str, Any]:
        """What was found by all admissions, as JSON takes it."""
        return {
            "categories": None if self.categories is None else sorted(self.categories),
            "categorised": self.categorised,
            "unusable": sorted(self.unusable),
            "left_out": list(self.left_out.items()),
            "counts": self.skipped.counts,
        }

    def restore(self, found: Mapping[str, Any]) -> None:
        """Take over what other rules of the same arguments found, of :meth:`found`, instead of admitting anything."""
        self.categories = None if found["categories"] is None else frozenset(found["categories"])
        self.categorised, self.unusable = found["categorised"], set(found["unusable"])
        self.left_out = {place: None if size is None else (size[0], size[1]) for place, size in found["left_out"]}
        for reason, cases in found["counts"].items():
            if cases:
                self.skipped.count(reason, cases)

    def admit(
        self, raw: object, size_of: Callable[[Mapping[str, Any], str], tuple[int, int] | None], source: File
    ) -> Instance | None:
        """Apply the rules to one annotation, and check what they admit.

        Args:
            raw: the annotation as JSON gave it.
            size_of: size of an annotation's image (and the place, for messages), None when no such image is listed.
            source: the file it came from, for messages.

        Returns:
            The instance, or None when a rule leaves it out.

        Raises:
            InputError: the id was seen before; or the annotation cannot be used and such are refused: a key is
                missing or of the wrong type, the segmentation is malformed, ``iscrowd`` is not 0 or 1, or it names no
                category where others do.
        """
        self._place += 1
        try:
            annotation_id = require_int(raw, "id", f"{source}: an annotation")
        except InputError as problem:
            self._skip(problem)
            return None
        assert isinstance(raw, dict)
        where = f"{source}: annotation {annotation_id}"
        if annotation_id in self.seen:
            raise InputError(f"{where}: the id occurs twice; give every annotation its own id")
        self.seen.add(annotation_id)
        try:
            size_hw = size_of(raw, where)
            reason = None if size_hw is None else self._reason(raw, size_hw)
            if size_hw is not None and reason is None:
                return self._checked(raw, annotation_id, size_hw, where)
        except InputError as problem:
            self._skip(problem)
            return None
        self.skipped.count(reason or "unknown_image")
        self.left_out[self._place] = size_hw
        return None

    def check_left_out(self, raw: Mapping[str, Any], size_hw: tuple[int, int], source: File) -> None:
        """Check of an annotation that a rule left out what average precision reads, whose rules are others.

        Raises:
            InputError: it cannot be used.
        """
        where = f"{source}: annotation {raw['id']}"
        check_segmentation(value(raw, "segmentation", where), size_hw, where)
        if "area" in raw:
            numbers([raw["area"]], 1, "area", where)
        self._category(raw, where)
        _check_crowd_flag(raw, where)

    def _skip(self, problem: InputError) -> None:
        """Note an annotation that cannot be used, or refuse it."""
        self.skipped.skip_annotation(problem)
        self.unusable.add(self._place)

    def _reason(self, raw: Mapping[str, Any], size_hw: tuple[int, int]) -> str | None:
        """The rule that leaves an annotation out, as far as its fields can be read; None where none does."""
        if raw.get("iscrowd") == 1 and not self._crowd:
            return "crowd"
        area, box = raw.get("area"), raw.get("bbox")
        if is_number(area) and area < self._least_area:  # type: ignore[operator]
            return self.skipped.small_area
        if isinstance(box, list) and len(box) == 4 and all(is_number(number) for number in box):
            left, top, right, bottom = _cut(_corners(box), size_hw)
            return "empty_box" if right <= left or bottom <= top else None
        return None

    def _checked(self, raw: Mapping[str, Any], annotation_id: int, size_hw: tuple[int, int], where: str) -> Instance:
        """An annotation that no rule leaves out, as an instance."""
        corners = _corners(numbers(value(raw, "bbox", where), 4, "bbox", where))
        (area,) = numbers([value(raw, "area", where)], 1, "area", where)
        segmentation = value(raw, "segmentation", where)
        category_id = self._category(raw, where)
        check_segmentation(segmentation, size_hw, where)
        _check_crowd_flag(raw, where)
        point_xy = _first_point(raw, size_hw, where)
        box = _cut(corners, size_hw)
        if any(abs(cut - corner) > ROUNDING for cut, corner in zip(box, corners, strict=True)):
            self.skipped.count("clipped_box")
        if self.categories is not None and category_id is not None and category_id not in self.categories:
            self.skipped.count("unknown_category")
        return Instance(annotation_id, category_id, box, area, pack_segmentation(segmentation), point_xy)

    def with_pixels(
        self, instances: Iterable[Instance], size_hw: tuple[int, int], source: File
    ) -> list[tuple[Instance, dict[str, Any]]]:
        """The instances whose mask is not empty, with it as RLE; each empty one is counted once however often read."""
        pairs = []
        for instance in instances:
            rle = to_rle(instance.segmentation, size_hw, f"{source}: annotation {instance.annotation_id}")
            if rle_area(rle):
                pairs.append((instance, rle))
            else:
                self.skipped.count_once("empty_mask", instance.annotation_id)
        return pairs

    def sample(
        self, image_id: int, name: str, image: NDArray[np.uint8], instances: Iterable[Instance], source: File
    ) -> ImageSample:
        """An image and its instances, masks decoded at the image's size.

        An instance whose box does not meet its mask is counted once however often it is read, and stays: LVIS v0.5
        has such, and whoever scores all that it lists counts them.
        """
        size_hw = (image.shape[0], image.shape[1])
        pairs = self.with_pixels(instances, size_hw, source)
        masks = np.zeros((len(pairs), *size_hw), dtype=np.bool_)
        for row, (instance, rle) in enumerate(pairs):
            masks[row] = decode_rle(rle)
            if not meets(masks[row], instance.box_xyxy):
                self.skipped.count_once("box_apart", instance.annotation_id)
        boxes = np.array([instance.box_xyxy for instance, _ in pairs], dtype=np.float64).reshape(-1, 4)
        areas = np.array([instance.area for instance, _ in pairs], dtype=np.float64)
        ids = tuple(instance.annotation_id for instance, _ in pairs)
        categories = tuple(i.category_id for i, _ in pairs if i.category_id is not None)
        points = [instance.point_xy for instance, _ in pairs if instance.point_xy is not None]
        starts = np.array(points, dtype=np.float64).reshape(-1, 2) if len(points) == len(pairs) else None
        return ImageSample(image_id, name, image, masks, boxes, areas, ids, categories, starts)

    def encoded(self, image: ScaledImage, instances: Iterable[Instance], source: File) -> EncodedSample:
        """An image and its instances as training reads them."""
        pairs = self.with_pixels(instances, image.size_hw, source)
        boxes = np.array([instance.box_xyxy for instance, _ in pairs], dtype=np.float64).reshape(-1, 4)
        counts, firsts, _ = expand_all([rle["counts"] for _, rle in pairs])
        return EncodedSample(image, boxes, RunLengths(counts, firsts, image.size_hw))

    def _category(self, raw: Mapping[str, Any], where: str) -> int | None:
        """The category an annotation names: every one of a data set does, or none."""
        named = "category_id" in raw
        if self.categorised not in (None, named):
            problem = "is missing, which others have" if self.categorised else "is given, which others lack"
            raise InputError(f'{where}: the key "category_id" {problem}; give every annotation one, or none')
        category_id = require_int(raw, "category_id", where) if named else None
        self.categorised = named
        return category_id


def _check_crowd_flag(raw: Mapping[str, Any], where: str) -> None:
    # JSON has numbers and truth values for it; of anything else nobody knows which side it means.
    if raw.get("iscrowd", 0) not in (0, 1):
        problem = f'"iscrowd" is {str(raw["iscrowd"])[:40]!r}, not 0 or 1'
        raise InputError(f"{where}: {problem}; correct the annotation")


def _corners(box_xywh: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box_xywh
    return x, y, x + width, y + height


def _cut(corners: tuple[float, float, float, float], size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box cut to its image."""
    limits = (size_hw[1], size_hw[0], size_hw[1], size_hw[0])
    left, top, right, bottom = (min(max(c, 0.0), float(end)) for c, end in zip(corners, limits, strict=True))
    return left, top, right, bottom


def _first_point(raw: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> tuple[float, float] | None:
    """SA-1B's ``point_coords`` (the prompt an annotation came from), if there is one."""
    if "point_coords" not in raw:
        return None
    points = raw["point_coords"]
    if not isinstance(points, list) or not points:
        raise InputError(f'{where}: "point_coords" is not a list of points; correct the annotation')
    x, y = numbers(points[0], 2, "point_coords", where)
    height, width = size_hw
    if not (0 <= x < width and 0 <= y < height):
        outside = f"outside of its image, which is {width} wide and {height} high"
        raise InputError(f'{where}: "point_coords" is {str(points[0])[:40]}, {outside}; correct the annotation')
    return x, y
