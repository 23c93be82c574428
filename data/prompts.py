"""Prompts made from masks: jittered boxes and points for training, the central point for evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


def jitter_boxes(
    boxes_xyxy: NDArray[np.float64], size_hw: tuple[int, int], amount: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Move each side of each box by noise, as SAM does in training (appendix A, "Training algorithm").

    Args:
        boxes_xyxy: float ``[N, 4]``, original pixels.
        amount: standard deviation of the noise as a share of the box's side; the noise is at most 20 pixels.

    Returns:
        float ``[N, 4]``, clipped to the image, each side at least one pixel long.
    """
    sides = np.tile(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], (1, 2))
    noise = np.clip(rng.standard_normal(boxes_xyxy.shape) * amount * sides, -20, 20)
    height, width = size_hw
    moved = np.clip(boxes_xyxy + noise, 0, [width, height, width, height])
    low = np.minimum(moved[:, :2], moved[:, 2:])
    low = np.minimum(low, np.array([width, height]) - 1.0)
    high = np.maximum(np.maximum(moved[:, :2], moved[:, 2:]), low + 1)
    return np.concatenate([low, high], 1)


def random_points(mask: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Uniformly drawn pixels of a mask ``[H, W]``: xy float ``[count, 2]`` (with repetition if the mask is tiny)."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        raise ValueError("cannot draw a point from an empty mask")
    chosen = rng.integers(0, len(rows), count)
    return np.stack([columns[chosen], rows[chosen]], 1).astype(np.float64)


def central_point(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The pixel of a mask ``[H, W]`` farthest from its border (the image's edge is a border too): xy float ``[2]``.

    The first such pixel in row-major order, so the answer is unique.
    """
    return deepest_pixel(mask)[0]


def deepest_pixel(
    mask: NDArray[np.bool_], besides: Sequence[tuple[int, int]] = ()
) -> tuple[NDArray[np.float64], float]:
    """The central point of a mask ``[H, W]``, xy float ``[2]``, and its distance from the border in pixels.

    Args:
        besides: pixels xy that are not to be the point; they are part of the mask all the same. With no other pixel
            left, the distance is 0.
    """
    if not mask.any():
        raise ValueError("an empty mask has no central point")
    # Only the mask's own rows and columns matter; one ring of background stands for all that lies outside.
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = rows[0], columns[0]
    window = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    distance = distance_transform_edt(window)
    for x, y in besides:
        if left <= x <= columns[-1] and top <= y <= rows[-1]:
            distance[y - top + 1, x - left + 1] = 0.0
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([column - 1 + left, row - 1 + top], dtype=np.float64), float(distance[row, column])
