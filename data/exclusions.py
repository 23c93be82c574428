"""What the written rules leave out of a data set with COCO-style annotations, counted by reason."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from core.errors import InputError
from data.sample import ImageData, ImageSample, UnreadableImage

REASONS = {
    "unknown_image": "the annotation's image is not listed",
    "crowd": "iscrowd is 1: a region, not an instance (never where crowds are admitted)",
    "area_below_1": "the annotated area is below the least admitted, which the name gives (1 pixel unless set)",
    "empty_box": "the box has no width or no height, or lies outside the image",
    "unreadable_image": "the image is missing, damaged or of another size than listed, and such are skipped",
    "unusable_annotation": "a field that is needed is missing, malformed or not of the image, and such are skipped",
    "empty_mask": "the segmentation covers no pixel (known once the sample was read)",
    "box_apart": "kept, though its box does not meet its mask (known once the sample was read)",
    "clipped_box": "kept, with its box cut to the image",
    "unknown_category": "kept, with a category that is not listed: average precision leaves it out",
    "image_without_instances": "images (not annotations) that have no usable instance",
    "image_left_out": 'images (not annotations) that are left out, with what "unreadable_image" counts',
    "unlisted_image": "images (not annotations) beside the listed ones that the annotation file does not list",
    "other_file": "files (not annotations) that are no image by their names, where a folder is listed",
}
"""What ``skipped`` counts. An annotation that several of the first seven fit counts under the first of them."""

ABOUT_IMAGES = ("image_left_out", "unlisted_image", "other_file")
"""Reasons for leaving a whole image or file out."""

NO_ANNOTATIONS = frozenset({"box_apart", "clipped_box", "unknown_category", "image_without_instances", *ABOUT_IMAGES})
"""Reasons that leave no annotation out. All others and the instances of all samples add up to the annotations."""

ONCE_READ = ("empty_mask", "box_apart")
"""Reasons that show when the mask of an annotation is read."""

ON_MISSING = ("refuse", "skip")
"""What to do about what cannot be used: raise InputError, or count it and go on without it."""


class Exclusions:
    """Counts by reason.

    Args:
        least_area: the least area admitted, in pixels; names its reason.
        missing: one of :data:`ON_MISSING`, about images.
        unusable: likewise, about annotations.

    Attributes:
        refused: ids of images that could not be used, where such are refused.

    Raises:
        InputError: an argument is none of the values above.
    """

    def __init__(self, least_area: float, missing: str, unusable: str) -> None:
        if not 0 <= least_area < math.inf:
            raise InputError(f"least_area={least_area} is no area; give a number of pixels, 0 or more")
        for name, given in (("missing", missing), ("unusable", unusable)):
            if given not in ON_MISSING:
                raise InputError(f"{name}={given} is unknown; choose one of {', '.join(ON_MISSING)}")
        self.skips_images, self._skips_annotations = missing == "skip", unusable == "skip"
        self.small_area = f"area_below_{least_area:.15g}"
        self._counts = {self.small_area if reason == "area_below_1" else reason: 0 for reason in REASONS}
        # Kept by id, so that threads may count too.
        self._seen: dict[str, set[int]] = {reason: set() for reason in ONCE_READ}
        self._left_out: dict[int, int] = {}
        self.refused: set[int] = set()

    @property
    def counts(self) -> dict[str, int]:
        """How often each of :data:`REASONS` applied so far (a copy)."""
        images = {"image_left_out": len(self._left_out), "unreadable_image": sum(list(self._left_out.values()))}
        return {**self._counts, **{reason: len(seen) for reason, seen in self._seen.items()}, **images}

    def count(self, reason: str, cases: int = 1) -> None:
        """Count one or more cases of a reason."""
        self._counts[reason] += cases

    def count_once(self, reason: str, annotation_id: int) -> None:
        """Count an annotation for one of :data:`ONCE_READ`; once however often it is read."""
        self._seen[reason].add(annotation_id)

    def skip_annotation(self, problem: InputError) -> None:
        """Count an annotation that cannot be used.

        Raises:
            InputError: as :meth:`require_skipping`.
        """
        self.require_skipping(problem)
        self.count("unusable_annotation")

    def require_skipping(self, problem: InputError) -> None:
        """Refuse an annotation that cannot be used, unless such are skipped.

        Raises:
            InputError: ``problem``, and the setting that skips.
        """
        if not self._skips_annotations:
            raise InputError(f"{problem}, or give data.unusable=skip") from None

    def leave_out(self, image_id: int, instances: int, problem: InputError) -> None:
        """Count an image that cannot be used, with its admitted instances; once however often it is tried.

        Raises:
            InputError: ``problem``, and the setting that skips, unless such images are skipped.
        """
        if not self.skips_images:
            self.refused.add(image_id)
            raise InputError(f"{problem}, or give data.missing=skip") from None
        self._left_out[image_id] = instances


T = TypeVar("T")


def readable_samples(data: ImageData, indices: Sequence[int]) -> Iterator[tuple[int, ImageSample | None]]:
    """Each index with its sample, or with None where the image is left out (and counted in ``data.skipped``).

    Raises:
        InputError: an image cannot be read and such are refused.
    """
    for index in indices:
        try:
            yield index, data.sample(index)
        except UnreadableImage:
            yield index, None


def first_readable(data: ImageData, index: int, read: Callable[[int], T]) -> tuple[int, T]:
    """The image of an index, or in place of one that is left out the next of the data set, and after the last the
    first.

    It depends on the files alone: whoever draws the same index sees the same image.

    Args:
        read: ``data.image``, ``data.sample`` or what stands for it.

    Returns:
        The index that was read, and what was read.

    Raises:
        InputError: an image cannot be read and such are refused, or all of them were left out.
    """
    count = len(data)
    for step in range(count):
        place = (index + step) % count
        try:
            return place, read(place)
        except UnreadableImage as problem:
            last = problem
    raise InputError(f"{data.name}: none of the {count} images can be read, such as {last}") from None
