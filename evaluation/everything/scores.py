"""How well proposals find the instances of an image: best IoU of each, and COCO's average recall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from core.protocols import Metric
from data.annotations import encode_rle, to_rle
from data.sample import ImageSample
from evaluation.metrics import resampled_interval

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
BUDGETS = (100, 1000)
"""How many proposals an image average recall is given."""


@dataclass(frozen=True)
class ImageProposals:
    """How well the proposals of one image find its ``G`` instances.

    Attributes:
        best_iou: float64 ``[G]``, best IoU of each instance with any proposal; 0 without proposals.
        recalled: int64 ``[10]``, instances found at each of :data:`THRESHOLDS` by the best predicted proposals alone,
            by how many these are (:data:`BUDGETS`).
        proposals: how many there were.
    """

    best_iou: NDArray[np.float64]
    recalled: Mapping[int, NDArray[np.int64]]
    proposals: int


def image_proposals(records: Sequence[Mapping[str, Any]], sample: ImageSample) -> ImageProposals:
    """Compare the records of an :class:`EverythingGenerator`, in any of its forms, with an image's instances.

    Proposals are ordered by ``predicted_iou``, equals as they come.

    Raises:
        InputError: a segmentation is no RLE, or one of an image of another size.
    """
    size_hw = (sample.image.shape[0], sample.image.shape[1])
    order = np.argsort([-record["predicted_iou"] for record in records], kind="stable")
    proposals = [_rle(records[i]["segmentation"], size_hw, f"proposal {i} of {sample.name}") for i in order]
    truth = [encode_rle(mask) for mask in sample.masks]
    # [D, G]
    iou = np.zeros((len(proposals), len(truth)))
    if iou.size:
        iou = np.asarray(mask_api.iou(proposals, truth, [0] * len(truth)))
    return ImageProposals(
        iou.max(0, initial=0.0),
        {budget: recalled(iou[:budget]) for budget in BUDGETS},
        len(proposals),
    )


def recalled(iou: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many instances COCO counts as found at each threshold, of the IoU ``[D, G]`` of ordered proposals: ``[10]``.

    One to one and greedy: each proposal in turn takes the free instance it fits best, of equals the last.
    """
    least = np.minimum(THRESHOLDS, 1 - 1e-10)
    rows = np.arange(len(least))
    taken = np.zeros((len(least), iou.shape[1]), dtype=bool)
    # A proposal that reaches the lowest threshold nowhere takes nothing.
    for fits in iou[(iou >= least[0]).any(1)]:
        # [10, G]
        free = np.where(taken, -1.0, fits)
        last_best = iou.shape[1] - 1 - free[:, ::-1].argmax(1)
        taken[rows, last_best] |= free[rows, last_best] >= least
    found: NDArray[np.int64] = taken.sum(1)
    return found


def proposal_scores(per_image: Sequence[ImageProposals]) -> dict[str, Metric]:
    """Figures over the instances of all images.

    Returns:
        ``mean_best_iou``, with a 95 % interval by a bootstrap over images (none where fewer than two have
        instances), and ``average_recall_100`` and ``average_recall_1000``: COCO's AR without categories, at so many
        proposals an image. Nothing where there is no instance.
    """
    best = np.concatenate([np.zeros(0), *(image.best_iou for image in per_image)])
    if not len(best):
        return {}
    # Images without instances are in no mean, and are not drawn.
    counts = np.array([len(image.best_iou) for image in per_image if len(image.best_iou)], dtype=np.float64)
    sums = np.array([image.best_iou.sum() for image in per_image if len(image.best_iou)])
    low, high = resampled_interval(sums, counts)
    metrics = {"mean_best_iou": Metric(float(best.mean()), "iou", len(best), low=low, high=high)}
    for budget in BUDGETS:
        found = np.sum([image.recalled[budget] for image in per_image], axis=0)
        metrics[f"average_recall_{budget}"] = Metric(float(np.mean(found / len(best))), "recall", len(best))
    return metrics


def _rle(segmentation: object, size_hw: tuple[int, int], where: str) -> dict[str, Any]:
    if isinstance(segmentation, np.ndarray):
        segmentation = encode_rle(segmentation)
    return to_rle(segmentation, size_hw, where)
