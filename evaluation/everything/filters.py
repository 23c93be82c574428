"""Crops and their points, and what of the answers is worth keeping; whole batches at a time."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import Stretched, resized_size
from core.protocols import Masks
from evaluation.everything.candidates import Candidates
from evaluation.everything_settings import EverythingSettings
from evaluation.mask_measures import encode_windows, mask_boxes, stability_scores
from evaluation.preprocess import pixels_at_once

EDGE_TOLERANCE = 20
"""A box this many pixels from a crop's edge, or fewer, counts as touching it."""


@dataclass(frozen=True)
class Crop:
    """A window of an image.

    Attributes:
        box_xyxy: whole pixels of the image, the end excluded.
        layer: 0 is the whole image.
    """

    box_xyxy: tuple[int, int, int, int]
    layer: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Size ``(h, w)``."""
        x0, y0, x1, y1 = self.box_xyxy
        return y1 - y0, x1 - x0

    def cuts(self, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Which boxes int64 ``[K, 4]``, in pixels of the image, touch an edge where the crop cuts it: bool ``[K]``.

        What is there may go on beyond the crop. The image's own edges, of size ``size_hw``, cut nothing.
        """
        edges = torch.tensor([self.box_xyxy, (0, 0, size_hw[1], size_hw[0])], device=boxes_xyxy.device)
        # [2, K, 4]: near the crop's edges, near the image's
        near = (boxes_xyxy - edges[:, None]).abs() <= EDGE_TOLERANCE
        return (near[0] & ~near[1]).any(1)


