"""How ground truth becomes prompts, and how one of a model's candidate masks is chosen. Every rule has a name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.protocols import Masks, Prompt
from data.prompts import central_point
from data.sample import ImageSample


def ground_truth_boxes(sample: ImageSample) -> Prompt:
    """One box prompt an instance: the annotation's own box, original pixels, no jitter."""
    return Prompt(boxes_xyxy=torch.from_numpy(sample.boxes_xyxy).float())


def central_points(sample: ImageSample) -> Prompt:
    """One foreground point an instance: the mask's pixel farthest from its border."""
    points = np.stack([central_point(mask) for mask in sample.masks])
    return Prompt(
        points_xy=torch.from_numpy(points).float()[:, None], labels=torch.ones(len(points), 1, dtype=torch.int64)
    )


def single(masks: Masks) -> Tensor:
    """The single-mask answer: int64 ``[N]`` of zeros."""
    return torch.zeros(len(masks.iou_pred), dtype=torch.int64, device=masks.iou_pred.device)


def best_predicted(masks: Masks) -> Tensor:
    """The candidate with the highest predicted IoU: int64 ``[N]``."""
    return masks.iou_pred.argmax(1)


@dataclass(frozen=True)
class PromptRule:
    """A prompt and a choice of mask.

    Attributes:
        prompt: instances to prompts.
        multimask: whether the model answers with three candidates.
        choose: which candidate counts.
    """

    prompt: Callable[[ImageSample], Prompt]
    multimask: bool
    choose: Callable[[Masks], Tensor]


RULES = {
    "box": PromptRule(ground_truth_boxes, False, single),
    "point": PromptRule(central_points, True, best_predicted),
}
"""The prompts of protocol ``box_point@1``: boxes take the single mask, points the best predicted of three."""
