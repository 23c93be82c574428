"""A prompt as it was typed: box, points and labels, checked against the image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from experiments.config.schema import PredictConfig


@dataclass(frozen=True)
class TypedPrompt:
    """One prompt in pixels of the image.

    Attributes:
        box_xyxy: float64 ``[4]``, or None.
        points_xy: float64 ``[P, 2]``, or None.
        labels: int64 ``[P]``: 1 foreground, 0 background; None without points.
    """

    box_xyxy: NDArray[np.float64] | None
    points_xy: NDArray[np.float64] | None
    labels: NDArray[np.int64] | None


def typed_prompt(settings: PredictConfig, size_hw: tuple[int, int]) -> TypedPrompt:
    """The prompt of some settings.

    Raises:
        InputError: there is none, it leaves the image, or its parts do not belong together.
    """
    if settings.labels and not settings.points:
        raise InputError(f"labels={_shown(settings.labels)} belong to points; give points=[[x,y],...] too")
    if settings.box is None and not settings.points:
        raise InputError("no prompt: give box=[x0,y0,x1,y1], points=[[x,y],...], or both")
    return TypedPrompt(_box(settings.box, size_hw), *_points(settings.points, settings.labels, size_hw))


def _box(box: list[float] | None, size_hw: tuple[int, int]) -> NDArray[np.float64] | None:
    if box is None:
        return None
    if len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(f"box={_shown(box)} must be four numbers; give box=[x0,y0,x1,y1]")
    height, width = size_hw
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"box={_shown(box)} has no area; give the corners [x0,y0,x1,y1] with x0 < x1 and y0 < y1")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise InputError(
            f"box={_shown(box)} reaches outside the image, which is {width}x{height} (width x height); "
            "give the corners [x0,y0,x1,y1] in its pixels"
        )
    return np.array(box, np.float64)


def _points(
    points: list[Any] | None, labels: list[int] | None, size_hw: tuple[int, int]
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    if not points:
        return None, None
    height, width = size_hw
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_number, point)):
            raise InputError(f"points={_shown(points)} must be pairs of numbers; give points=[[x,y],...]")
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise InputError(
                f"points={_shown(points)}: {_shown(point)} lies outside the image, which is "
                f"{width}x{height} (width x height); give [x,y] in its pixels"
            )
    chosen = [1] * len(points) if labels is None else labels
    if len(chosen) != len(points):
        raise InputError(f"labels={_shown(chosen)} for {len(points)} points; give one a point")
    if not all(label in (0, 1) for label in chosen):
        raise InputError(f"labels={_shown(chosen)} must be 1 (inside the object) or 0 (outside)")
    return np.array(points, np.float64), np.array(chosen, np.int64)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    """A list as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return str(value).removesuffix(".0")
