"""Masks as COCO's run lengths, a batch at a time."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data.annotations import decode_rle, encode_rle, expand_counts, rle_as_text
from evaluation.everything.candidates import Candidates
from evaluation.mask_measures import mask_boxes


def in_form(rle: dict[str, Any], output: str) -> dict[str, Any] | NDArray[np.bool_]:
    """A compressed RLE in the form that :class:`EverythingSettings` calls ``output``."""
    if output == "binary_mask":
        return decode_rle(rle)
    if output == "coco_rle":
        return rle_as_text(rle)
    counts = expand_counts(rle["counts"])
    assert counts is not None, "pycocotools wrote it"
    return {"size": list(rle["size"]), "counts": counts.tolist()}


_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def cleaned(found: Candidates, least_area: int, nms_threshold: float) -> Candidates:
    """Masks without small regions, and without duplicates that this made; what needed no change is preferred.

    Args:
        found: on the host.
        least_area: in pixels; see :func:`without_small_regions`.
        nms_threshold: of two boxes that overlap more one is dropped.
    """
    boxes, rles, unchanged = found.boxes_xyxy.clone(), list(found.rles), torch.ones(len(found))
    for i, rle in enumerate(found.rles):
        mask = decode_rle(rle)
        result = without_small_regions(mask, least_area)
        if result is not mask:
            boxes[i] = mask_boxes(torch.from_numpy(result)[None])[0]
            rles[i], unchanged[i] = encode_rle(result), 0.0
    changed = Candidates(boxes, found.iou_pred, found.stability, found.points_xy, found.crops_xyxy, rles)
    return changed.without_overlaps(unchanged, nms_threshold)


def without_small_regions(mask: NDArray[np.bool_], least_area: int) -> NDArray[np.bool_]:
    """A mask without holes, and then without parts, of fewer than ``least_area`` pixels.

    Pixels that touch by a corner are connected, in holes as in parts. Where every part is too small the largest stays.

    Args:
        mask: bool ``[H, W]``.

    Returns:
        bool ``[H, W]``; the very mask that was given where no region was too small.
    """
    holes, areas = _regions(~mask)
    small = areas < least_area
    if small.any():
        mask = mask | np.concatenate([[False], small])[holes]
    parts, areas = _regions(mask)
    kept = areas >= least_area
    if kept.all():
        return mask
    if not kept.any():
        kept[areas.argmax()] = True
    return np.concatenate([[False], kept])[parts]


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Numbers of the connected regions ``[H, W]``, 0 outside of any, and their areas ``[R]``."""
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    return labels, np.bincount(labels.reshape(-1), minlength=count + 1)[1:]
