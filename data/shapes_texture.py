"""Surfaces and light of the ``shapes`` data set: fills, shading, shadows, clutter, the camera.

All arithmetic is elementwise float64 or integer, so that a picture is the same on every machine; sums are sums of
integers for the same reason.
"""

import numpy as np
from numpy.typing import NDArray

from data.shapes_drawing import Figure, between, direction

Colour = NDArray[np.float64]
"""float64 ``[3]``, RGB in 0 to 255."""

PATTERNS = ("flat", "gradient", "stripes", "checks", "spots", "noise")


def random_colour(rng: np.random.Generator) -> Colour:
    """A colour of any hue, from dark to light, often greyish as most surfaces are."""
    colour = rng.integers(25, 236, size=3).astype(np.float64)
    grey = (colour[0] + colour[1] + colour[2]) / 3.0
    return grey + (colour - grey) * between(rng, 0.25, 1.1)


def near_colour(rng: np.random.Generator, colour: Colour, reach: float) -> Colour:
    """A colour in which lightness differs by up to ``reach`` and hue by up to half of it."""
    lightness = between(rng, -reach, reach)
    hue = (rng.integers(-128, 129, size=3) / 128.0) * (0.5 * reach)
    return np.clip(colour + lightness + hue, 8.0, 247.0)


def value_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> NDArray[np.float64]:
    """Smooth noise in ``[0, 1]``, float64 ``[height, width]``, with features about ``cell`` pixels wide."""
    y, x = np.arange(height) / cell, np.arange(width) / cell
    row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    fy, fx = y - row, x - column
    fy, fx = fy * fy * (3.0 - 2.0 * fy), fx * fx * (3.0 - 2.0 * fx)
    lattice = rng.integers(0, 256, size=(int(row[-1]) + 2, int(column[-1]) + 2)) / 255.0
    rows = lattice[row] + (lattice[row + 1] - lattice[row]) * fy[:, None]
    return rows[:, column] + (rows[:, column + 1] - rows[:, column]) * fx


def pattern(rng: np.random.Generator, kind: str, height: int, width: int, scale: float) -> NDArray[np.float64]:
    """How much of the second colour each pixel has: float64 ``[height, width]`` in ``[0, 1]``.

    Args:
        rng: source of direction, period and phase.
        kind: one of :data:`PATTERNS`.
        height, width: of the surface.
        scale: pixels of this picture to one pixel of a 128-pixel picture.
    """
    if kind == "flat":
        return np.zeros((height, width))
    if kind == "noise":
        coarse = value_noise(rng, height, width, scale * between(rng, 6.0, 20.0))
        return 0.65 * coarse + 0.35 * value_noise(rng, height, width, scale * between(rng, 1.7, 4.0))
    cosine, sine = direction(rng)
    x, y = np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5
    along, across = x * cosine + y * sine, y * cosine - x * sine
    if kind == "gradient":
        low, high = float(along.min()), float(along.max())
        return (along - low) / max(high - low, 1.0)
    period = scale * between(rng, 5.0, 16.0)
    along, across = along / period + float(rng.random()), across / period + float(rng.random())
    if kind == "stripes":
        return (along - np.floor(along) < between(rng, 0.3, 0.7)).astype(np.float64)
    if kind == "checks":
        return (np.floor(along) + np.floor(across)) % 2.0
    u, v = along - np.floor(along) - 0.5, across - np.floor(across) - 0.5
    return (u * u + v * v < between(rng, 0.04, 0.16)).astype(np.float64)


def shading(
    rng: np.random.Generator, figure: Figure, light: tuple[float, float], strength: float
) -> NDArray[np.float64]:
    """Factor of the figure's brightness, float64 ``[h, w]``: lit on the side that ``light`` points to."""
    height, width = figure.mask.shape
    dx = (np.arange(width) + (figure.left + 0.5 - figure.center[0])) / figure.radius
    dy = (np.arange(height) + (figure.top + 0.5 - figure.center[1])) / figure.radius
    tilt = between(rng, 0.0, strength)
    bulge = between(rng, 0.0, 0.6 * strength)
    lean = (dx * light[0])[None, :] + (dy * light[1])[:, None]
    return 1.0 + tilt * lean - bulge * ((dx * dx)[None, :] + (dy * dy)[:, None] - 0.4)


