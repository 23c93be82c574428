"""IoU, stability, boxes and run lengths of masks, as reductions over a batch, or over what a window holds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from torch import Tensor

Windows = NDArray[np.int64]
"""xyxy ``[N, 4]`` in pixels, the ends not included: outside of its window a mask is known to be empty."""
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


def stability_of(logits: Tensor, windows: Windows | None = None) -> Tensor:
    """SAM's stability scores of masks given as logits ``[N, H, W]``: float32 ``[N]``, not numbers for bool masks.

    Args:
        windows: see :func:`evaluation.preprocess.positive_windows`; outside of them nothing is looked at.
    """
    if logits.dtype == torch.bool:
        return torch.full((len(logits),), torch.nan, device=logits.device)
    if windows is None:
        return stability_scores(logits, 0.0, STABILITY_OFFSET)
    counts = [
        [np.count_nonzero(part > cut) for cut in (STABILITY_OFFSET, -STABILITY_OFFSET)]
        for part in cut_out(logits, windows)
    ]
    inner, outer = torch.tensor(counts, dtype=torch.float32).reshape(-1, 2).unbind(1)
    return torch.where(outer > 0, inner / outer, torch.zeros_like(outer))


def iou_with(truth: Tensor, logits: Tensor, windows: Windows | None = None) -> Tensor:
    """IoU of masks given as logits ``[N, H, W]``, or as bool, with truth bool ``[N, H, W]``: as :func:`pairwise_iou`.

    Args:
        windows: as of :func:`stability_of`.
    """
    if windows is None:
        return pairwise_iou(logits > 0, truth)
    parts, whole = [], []
    for part, expected, of_part in zip(cut_out(logits, windows), truth.numpy(), cut_out(truth, windows), strict=True):
        mask = part > 0
        parts.append(np.count_nonzero(mask & of_part))
        whole.append(np.count_nonzero(mask) + np.count_nonzero(expected) - parts[-1])
    return _ratio(torch.tensor(parts), torch.tensor(whole))


def cut_out(images: Tensor, windows: Windows) -> Iterator[NDArray[Any]]:
    """Views ``[h, w]`` of images ``[N, H, W]`` on the host, one a window."""
    for image, (x0, y0, x1, y1) in zip(images.numpy(), windows.tolist(), strict=True):
        yield image[y0:y1, x0:x1]


def run_lengths(logits: Tensor, windows: Windows | None = None) -> list[str]:
    """Compressed run lengths of masks given as logits ``[N, H, W]``, or as bool, on any device.

    Args:
        windows: as of :func:`stability_of`.
    """
    if windows is not None:
        size_hw = (logits.shape[1], logits.shape[2])
        corners = zip(cut_out(logits, windows), windows[:, [1]], windows[:, [0]], strict=True)
        found = [encode_windows((part > 0)[None], top, left, size_hw)[0] for part, top, left in corners]
        return [rle["counts"].decode("ascii") for rle in found]
    # Run lengths go down the columns: [N, W, H] in memory is what pycocotools calls [H, W, N].
    columns: NDArray[np.uint8] = (logits > 0).transpose(1, 2).contiguous().view(torch.uint8).cpu().numpy()
    return [rle["counts"].decode("ascii") for rle in mask_api.encode(columns.T)]


def encode_windows(
    masks: NDArray[np.bool_], top: NDArray[np.int64], left: NDArray[np.int64], size_hw: tuple[int, int]
) -> list[dict[str, Any]]:
    """Masks that are known in a window each, and empty outside, as compressed RLEs of the whole image.

    Args:
        masks: bool ``[K, h, w]``.
        top, left: ``[K]``, the image's pixel where each window begins.
        size_hw: of the image.

    Returns:
        ``K`` dicts ``{"size": [H, W], "counts": bytes}``.
    """
    height, pixels = size_hw[0], size_hw[0] * size_hw[1]
    count, rows, width = masks.shape
    # [K, w, h + 2]: run lengths go down the columns; what is around each column is empty
    columns = np.zeros((count, width, rows + 2), np.bool_)
    columns[:, :, 1:-1] = masks.transpose(0, 2, 1)
    flat = columns.reshape(-1)
    # In one dimension: of three, those that are not zero are found many times slower.
    column, y = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows + 2)
    k, x = np.divmod(column, width)
    # Where a run of ones or of zeros begins, counted down the columns of the image.
    at = (x + left[k]) * height + y + top[k]
    # A run that reaches the image's last row and goes on in the next column's first neither ends nor begins there.
    twice = np.flatnonzero((at[1:] == at[:-1]) & (k[1:] == k[:-1]))
    # Nor does one begin after the last pixel.
    nowhere = np.concatenate([twice, twice + 1, np.flatnonzero(at == pixels)])
    if len(nowhere):
        at, k = np.delete(at, nowhere), np.delete(k, nowhere)
    runs = [
        {"size": list(size_hw), "counts": np.diff(begins, prepend=0, append=pixels)}
        for begins in np.split(at, np.searchsorted(k, np.arange(1, count)))
    ]
    rles: list[dict[str, Any]] = mask_api.frPyObjects(runs, *size_hw)
    return rles
