"""Instance records to figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.protocols import Metric
from evaluation.records import InstanceRecord

SIZE_CLASSES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}
"""COCO's size classes by annotation area in original pixels, half-open."""


def mean_iou(
    records: Sequence[InstanceRecord], bounds: str = "half_open", average: str = "instances"
) -> dict[str, Metric]:
    """mIoU of all instances and of each size class that occurs.

    The interval is the normal 95 % one of the mean over instances, or over images.

    Args:
        average: over ``instances``; or within each image, and then over ``images``.
        bounds: of the size classes: ``half_open``, or ``inclusive`` at both ends (an area of 32² is small and medium).

    Returns:
        Keys ``miou`` and, where there are such instances, ``miou_small``, ``miou_medium``, ``miou_large``.
    """
    iou, images = (np.array([getattr(record, part) for record in records]) for part in ("iou", "image_id"))
    area = np.array([record.area for record in records])
    metrics = {}
    for name, (low, high) in {"": (0.0, float("inf")), **SIZE_CLASSES}.items():
        within = _within(area, low, high, bounds)
        of_class = _image_means(iou[within], images[within]) if average == "images" else iou[within]
        if len(of_class):
            metrics["miou" + (f"_{name}" if name else "")] = mean_metric(of_class)
    return metrics


def _image_means(iou: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    _, places = np.unique(images, return_inverse=True)
    return np.bincount(places, iou) / np.bincount(places)


def size_classes(area: float, bounds: str = "half_open") -> list[str]:
    """The size classes of an area: one, or two where inclusive bounds meet."""
    return [name for name, (low, high) in SIZE_CLASSES.items() if _within(np.array(area), low, high, bounds)]


def _within(area: NDArray[np.float64], low: float, high: float, bounds: str) -> NDArray[np.bool_]:
    return (area >= low) & ((area <= high) if bounds == "inclusive" else (area < high))


def grouped_mean_iou(records: Sequence[InstanceRecord]) -> dict[str, float]:
    """The IoUs averaged within each image (``miou_images``), and each category where there are such, first."""
    found = {"miou_images": _mean_of_means(records, [record.image_id for record in records])}
    categories = [record.category_id for record in records]
    if None not in categories:
        found["miou_categories"] = _mean_of_means(records, [c for c in categories if c is not None])
    return found


def bootstrap_interval(
    records: Sequence[InstanceRecord], seed: int = 0, draws: int = 1000, average: str = "instances"
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of mIoU when images are drawn again with repetition: instances share an image.

    Args:
        average: as of :func:`mean_iou`.

    Returns:
        The ends; None each where the records are of fewer than two images.
    """
    _, sums, counts = grouped_sums(records, [record.image_id for record in records])
    if average == "images":
        sums, counts = sums / counts, np.ones_like(counts)
    return resampled_interval(sums, counts, seed, draws)


def resampled_interval(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int = 0, draws: int = 1000
) -> tuple[float, float] | tuple[None, None]:
    """2.5 % and 97.5 % quantiles of ``sums.sum() / counts.sum()`` over groups drawn again with repetition.

    Args:
        sums, counts: ``[G]``, of each group; counts are above 0.

    Returns:
        The quantiles; None each where ``G`` is below 2.
    """
    if len(sums) < 2:
        # Every draw of a single group is that group: an interval of width 0 would say that its mean is exact.
        return None, None
    rng, groups, means = np.random.default_rng(seed), len(sums), []
    for _ in range(draws):
        times = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        means.append((times @ sums) / (times @ counts))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def grouped_sums(
    records: Sequence[InstanceRecord], groups: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The groups that occur, ascending, with their sums of IoUs and numbers of instances: each ``[G]``."""
    found, places = np.unique(np.array(groups), return_inverse=True)
    sums = np.bincount(places, [record.iou for record in records]).astype(np.float64)
    return found, sums, np.bincount(places).astype(np.float64)


def _mean_of_means(records: Sequence[InstanceRecord], groups: Sequence[int]) -> float:
    _, sums, counts = grouped_sums(records, groups)
    return float((sums / counts).mean())


def mean_metric(iou: NDArray[np.float64]) -> Metric:
    """The mean of IoUs ``[N]`` with its normal 95 % interval, within [0, 1]; a single one is its own interval."""
    mean = float(iou.mean())
    half = 1.96 * float(iou.std(ddof=1)) / len(iou) ** 0.5 if len(iou) > 1 else 0.0
    return Metric(mean, "iou", len(iou), low=max(0.0, mean - half), high=min(1.0, mean + half))
