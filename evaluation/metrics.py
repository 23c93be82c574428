"""Instance records to figures."""

from collections.abc import Sequence

import numpy as np

from core.protocols import Metric
from evaluation.instances import InstanceRecord

SIZE_CLASSES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's size classes by annotation area in original pixels, half-open."""


def mean_iou(records: Sequence[InstanceRecord]) -> dict[str, Metric]:
    """mIoU over instances, of all and of each size class that occurs.

    The interval is the normal 95 % one of the mean over instances.

    Returns:
        Keys ``miou`` and, where there are such instances, ``miou_small``, ``miou_medium``, ``miou_large``.
    """
    iou = np.array([record.iou for record in records])
    area = np.array([record.area for record in records])
    metrics = {}
    for name, (low, high) in {"": (0.0, float("inf")), **SIZE_CLASSES}.items():
        of_class = iou[(area >= low) & (area < high)]
        if len(of_class):
            metrics["miou" + (f"_{name}" if name else "")] = _metric(of_class)
    return metrics


def _metric(iou: np.ndarray) -> Metric:
    mean = float(iou.mean())
    half = 1.96 * float(iou.std(ddof=1)) / len(iou) ** 0.5 if len(iou) > 1 else 0.0
    return Metric(mean, "iou", len(iou), low=max(0.0, mean - half), high=min(1.0, mean + half))
