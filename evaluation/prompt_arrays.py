"""Prompts as arrays or tensors, in the shapes of ``segment_anything``, checked and made a :class:`Prompt`."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from core.errors import InputError
from core.protocols import Prompt

LOGITS_PER_CELL = 4
"""Low-resolution logits along one side of a cell of the embedding: SAM's decoder enlarges it twice by two."""


def prompt_from_arrays(
    point_coords: ArrayLike | Tensor | None,
    point_labels: ArrayLike | Tensor | None,
    box: ArrayLike | Tensor | None,
    mask_input: ArrayLike | Tensor | None,
    grid: int,
    batched: bool = False,
) -> Prompt:
    """One prompt, or ``N`` where an array has one dimension more. Tensors stay on their device.

    Args:
        point_coords: xy in pixels, ``[P, 2]`` or ``[N, P, 2]``.
        point_labels: ``[P]`` or ``[N, P]``: 1 foreground, 0 background, -1 padding.
        box: xyxy in pixels, ``[4]`` or ``[N, 4]``.
        mask_input: low-resolution logits of an earlier answer, ``[1, l, l]`` or ``[N, 1, l, l]``.
        grid: side of the image embedding.
        batched: as ``predict_torch`` takes them: ``N`` must stand in front, and the boxes are called ``boxes``.

    Raises:
        InputError: nothing is given, or something that does not belong together.
    """
    named = "boxes" if batched else "box"
    if point_coords is None and box is None and mask_input is None and point_labels is None:
        raise InputError(
            f"no prompt is given; give point_coords and point_labels, {named}, mask_input, or several of them"
        )
    points, labels = _points(point_coords, point_labels, batched)
    boxes, masks = _boxes(named, box, batched), _masks(mask_input, LOGITS_PER_CELL * grid, batched)
    parts = {"point_coords": points, named: boxes, "mask_input": masks}
    counts = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(
            f"the parts of a prompt must describe one number of prompts, got {found}; give as many of each"
        )
    first = next(iter(counts))
    if not counts[first] or (list(counts) == ["point_coords"] and points is not None and not points.shape[1]):
        raise InputError(f"{first} holds no prompt; give at least one")
    return Prompt(boxes, points, labels, masks)


def _points(
    coords: ArrayLike | Tensor | None, labels: ArrayLike | Tensor | None, batched: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Points float32 ``[N, P, 2]`` and labels int64 ``[N, P]``, or twice None."""
    if coords is None and labels is None:
        return None, None
    if coords is None:
        raise InputError("point_labels are given without point_coords; give both")
    if labels is None:
        raise InputError(
            "point_coords are given without point_labels; give a label a point: 1 foreground, 0 background"
        )
    points = _numbers("point_coords", coords)
    if points.ndim not in ((3,) if batched else (2, 3)) or points.shape[-1] != 2:
        shapes = "[N, P, 2]" if batched else "[P, 2] or [N, P, 2]"
        raise InputError(f"point_coords must be {shapes}, got {list(points.shape)}; give x and y of each")
    kinds = _numbers("point_labels", labels)
    if kinds.shape != points.shape[:-1]:
        shapes = f"{list(kinds.shape)} for points {list(points.shape)}"
        raise InputError(f"point_labels must have one label a point, got {shapes}; give {list(points.shape[:-1])}")
    wrong = kinds[(kinds != 1) & (kinds != 0) & (kinds != -1)]
    if len(wrong):
        raise InputError(f"point_labels must be 1 (foreground), 0 (background) or -1 (padding), got {wrong[0]:g}")
    whole = kinds.to(torch.int64)
    return (points[None], whole[None]) if points.ndim == 2 else (points, whole)


def _boxes(name: str, box: ArrayLike | Tensor | None, batched: bool) -> Tensor | None:
    """Boxes float32 ``[N, 4]``."""
    if box is None:
        return None
    boxes = _numbers(name, box)
    if boxes.ndim not in ((2,) if batched else (1, 2)) or boxes.shape[-1] != 4:
        shapes = "[N, 4], x0, y0, x1, y1 of each" if batched else "4 numbers x0, y0, x1, y1, or [N, 4] of them"
        raise InputError(f"{name} must be {shapes}, got {list(boxes.shape)}")
    return boxes.reshape(-1, 4)


def _masks(mask_input: ArrayLike | Tensor | None, side: int, batched: bool) -> Tensor | None:
    """Low-resolution logits float32 ``[N, 1, side, side]``."""
    if mask_input is None:
        return None
    masks = _numbers("mask_input", mask_input)
    if masks.ndim not in ((4,) if batched else (3, 4)) or masks.shape[-3:] != (1, side, side):
        raise InputError(
            f"mask_input must be [{'N, ' if batched else ''}1, {side}, {side}], one of the low-resolution logits that "
            f"{'predict_torch' if batched else 'predict'} returned, got {list(masks.shape)}"
        )
    return masks.reshape(-1, 1, side, side)


def _numbers(name: str, value: ArrayLike | Tensor) -> Tensor:
    try:
        # Of an array a copy: the caller's may be read-only, which PyTorch warns of.
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, np.float32))
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a numpy array of numbers, all rows equally long") from None
    found = found.to(torch.float32)
    if not found.isfinite().all():
        raise InputError(f"{name} holds a number that is not finite; leave it out")
    return found
