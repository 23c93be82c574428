"""The crops of a picture that are searched, and the grids of points in them."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EDGE_TOLERANCE = 20
"""A box this many pixels from a crop's edge, or fewer, counts as touching it."""


@dataclass(frozen=True)
class Crop:
    """A window of a picture.

    Attributes:
        box_xyxy: whole pixels of the picture, the end excluded.
        layer: 0 is the whole picture.
    """

    box_xyxy: tuple[int, int, int, int]
    layer: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Size ``(h, w)``."""
        x0, y0, x1, y1 = self.box_xyxy
        return y1 - y0, x1 - x0

    def cuts(self, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Which boxes int64 ``[K, 4]``, in pixels of the picture, touch an edge where the crop cuts it: bool ``[K]``.

        What is there may go on beyond the crop. The picture's own edges, of size ``size_hw``, cut nothing.
        """
        edges = torch.tensor([self.box_xyxy, (0, 0, size_hw[1], size_hw[0])], device=boxes_xyxy.device)
        # [2, K, 4]: near the crop's edges, near the picture's
        near = (boxes_xyxy - edges[:, None]).abs() <= EDGE_TOLERANCE
        return (near[0] & ~near[1]).any(1)


def crops_of(size_hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The picture, then layer by layer its crops, column by column: ``4 ** i`` in layer ``i``.

    Crops that a tiny picture leaves empty are not among them.

    Args:
        size_hw: of the picture.
        layers: number of layers beyond the picture itself.
        overlap_ratio: overlap of neighbours in layer 1, as a share of the shorter side; it halves from layer to layer.
    """
    height, width = size_hw
    found = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size_hw) * (2 / count))
        # Together with the overlaps, the crops of a row reach over the whole side.
        crop_h, crop_w = (math.ceil((overlap * (count - 1) + side) / count) for side in size_hw)
        for column, row in itertools.product(range(count), range(count)):
            x0, y0 = column * (crop_w - overlap), row * (crop_h - overlap)
            box = (x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height))
            if x0 < box[2] and y0 < box[3]:
                found.append(Crop(box, layer))
    return found


def grid_points(side: int, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Centres of ``side * side`` equal cells of a picture, row by row: xy float64 ``[side * side, 2]`` in pixels."""
    axis = _cell_centres(side)
    x, y = np.meshgrid(axis, axis)
    # [side * side, 2]
    return np.stack([x, y], -1).reshape(-1, 2) * np.array([size_hw[1], size_hw[0]])


def shared_points(side: int, other: int) -> NDArray[np.bool_]:
    """Which points of a grid are also points of another: bool ``[side * side]``, ordered as :func:`grid_points`."""
    # (2 i + 1) / (2 side) = (2 j + 1) / (2 other), in whole numbers
    axis = np.isin((2 * np.arange(side) + 1) * other, (2 * np.arange(other) + 1) * side)
    return (axis[:, None] & axis[None, :]).reshape(-1)


def _cell_centres(side: int) -> NDArray[np.float64]:
    # By linspace, as Meta's: the last digits decide where a point falls.
    half = 1 / (2 * side)
    return np.linspace(half, 1 - half, side)
