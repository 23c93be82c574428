"""Stability and boxes of masks, as reductions over a batch."""

import torch
from torch import Tensor


def stability_scores(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU of the masks cut ``offset`` above and below ``threshold``: float32 ``[K]`` of logits float32 ``[K, h, w]``.

    0 where both are empty.
    """
    over = torch.empty_like(logits)
    # The one lies in the other, so intersection and union are their areas. Ones and zeros as float32 are compared and
    # summed several times faster than as bool; sums of a row are exact, and so are their sums in float64.
    inner, outer = (
        torch.gt(logits, cut, out=over).sum(2).sum(1, dtype=torch.float64).float()
        for cut in (threshold + offset, threshold - offset)
    )
    return torch.where(outer > 0, inner / outer, torch.zeros_like(outer))


def mask_boxes(masks: Tensor) -> Tensor:
    """First and last column and row of masks bool ``[K, h, w]``: int64 xyxy ``[K, 4]``, zeros for an empty mask."""
    height, width = masks.shape[1:]
    # The greatest byte is found many times faster than any true.
    as_bytes = masks.contiguous().view(torch.uint8)
    columns, rows = as_bytes.amax(1), as_bytes.amax(2)
    # Each [K]; the first of equals
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1, y1 = width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)
    return torch.stack([x0, y0, x1, y1], 1) * columns.amax(1, keepdim=True)
