"""Masks that need no model: the box itself, filled, and the ellipse inscribed in it. What a score must beat."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data.exclusions import readable_samples
from data.sample import ImageData
from evaluation.mask_measures import pairwise_iou
from evaluation.records import InstanceRecord


def filled_boxes(boxes_xyxy: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies in each box: float ``[N, 4]`` in pixels to bool ``[N, H, W]``."""
    x, y = _centres(size_hw)
    x0, y0, x1, y1 = boxes_xyxy.T[:, :, None, None]
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def filled_ellipses(boxes_xyxy: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies in the ellipse inscribed in each box: float ``[N, 4]`` to bool ``[N, H, W]``."""
    x, y = _centres(size_hw)
    x0, y0, x1, y1 = boxes_xyxy.T[:, :, None, None]
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1


def _centres(size_hw: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x ``[1, 1, W]`` and y ``[1, H, 1]`` of the pixels' centres."""
    height, width = size_hw
    x, y = np.linspace(0.5, width - 0.5, width), np.linspace(0.5, height - 0.5, height)
    return x[None, None, :], y[None, :, None]


BASELINES: Mapping[str, Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.bool_]]] = {
    "filled_box": filled_boxes,
    "filled_ellipse": filled_ellipses,
}


def score_baselines(
    data: ImageData,
    *,
    indices: Sequence[int] | None = None,
    on_image: Callable[[int], None] | None = None,
) -> dict[str, list[InstanceRecord]]:
    """Score both on ground-truth boxes; the records of each by its name.

    Args:
        indices: images to use; all of them by default.
        on_image: called with the number of images done.
    """
    records: dict[str, list[InstanceRecord]] = {name: [] for name in BASELINES}
    for done, (_, sample) in enumerate(readable_samples(data, range(len(data)) if indices is None else indices), 1):
        if sample is None:
            continue
        size_hw = (sample.image.shape[0], sample.image.shape[1])
        for name, fill in BASELINES.items():
            for i, truth in enumerate(sample.masks):
                mask = fill(sample.boxes_xyxy[i : i + 1], size_hw)
                iou = float(pairwise_iou(torch.from_numpy(mask), torch.from_numpy(truth[None]))[0])
                # No model, so nothing predicted the IoU.
                record = InstanceRecord(
                    sample.image_id, sample.annotation_ids[i], float(sample.areas[i]), iou, float("nan"), 0
                )
                records[name].append(record)
        if on_image:
            on_image(done)
    return records
