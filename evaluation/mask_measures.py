"""IoU, stability, boxes and run lengths of masks, as reductions over a batch."""

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor

STABILITY_OFFSET = 1.0
"""Of SAM's stability score: the IoU of a mask cut that much above and below zero."""


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


def pairwise_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks ``[N, H, W]`` bool, pair by pair: float64 ``[N]``; 1 where both are empty."""
    return _ratio(_pixels(predicted & truth), _pixels(predicted | truth))


def _pixels(masks: Tensor) -> Tensor:
    return torch.count_nonzero(masks.flatten(1), 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    ratio = part.double() / whole.clamp(min=1).double()
    return torch.where(whole > 0, ratio, torch.ones_like(ratio))


def stability_of(logits: Tensor) -> Tensor:
    """SAM's stability scores of masks given as logits ``[N, H, W]``: float32 ``[N]``, not numbers for bool masks."""
    if logits.dtype == torch.bool:
        return torch.full((len(logits),), torch.nan, device=logits.device)
    return stability_scores(logits, 0.0, STABILITY_OFFSET)


def run_lengths(masks: Tensor) -> list[str]:
    """Compressed run lengths of masks bool ``[N, H, W]`` on any device."""
    # Run lengths go down the columns: [N, W, H] in memory is what pycocotools calls [H, W, N].
    columns: NDArray[np.uint8] = masks.transpose(1, 2).contiguous().view(torch.uint8).cpu().numpy()
    return [rle["counts"].decode("ascii") for rle in mask_api.encode(columns.T)]
