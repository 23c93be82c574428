"""Outlines of the ``shapes`` data set: seven kinds of figure, rasterised exactly at pixel centres.

A pixel belongs to a figure when its centre does (pixel ``(column, row)`` has its centre at ``(column + 0.5,
row + 0.5)``). Only float64 ``+ - * /`` and comparisons touch the pixels, and sines and cosines are rounded to six
decimals first, because the last bit of a library's ``sin`` differs between machines and a mask must not.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("polygon", "ellipse", "star", "ring", "blob", "rounded_rectangle", "crescent")
_TURN_STEPS = 3600


@dataclass(frozen=True)
class Figure:
    """A figure drawn in the part of the image that its outline can reach.

    Attributes:
        kind: one of :data:`KINDS`.
        top, left: the window's first row and column in the image.
        mask: bool ``[h, w]``, the figure inside the window.
        center: ``(x, y)`` in pixels of the image.
        radius: the outline stays within this distance of the centre, in pixels.
    """

    kind: str
    top: int
    left: int
    mask: NDArray[np.bool_]
    center: tuple[float, float]
    radius: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that :attr:`mask` covers."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """One number in ``[low, high)``; ``Generator.uniform`` is left out since a compiler may fuse its arithmetic."""
    return low + (high - low) * float(rng.random())


def direction(rng: np.random.Generator) -> tuple[float, float]:
    """Cosine and sine of a random angle, rounded to six decimals."""
    angle = int(rng.integers(_TURN_STEPS)) * (2.0 * math.pi / _TURN_STEPS)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def draw_figure(
    rng: np.random.Generator, kind: str, center: tuple[float, float], radius: float, height: int, width: int
) -> Figure:
    """Draw one figure of a kind with random proportions and rotation.

    Args:
        rng: source of the proportions.
        kind: one of :data:`KINDS`.
        center: ``(x, y)`` in pixels; may lie so that the figure runs off the image.
        radius: bound of the outline's distance from the centre, in pixels.
        height, width: of the image.
    """
    x, y = center
    top, bottom = max(0, math.floor(y - radius)), min(height, math.ceil(y + radius) + 1)
    left, right = max(0, math.floor(x - radius)), min(width, math.ceil(x + radius) + 1)
    # In units of the radius, so that the outlines below are written once for every size.
    xs = (np.arange(left, right, dtype=np.float64) + 0.5 - x) / radius
    ys = (np.arange(top, bottom, dtype=np.float64) + 0.5 - y) / radius
    if kind in _POLYGONS:
        mask = fill_polygon(_POLYGONS[kind](rng), xs, ys)
    else:
        cosine, sine = direction(rng)
        along = xs[None, :] * cosine + ys[:, None] * sine
        across = ys[:, None] * cosine - xs[None, :] * sine
        mask = _IMPLICIT[kind](rng, along, across)
    return Figure(kind, top, left, mask, center, radius)


def fill_polygon(vertices: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Even-odd fill of a closed polygon at sample points on a regular grid.

    Args:
        vertices: float64 ``[V, 2]``, x and y, in the frame of ``xs`` and ``ys``.
        xs: float64 ``[w]``, increasing.
        ys: float64 ``[h]``.

    Returns:
        bool ``[h, w]``, true where an odd number of edges lies to the left of the point.
    """
    start, end = vertices, np.concatenate([vertices[1:], vertices[:1]])
    row = ys[:, None]
    # Half-open in y, so that a vertex shared by two edges is crossed once.
    crosses = (start[:, 1] <= row) != (end[:, 1] <= row)
    rows, edges = np.nonzero(crosses)
    a, b = start[edges], end[edges]
    crossing = a[:, 0] + (ys[rows] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    first = np.searchsorted(xs, crossing, side="right")
    stride = len(xs) + 1
    toggles = np.bincount(rows * stride + first, minlength=len(ys) * stride).reshape(len(ys), stride)
    return (np.cumsum(toggles, axis=1)[:, :-1] & 1).astype(np.bool_)


def _spokes(angles: NDArray[np.floating[Any]], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines, sines = np.round(np.cos(angles), 6), np.round(np.sin(angles), 6)
    return np.stack([radii * cosines, radii * sines], axis=1)


def _squeezed(rng: np.random.Generator, vertices: NDArray[np.float64], low: float) -> NDArray[np.float64]:
    """Narrow a figure across a random direction, to between ``low`` and 1 of its breadth."""
    cosine, sine = direction(rng)
    ratio = between(rng, low, 1.0)
    across = (vertices[:, 1] * cosine - vertices[:, 0] * sine) * (ratio - 1.0)
    return np.stack([vertices[:, 0] - across * sine, vertices[:, 1] + across * cosine], axis=1)


def _polygon(rng: np.random.Generator) -> NDArray[np.float64]:
    count = int(rng.integers(3, 9))
    angles = (np.arange(count) + 0.7 * rng.random(count) + float(rng.random()) * count) * (2.0 * math.pi / count)
    # Half of them have corners on a circle (convex), half have corners at any depth.
    radii: NDArray[np.float64] = np.ones(count)
    if rng.random() < 0.5:
        radii = 0.4 + 0.6 * rng.random(count)
    return _squeezed(rng, _spokes(angles, radii), 0.45)


def _star(rng: np.random.Generator) -> NDArray[np.float64]:
    count = int(rng.integers(4, 9))
    angles = (np.arange(2 * count) + 2.0 * float(rng.random())) * (math.pi / count)
    radii = np.where(np.arange(2 * count) % 2 == 0, 1.0, between(rng, 0.42, 0.75))
    return _squeezed(rng, _spokes(angles, radii), 0.6)


def _blob(rng: np.random.Generator) -> NDArray[np.float64]:
    angles = np.arange(64) * (2.0 * math.pi / 64)
    radii: NDArray[np.float64] = np.ones(64)
    for harmonic in range(2, 6):
        phase = float(rng.random()) * 2.0 * math.pi
        radii = radii + between(rng, 0.0, 0.55 / harmonic) * np.round(np.sin(harmonic * angles + phase), 6)
    return _squeezed(rng, _spokes(angles, radii / float(np.max(radii))), 0.55)


def _ellipse(rng: np.random.Generator, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    short = between(rng, 0.35, 1.0)
    return along * along + across * across / (short * short) <= 1.0


def _ring(rng: np.random.Generator, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    short, inner = between(rng, 0.55, 1.0), between(rng, 0.4, 0.65)
    distance = along * along + across * across / (short * short)
    return (distance <= 1.0) & (distance > inner * inner)


def _rounded_rectangle(
    rng: np.random.Generator, along: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.bool_]:
    # 0.88 and its partner keep the corners inside the unit circle.
    long, short = 0.88, between(rng, 0.3, 0.47)
    corner = short * between(rng, 0.1, 0.8)
    beyond_long = np.maximum(np.abs(along) - (long - corner), 0.0)
    beyond_short = np.maximum(np.abs(across) - (short - corner), 0.0)
    return beyond_long * beyond_long + beyond_short * beyond_short <= corner * corner


def _crescent(rng: np.random.Generator, along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    shift, bite = between(rng, 0.5, 0.85), between(rng, 0.6, 0.9)
    moved = along - shift
    return (along * along + across * across <= 1.0) & (moved * moved + across * across > bite * bite)


_POLYGONS = {"polygon": _polygon, "star": _star, "blob": _blob}
_IMPLICIT = {
    "ellipse": _ellipse,
    "ring": _ring,
    "rounded_rectangle": _rounded_rectangle,
    "crescent": _crescent,
}
