"""Which of the mask decoder's candidates counts as its answer, where methods ask it themselves."""

import torch
from torch import Tensor


def best_of_three(logits: Tensor, iou_pred: Tensor) -> Tensor:
    """The mask with the best predicted IoU of the three that answer an ambiguous prompt.

    Args:
        logits: ``[N, 4, l, l]``, the single mask first.
        iou_pred: ``[N, 4]``.

    Returns:
        bool ``[N, l, l]``.
    """
    best = iou_pred[:, 1:].argmax(1) + 1
    return logits[torch.arange(len(best), device=best.device), best] > 0