def cast_shadow(canvas: NDArray[np.float64], figure: Figure, offset: tuple[int, int], reach: int, depth: float) -> None:
    """Darken, in place, what lies beside a figure that is about to be painted.

    Args:
        canvas: float64 ``[H, W, 3]``.
        figure: what throws the shadow.
        offset: ``(columns, rows)`` by which the shadow is displaced.
        reach: half the width of the soft edge, in pixels.
        depth: share of the light that the full shadow takes.
    """
    height, width = canvas.shape[:2]
    soft = box_sum(np.pad(figure.mask, 2 * reach).astype(np.int64), reach) / float((2 * reach + 1) ** 2)
    top, left = figure.top - reach + offset[1], figure.left - reach + offset[0]
    y0, y1 = max(0, top), min(height, top + soft.shape[0])
    x0, x1 = max(0, left), min(width, left + soft.shape[1])
    if y0 < y1 and x0 < x1:
        canvas[y0:y1, x0:x1] *= (1.0 - depth * soft[y0 - top : y1 - top, x0 - left : x1 - left])[..., None]


def box_sum(values: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Sums of the ``2 * reach + 1`` wide squares inside an integer array, ``[h - 2 reach, w - 2 reach]``."""
    side = 2 * reach + 1
    total = np.cumsum(np.cumsum(np.pad(values, ((1, 0), (1, 0))), axis=0), axis=1)
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]


def scratch(rng: np.random.Generator, canvas: NDArray[np.float64], strength: float) -> None:
    """Draw, in place, one thin bent line that belongs to no instance."""
    height, width = canvas.shape[:2]
    ends = rng.random((3, 2)) * np.array([width, height])
    t = np.arange(2 * max(height, width)) / float(2 * max(height, width))
    t = t[:, None]
    points = (1.0 - t) * (1.0 - t) * ends[0] + 2.0 * t * (1.0 - t) * ends[1] + t * t * ends[2]
    x, y = np.floor(points[:, 0]).astype(np.intp), np.floor(points[:, 1]).astype(np.intp)
    canvas[y, x] += (random_colour(rng) - canvas[y, x]) * strength


def specks(rng: np.random.Generator, canvas: NDArray[np.float64], count: int, strength: float) -> None:
    """Draw, in place, specks of one or two pixels that belong to no instance."""
    height, width = canvas.shape[:2]
    y, x = rng.integers(0, height - 1, size=count), rng.integers(0, width - 1, size=count)
    colours = rng.integers(0, 256, size=(count, 3)).astype(np.float64)
    canvas[y, x] += (colours - canvas[y, x]) * strength
    wide = y[: count // 2], x[: count // 2] + 1
    canvas[wide] += (colours[: count // 2] - canvas[wide]) * strength


def photograph(rng: np.random.Generator, canvas: NDArray[np.float64], difficulty: float) -> NDArray[np.uint8]:
    """The canvas as a camera gives it: uneven light, a soft lens, sensor noise; uint8 ``[H, W, 3]``."""
    height, width = canvas.shape[:2]
    cosine, sine = direction(rng)
    fall = 0.18 * difficulty * float(rng.random())
    x, y = np.arange(width) * (2.0 / width) - 1.0, np.arange(height) * (2.0 / height) - 1.0
    seen = canvas * (1.0 + fall * ((x * cosine)[None, :] + (y * sine)[:, None]))[..., None]
    side = difficulty * between(rng, 0.0, 0.3)  # of a three-pixel window: 0 is sharp, a third is a full box
    if rng.random() < 0.7:
        padded = np.pad(seen, ((1, 1), (0, 0), (0, 0)), mode="edge")
        seen = seen + side * (padded[:-2] + padded[2:] - 2.0 * seen)
        padded = np.pad(seen, ((0, 0), (1, 1), (0, 0)), mode="edge")
        seen = seen + side * (padded[:, :-2] + padded[:, 2:] - 2.0 * seen)
    # Three bytes summed are close to normal, with a standard deviation of 128.
    grain = rng.integers(0, 256, size=(3, height, width, 3), dtype=np.uint8).astype(np.int16)
    level = difficulty * between(rng, 1.0, 8.0) / 128.0
    seen = seen + (grain[0] + grain[1] + grain[2] - 382) * level
    return np.clip(np.floor(seen + 0.5), 0.0, 255.0).astype(np.uint8)