def crops_of(size_hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The image, then layer by layer its crops, column by column: ``4 ** i`` in layer ``i``.

    Crops that a tiny image leaves empty are not among them.

    Args:
        size_hw: of the image.
        layers: number of layers beyond the image itself.
        overlap_ratio: overlap of neighbours in layer 1, as a share of the shorter side; it halves from layer to layer.
    """
    height, width = size_hw
    found = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(size_hw) * (2 / count))
        # Together with the overlaps, the crops of a row reach over the whole side.
        crop_h, crop_w = (math.ceil((overlap * (count - 1) + side) / count) for side in size_hw)
        for column, row in itertools.product(range(count), range(count)):
            x0, y0 = column * (crop_w - overlap), row * (crop_h - overlap)
            box = (x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height))
            if x0 < box[2] and y0 < box[3]:
                found.append(Crop(box, layer))
    return found


def grid_points(side: int, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Centres of ``side * side`` equal cells of an image, row by row: xy float64 ``[side * side, 2]`` in pixels."""
    axis = _cell_centres(side)
    x, y = np.meshgrid(axis, axis)
    # [side * side, 2]
    return np.stack([x, y], -1).reshape(-1, 2) * np.array([size_hw[1], size_hw[0]])


def shared_points(side: int, other: int) -> NDArray[np.bool_]:
    """Which points of a grid are also points of another: bool ``[side * side]``, ordered as :func:`grid_points`."""
    # (2 i + 1) / (2 side) = (2 j + 1) / (2 other), in whole numbers
    axis = np.isin((2 * np.arange(side) + 1) * other, (2 * np.arange(other) + 1) * side)
    return (axis[:, None] & axis[None, :]).reshape(-1)


def _cell_centres(side: int) -> NDArray[np.float64]:
    # By linspace, as Meta's: the last digits decide where a point falls.
    half = 1 / (2 * side)
    return np.linspace(half, 1 - half, side)


@dataclass(frozen=True)
class Axis:
    """How one side of an image, ``n`` pixels long, mixes one side of the logits, ``l`` long.

    Attributes:
        weights: float32 ``[n, l]``.
        first: int64 ``[n]`` on the host, the first logit that takes part in each pixel; it never falls.
        last: int64 ``[n]`` on the host, the last one.
    """

    weights: Tensor
    first: Tensor
    last: Tensor


def axes(size_hw: tuple[int, int], low: int, frame: int, device: torch.device) -> tuple[Axis, Axis]:
    """The vertical and the horizontal side of an image, for logits ``[low, low]`` of a square frame."""
    resized = resized_size(size_hw, frame)
    vertical, horizontal = (_axis(side, new, low, frame, device) for side, new in zip(size_hw, resized, strict=True))
    return vertical, horizontal


def _axis(side: int, resized: int, low: int, frame: int, device: torch.device) -> Axis:
    # [l, n]: what each logit alone gives
    responses = torch.eye(low, device=device)[None]
    if not isinstance(frame, Stretched):
        responses = F.interpolate(responses, frame, mode="linear", align_corners=False)
    weights = F.interpolate(responses[..., :resized], side, mode="linear", align_corners=False)[0].T.contiguous()
    takes_part = (weights > 0).to(torch.uint8).cpu()
    return Axis(weights, takes_part.argmax(1), low - 1 - takes_part.flip(1).argmax(1))


class Window(NamedTuple):
    """Parts of several masks, all of one size.

    Attributes:
        which: int64 ``[K]``, the masks in question.
        top: int64 ``[K]``, the image's row where each part begins.
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
        vertical, horizontal: sides of the image.
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
            # [K, h] and [K, h'] of rows, [K, w] and [K, w'] of columns: of the image and of the logits
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


class MaskFilter:
    """The thresholds, for the answers on one crop of an image.

    Args:
        crop: where in the image.
        size_hw: of the image.
        settings: the thresholds.
    """

    def __init__(self, crop: Crop, size_hw: tuple[int, int], settings: EverythingSettings) -> None:
        self.crop, self.size_hw, self.settings = crop, size_hw, settings

    def surviving(self, masks: Masks, points_xy: Tensor, covered: Tensor | None = None) -> Iterator[Candidates]:
        """Masks that pass, part by part, none of them empty.

        Args:
            masks: answers to ``N`` prompts on the crop, ``M`` candidates each.
            points_xy: the prompts, float64 ``[N, 2]`` in pixels of the crop.
            covered: bool ``[h, w]`` of the crop; set here at pixels where a surviving mask has a logit above
                ``settings.high_score_thresh``.
        """
        settings, device = self.settings, masks.iou_pred.device
        # [N * M]: the candidates of a prompt stand together
        iou_pred, per_prompt = masks.iou_pred.float().flatten(), masks.iou_pred.shape[1]
        chosen = torch.arange(len(iou_pred), device=device)
        if settings.pred_iou_thresh > 0:
            # Before anything is made as large as the image.
            chosen = chosen[iou_pred > settings.pred_iou_thresh]
        lowest_cut = settings.mask_threshold - settings.stability_score_offset
        if covered is not None:
            lowest_cut = min(lowest_cut, settings.high_score_thresh)
        box = torch.tensor(self.crop.box_xyxy, device=device)
        sides = axes(self.crop.size_hw, masks.logits.shape[-1], masks.frame, device)
        pixels = pixels_at_once(device)
        for window in windows(masks.logits.flatten(0, 1)[chosen], lowest_cut, *sides, pixels):
            stability = stability_scores(window.logits, settings.mask_threshold, settings.stability_score_offset)
            binary = window.logits > settings.mask_threshold
            boxes = self._boxes(binary, window, box)
            keep = ~self.crop.cuts(boxes, self.size_hw)
            if settings.stability_score_thresh > 0:
                keep &= stability >= settings.stability_score_thresh
            kept = keep.nonzero()[:, 0]
            if not len(kept):
                continue
            window = Window(*(column[kept] for column in window))
            if covered is not None:
                _cover(covered, window, settings.high_score_thresh)
            prompts = chosen[window.which]
            rles = encode_windows(
                binary[kept].cpu().numpy(),
                (window.top + box[1]).cpu().numpy(),
                (window.left + box[0]).cpu().numpy(),
                self.size_hw,
            )
            yield Candidates(
                boxes[kept],
                iou_pred[prompts],
                stability[kept],
                points_xy[prompts // per_prompt] + box[:2],
                box.expand(len(kept), 4),
                rles,
            )

    def _boxes(self, binary: Tensor, window: Window, crop_xyxy: Tensor) -> Tensor:
        """Boxes in pixels of the image, int64 ``[K, 4]``; an empty mask's is the crop's first pixel, as Meta's."""
        corner = torch.stack([window.left, window.top], 1).repeat(1, 2)
        something = binary.flatten(1).view(torch.uint8).amax(1, keepdim=True)
        return (mask_boxes(binary) + corner) * something + crop_xyxy[:2].repeat(2)


def _cover(covered: Tensor, window: Window, high_score: float) -> None:
    """Set the pixels of ``covered`` bool ``[h, w]`` where a logit of the window is above ``high_score``."""
    mask, y, x = (window.logits > high_score).nonzero().unbind(1)
    covered[y + window.top[mask], x + window.left[mask]] = True
