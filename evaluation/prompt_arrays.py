"""Prompts given as arrays, in the shapes of ``segment_anything``, checked and turned into a :class:`Prompt`."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from core.errors import InputError
from core.protocols import Prompt

LOGITS_PER_CELL = 4
"""Low-resolution logits along one side of a cell of the embedding: SAM's decoder enlarges it twice by two."""


def prompt_from_arrays(
    point_coords: ArrayLike | None,
    point_labels: ArrayLike | None,
    box: ArrayLike | None,
    mask_input: ArrayLike | None,
    grid: int,
) -> Prompt:
    """One prompt, or ``N`` where an array has one dimension more.

    Args:
        point_coords: xy in original pixels, ``[P, 2]`` or ``[N, P, 2]``.
        point_labels: ``[P]`` or ``[N, P]``: 1 foreground, 0 background, -1 padding.
        box: xyxy in original pixels, ``[4]`` or ``[N, 4]``.
        mask_input: low-resolution logits of an earlier answer, ``[1, l, l]`` or ``[N, 1, l, l]``.
        grid: side of the image embedding.

    Raises:
        InputError: nothing is given, or something that does not belong together.
    """
    if point_coords is None and box is None and mask_input is None and point_labels is None:
        raise InputError("no prompt is given; give point_coords and point_labels, box, mask_input, or several of them")
    points, labels = _points(point_coords, point_labels)
    boxes, masks = _boxes(box), _masks(mask_input, LOGITS_PER_CELL * grid)
    parts = {"point_coords": points, "box": boxes, "mask_input": masks}
    counts = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(
            f"the parts of a prompt must describe one number of prompts, got {found}; give as many of each"
        )
    if not next(iter(counts.values())):
        raise InputError(f"{next(iter(counts))} holds no prompt; give at least one")
    return Prompt(_tensor(boxes), _tensor(points), _tensor(labels), _tensor(masks))


def _points(
    coords: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None]:
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
    if points.ndim not in (2, 3) or points.shape[-1] != 2:
        raise InputError(f"point_coords must be [P, 2] or [N, P, 2], got {list(points.shape)}; give x and y of each")
    kinds = _numbers("point_labels", labels)
    if kinds.shape != points.shape[:-1]:
        shapes = f"{list(kinds.shape)} for points {list(points.shape)}"
        raise InputError(f"point_labels must have one label a point, got {shapes}; give {list(points.shape[:-1])}")
    if not np.isin(kinds, (-1, 0, 1)).all():
        wrong = kinds[~np.isin(kinds, (-1, 0, 1))].flat[0]
        raise InputError(f"point_labels must be 1 (foreground), 0 (background) or -1 (padding), got {wrong:g}")
    whole = kinds.astype(np.int64)
    return (points[None], whole[None]) if points.ndim == 2 else (points, whole)


def _boxes(box: ArrayLike | None) -> NDArray[np.float32] | None:
    """Boxes float32 ``[N, 4]``."""
    if box is None:
        return None
    boxes = _numbers("box", box)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise InputError(f"box must be 4 numbers x0, y0, x1, y1, or [N, 4] of them, got {list(boxes.shape)}")
    return boxes.reshape(-1, 4)


def _masks(mask_input: ArrayLike | None, side: int) -> NDArray[np.float32] | None:
    """Low-resolution logits float32 ``[N, 1, side, side]``."""
    if mask_input is None:
        return None
    masks = _numbers("mask_input", mask_input)
    if masks.ndim not in (3, 4) or masks.shape[-3:] != (1, side, side):
        raise InputError(
            f"mask_input must be [1, {side}, {side}], one of the low-resolution logits that predict returned, "
            f"got {list(masks.shape)}"
        )
    return masks.reshape(-1, 1, side, side)


def _numbers(name: str, value: ArrayLike) -> NDArray[np.float32]:
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a numpy array of numbers, all rows equally long") from None
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds a number that is not finite; leave it out")
    return array


def _tensor(array: NDArray[np.float32] | NDArray[np.int64] | None) -> Tensor | None:
    # A copy: the caller's array may be read-only, which PyTorch warns of.
    return None if array is None else torch.from_numpy(array.copy())
