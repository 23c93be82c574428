"""Boxes beside their masks: files that give corners in place of width and height, and boxes apart from their masks."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.annotations import rle_boxes, to_rle
from data.tar_members import File

LOOKED_AT = 100
"""Annotations of a file, the first that are admitted: in what form boxes are is the same in all of a file."""
BESIDE = 1
"""Pixels that a mask may lie beside its box: polygons are drawn to whole pixels, boxes are not."""
_ALIKE = 0.8
"""Intersection over union from which a box is that of a mask: boxes are drawn more or less tightly."""

Listed = tuple[int, Sequence[float], object, tuple[int, int]]
"""An annotation's id, its ``bbox`` as the file has it, its segmentation, and the size ``(h, w)`` of its image."""


def meets(mask: NDArray[np.bool_], box_xyxy: tuple[float, float, float, float]) -> bool:
    """Whether a mask bool ``[H, W]`` has a pixel in a box of its image, or no more than :data:`BESIDE` beside it."""
    left, top = (max(0, math.floor(side) - BESIDE) for side in box_xyxy[:2])
    right, bottom = (math.ceil(side) + BESIDE for side in box_xyxy[2:])
    return bool(mask[top:bottom, left:right].any())


def may_be_corners(boxes: NDArray[np.float64]) -> bool:
    """Whether most of some boxes ``[N, 4]`` end behind where they begin if they are read as corners.

    Those of a sound file seldom do, and its masks need not be looked at.
    """
    return 2 * int((boxes[:, 2:] > boxes[:, :2]).all(1).sum()) > len(boxes)


def are_corners(boxes: NDArray[np.float64], mask_boxes_xyxy: NDArray[Any]) -> NDArray[np.bool_]:
    """Which boxes are those of their masks as ``[left, top, right, bottom]``, and are not as ``[x, y, width, height]``.

    Args:
        boxes: float64 ``[N, 4]``, as a file has them.
        mask_boxes_xyxy: ``[N, 4]``.

    Returns:
        Bool ``[N]``.
    """
    as_sides = boxes.copy()
    as_sides[:, 2:] += boxes[:, :2]
    return (_iou(boxes, mask_boxes_xyxy) >= _ALIKE) & (_iou(as_sides, mask_boxes_xyxy) < _ALIKE)


def require_sides(listed: Iterable[Listed], source: File) -> None:
    """Refuse a file most of whose boxes are corners; of these no more than the first :data:`LOOKED_AT` are looked at.

    Args:
        listed: what the rules admitted.

    Raises:
        InputError: most boxes fit their masks only as ``[left, top, right, bottom]``; the message names the first.
    """
    first = list(itertools.islice(listed, LOOKED_AT))
    boxes = np.array([box for _, box, _, _ in first], dtype=np.float64).reshape(-1, 4)
    if not may_be_corners(boxes):
        return
    rles = [
        to_rle(segmentation, size_hw, f"{source}: annotation {number}") for number, _, segmentation, size_hw in first
    ]
    corners = are_corners(boxes, rle_boxes(rles))
    if 2 * corners.sum() > len(first):
        number, box, _, _ = first[int(corners.argmax())]
        problem = f'"bbox" {list(box)} is [left, top, right, bottom], as most of this file are'
        raise InputError(f"{source}: annotation {number}: {problem}; give [x, y, width, height]")


def _iou(boxes_xyxy: NDArray[np.float64], others_xyxy: NDArray[Any]) -> NDArray[np.float64]:
    """Of each box with the other one of its row; 0 of a box that ends before it begins."""
    low = np.maximum(boxes_xyxy[:, :2], others_xyxy[:, :2])
    high = np.minimum(boxes_xyxy[:, 2:], others_xyxy[:, 2:])
    areas = [(sides[:, 2:] - sides[:, :2]).clip(0).prod(1) for sides in (boxes_xyxy, others_xyxy)]
    inside = (high - low).clip(0).prod(1)
    return inside / np.maximum(areas[0] + areas[1] - inside, 1e-9)
