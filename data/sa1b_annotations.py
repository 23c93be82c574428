"""One JSON file of SA-1B as almost all are, read column by column; any other is for the written rules."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from data.box_form import LOOKED_AT, are_corners, may_be_corners
from data.instances import ROUNDING
from data.json_fields import LARGEST, LARGEST_WHOLE
from data.run_lengths import RunLengths, expand_all
from data.tar_members import File

_FOR_RULES = ("iscrowd", "category_id")
_MOST_SIDE = 2**15


@dataclass(frozen=True)
class PlainFile:
    """A file of which every annotation is an instance as the rules have it (:mod:`data.instances`).

    Attributes:
        size_hw: the size that is listed.
        ids: int64 ``[N]``.
        boxes: float64 ``[N, 4]``, as listed.
        boxes_xyxy: float64 ``[N, 4]``, cut to the image.
        clipped: how many boxes were cut.
        strings: the masks as compressed RLE, not checked yet.
    """

    size_hw: tuple[int, int]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    clipped: int
    strings: Sequence[bytes]


def plain_file(file: File) -> PlainFile | None:
    """:func:`read_plain` of a file; None also where it cannot be read."""
    try:
        return read_plain(file.read_bytes())
    except OSError:
        return None


def read_plain(content: bytes) -> PlainFile | None:
    """The file, or None where something in it may be other than in :class:`PlainFile`: then the rules must look at it.

    What is not None has passed every check of the rules but those of :func:`plain_masks`.
    """
    try:
        parsed = orjson.loads(content)
        header, raws = parsed["image"], parsed["annotations"]
        if type(raws) is not list:
            return None
        segmentations = [raw["segmentation"] for raw in raws]
        # A parser takes the last of a key that occurs twice. Wherever a text holds '":' too, this is not equal either.
        objects = (parsed, header, *raws, *segmentations)
        if not all(type(found) is dict for found in objects) or content.count(b'":') != sum(map(len, objects)):
            return None
        height, width = size_hw = header["height"], header["width"]
        if (
            type(height) is not int
            or type(width) is not int
            or not (0 < height <= _MOST_SIDE and 0 < width <= _MOST_SIDE)
        ):
            return None
        ids = [raw["id"] for raw in raws]
        boxes, points = [raw["bbox"] for raw in raws], [raw["point_coords"][0] for raw in raws]
        counts, areas = [found["counts"] for found in segmentations], [raw["area"] for raw in raws]
        numbers = [*itertools.chain(*boxes, *points), *areas]
        if (
            not set(map(type, ids)) <= {int}
            or not set(map(type, numbers)) <= {int, float}
            or not set(map(type, counts)) <= {str}
            or not set(map(type, itertools.chain(boxes, points))) <= {list}
            or not {len(box) for box in boxes} <= {4}
            or not {len(point) for point in points} <= {2}
            or any(found["size"] != [height, width] for found in segmentations)
            or any(key in raw for raw in raws for key in _FOR_RULES)
        ):
            return None
        strings = [text.encode("ascii") for text in counts]
        found_ids = np.array(ids, dtype=np.int64)
        values = np.array(numbers, dtype=np.float64)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    listed = values[: 4 * len(raws)].reshape(-1, 4)
    boxes_xyxy = listed.copy()
    boxes_xyxy[:, 2:] += boxes_xyxy[:, :2]
    cut = np.clip(boxes_xyxy, 0, np.array([width, height, width, height], dtype=np.float64))
    # Written so that NaN fails too. Small annotations and empty boxes are for the rules.
    if not (np.abs(values) <= LARGEST).all() or (values[6 * len(raws) :] < 1).any():
        return None
    if (cut[:, 2:] <= cut[:, :2]).any() or (len(ids) and max(map(abs, ids)) > LARGEST_WHOLE):
        return None
    points_xy = values[4 * len(raws) : 6 * len(raws)].reshape(-1, 2)
    if not ((points_xy >= 0) & (points_xy < (width, height))).all():
        return None
    clipped = int((np.abs(cut - boxes_xyxy) > ROUNDING).any(1).sum())
    return PlainFile(size_hw, found_ids, listed, cut, clipped, strings)


def has_sides(file: PlainFile, masks: RunLengths) -> bool:
    """Whether boxes are as :func:`data.box_form.require_sides` requires them; if not, the rules refuse the file."""
    boxes = file.boxes[:LOOKED_AT]
    if not may_be_corners(boxes):
        return True
    return 2 * int(are_corners(boxes, masks.only(np.arange(len(boxes))).boxes()).sum()) <= len(boxes)


def plain_masks(files: Sequence[PlainFile]) -> list[RunLengths | None]:
    """The masks of each file; None where one is malformed or does not fill its image."""
    counts, firsts, good = expand_all([string for file in files for string in file.strings])
    pixels = np.repeat([file.size_hw[0] * file.size_hw[1] for file in files], [len(file.strings) for file in files])
    if len(good):
        good &= (np.add.reduceat(counts, firsts[:-1]) == pixels) & (np.minimum.reduceat(counts, firsts[:-1]) >= 0)
    found: list[RunLengths | None] = []
    start = 0
    for file in files:
        end = start + len(file.strings)
        own = firsts[start : end + 1]
        whole = RunLengths(counts[own[0] : own[-1]], own - own[0], file.size_hw)
        found.append(whole if good[start:end].all() else None)
        start = end
    return found
