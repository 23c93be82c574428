"""Mask logits at the picture's size, computed only where a mask can be: most masks are small.

Upscaling as SAM does (:func:`core.geometry.upscale_logits`) is linear in each direction and never exceeds the logits
it mixes. So it is the product of a mask with one matrix a direction, and where none of the logits that take part is
above the lowest cut, nothing has to be computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.geometry import resized_size


@dataclass(frozen=True)
class Axis:
    """How one side of a picture, ``n`` pixels long, mixes one side of the logits, ``l`` long.

    Attributes:
        weights: float32 ``[n, l]``.
        first: int64 ``[n]`` on the host, the first logit that takes part in each pixel; it never falls.
        last: int64 ``[n]`` on the host, the last one.
    """

    weights: Tensor
    first: Tensor
    last: Tensor


def axes(size_hw: tuple[int, int], low: int, frame: int, device: torch.device) -> tuple[Axis, Axis]:
    """The vertical and the horizontal side of a picture, for logits ``[low, low]`` of a square frame."""
    resized = resized_size(size_hw, frame)
    vertical, horizontal = (_axis(side, new, low, frame, device) for side, new in zip(size_hw, resized, strict=True))
    return vertical, horizontal


def _axis(side: int, resized: int, low: int, frame: int, device: torch.device) -> Axis:
    # [l, n]: what each logit alone gives
    responses = F.interpolate(torch.eye(low, device=device)[None], frame, mode="linear", align_corners=False)
    weights = F.interpolate(responses[..., :resized], side, mode="linear", align_corners=False)[0].T.contiguous()
    takes_part = (weights > 0).to(torch.uint8).cpu()
    return Axis(weights, takes_part.argmax(1), low - 1 - takes_part.flip(1).argmax(1))


class Window(NamedTuple):
    """Parts of several masks, all of one size.

    Attributes:
        which: int64 ``[K]``, the masks in question.
        top: int64 ``[K]``, the picture's row where each part begins.
        left: int64 ``[K]``, its column.
        logits: float32 ``[K, h, w]``; every pixel outside is at or below the lowest cut.
    """

    which: Tensor
    top: Tensor
    left: Tensor
    logits: Tensor


def windows(low_res: Tensor, lowest_cut: float, vertical: Axis, horizontal: Axis, pixels: int) -> Iterator[Window]:
    """The parts of masks ``[K, l, l]`` that may be above a cut, those of similar size together.

    Args:
        low_res: logits of any float type.
        lowest_cut: no pixel at or below it is looked for.
        vertical, horizontal: sides of the picture.
        pixels: how many to compute together; a single mask may have more.
    """
    active = low_res > lowest_cut
    # One transfer: the host decides which masks are computed together. [K, 2 * l], the rows and the columns
    rows, columns = torch.cat([active.any(2), active.any(1)], 1).cpu().chunk(2, 1)
    # Each [K]
    (top, bottom), (left, right) = _reach(rows, vertical), _reach(columns, horizontal)
    # By the power of two that the longer side needs.
    kinds = torch.maximum(bottom - top, right - left).float().log2().ceil()
    for kind in kinds.unique():
        members = (kinds == kind).nonzero()[:, 0]
        height, width = int((bottom - top)[members].max()), int((right - left)[members].max())
        for which in members.split(max(1, pixels // (height * width))):
            # [K, h] and [K, h'] of rows, [K, w] and [K, w'] of columns: of the picture and of the logits
            y, low_y = (part.to(low_res.device) for part in _runs(top[which], height, vertical))
            x, low_x = (part.to(low_res.device) for part in _runs(left[which], width, horizontal))
            which = which.to(low_res.device)
            small = low_res[which[:, None, None], low_y[:, :, None], low_x[:, None, :]].float()
            down = vertical.weights[y[:, :, None], low_y[:, None, :]]
            across = horizontal.weights[x[:, :, None], low_x[:, None, :]]
            yield Window(which, y[:, 0], x[:, 0], down @ small @ across.mT)


def _reach(active: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """First pixel, and pixel after the last, of those that active logits bool ``[K, l]`` take part in: each ``[K]``."""
    as_bytes = active.to(torch.uint8)
    low, high = as_bytes.argmax(1), active.shape[1] - 1 - as_bytes.flip(1).argmax(1)
    begin = torch.searchsorted(axis.last, low).clamp(max=len(axis.last) - 1)
    # At least one pixel, also of a mask that is nowhere, or only in the padding.
    return begin, torch.maximum(torch.searchsorted(axis.first, high, right=True), begin + 1)


def _runs(begin: Tensor, length: int, axis: Axis) -> tuple[Tensor, Tensor]:
    """Consecutive pixels ``[K, length]`` from each of ``begin`` ``[K]``, and all logits ``[K, l']`` that take part.

    Both are moved back where they would go beyond the end.
    """
    pixels, logits = axis.weights.shape
    begin = begin.clamp(max=pixels - length)
    # As many logits as the pixels need wherever they begin.
    needed = int((axis.last[length - 1 :] - axis.first[: pixels - length + 1]).max()) + 1
    first = axis.first[begin].clamp(max=logits - needed)
    return begin[:, None] + torch.arange(length), first[:, None] + torch.arange(needed)
