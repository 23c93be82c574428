"""Composition of one image of the ``shapes`` data set: which figures, in which order, in which colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.shapes_drawing import KINDS, Figure, between, direction, draw_figure

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
        scale: pixels of this image to one pixel of a 128-pixel image.
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


MOST_OBJECTS = 7
LEAST_IMAGE_SHARE = (3, 100)
"""Every instance shows at least 3 % of the image."""
LEAST_OWN_SHARE = (4, 10)
"""Every instance shows at least 40 % of what was drawn of it."""
_ATTEMPTS = 40
_RECOLOURINGS = 6


@dataclass(frozen=True)
class Scene:
    """One image and its instances.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        labels: uint8 ``[H, W]``, 0 where no instance is seen, ``k + 1`` where instance ``k`` is.
        kinds: the kind of each instance, of :data:`data.shapes_drawing.KINDS`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    kinds: tuple[str, ...]


def compose(seed: int, size: int, difficulty: float) -> Scene:
    """Make the image that belongs to a seed.

    Args:
        seed: any non-negative integer.
        size: the longer side in pixels.
        difficulty: 0 (flat fills on a plain ground) to 1 (texture, shade, clutter, noise, kindred colours).
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    shape = int(rng.integers(4))
    short = 3 * size // 4
    height, width = (size, size) if shape < 2 else (short, size) if shape == 2 else (size, short)
    light = direction(rng)
    # With a family, fills and ground are kindred, so that colour alone does not tell figure from ground.
    family = random_colour(rng) if rng.random() < 0.4 * difficulty else None
    canvas = _ground(rng, height, width, size / 128.0, family, difficulty)
    labels = np.zeros((height, width), dtype=np.uint8)
    count = int(rng.integers(2, MOST_OBJECTS + 1))
    shadows = rng.random() < 0.6 * difficulty
    placed: list[Figure] = []
    for _ in range(_ATTEMPTS):
        figure = _place(rng, height, width)
        if not _fits(labels, placed, figure):
            continue
        if shadows:
            reach = max(1, round(between(rng, 1.0, 3.0) * size / 128.0))
            away = between(rng, 0.0, 4.0) * size / 128.0
            offset = round(-light[0] * away), round(-light[1] * away)
            cast_shadow(canvas, figure, offset, reach, between(rng, 0.2, 0.5))
        _paint(rng, canvas, figure, light, size / 128.0, family, difficulty)
        placed.append(figure)
        labels[figure.window][figure.mask] = len(placed)
        if len(placed) == count:
            break
    if rng.random() < 0.5 * difficulty:
        for _ in range(int(rng.integers(1, 4))):
            scratch(rng, canvas, between(rng, 0.3, 0.8))
    return Scene(photograph(rng, canvas, difficulty), labels, tuple(figure.kind for figure in placed))


def _ground(
    rng: np.random.Generator, height: int, width: int, scale: float, family: Colour | None, difficulty: float
) -> NDArray[np.float64]:
    first = random_colour(rng) if family is None else near_colour(rng, family, 40.0)
    second = near_colour(rng, first, 70.0 * difficulty)
    third = near_colour(rng, first, 60.0 * difficulty)
    kind = PATTERNS[int(rng.integers(1, len(PATTERNS)))]
    canvas = first + (second - first) * pattern(rng, kind, height, width, scale)[..., None]
    cloud = value_noise(rng, height, width, scale * between(rng, 10.0, 45.0)) * between(rng, 0.2, 0.8)
    canvas = canvas + (third - canvas) * cloud[..., None]
    specks(rng, canvas, int(rng.integers(0, 60)), difficulty * between(rng, 0.2, 0.7))
    for _ in range(int(rng.integers(0, 5))):
        scratch(rng, canvas, difficulty * between(rng, 0.2, 0.8))
    return canvas


def _place(rng: np.random.Generator, height: int, width: int) -> Figure:
    kind = KINDS[int(rng.integers(len(KINDS)))]
    u = float(rng.random())
    radius = min(height, width) * (0.17 + 0.27 * u * (0.4 + 0.6 * u))
    center = (width * between(rng, 0.1, 0.9), height * between(rng, 0.1, 0.9))
    return draw_figure(rng, kind, center, radius, height, width)


def _fits(labels: NDArray[np.uint8], placed: list[Figure], figure: Figure) -> bool:
    """Whether the figure and all it would cover stay within the limits of visibility."""
    most, of = LEAST_IMAGE_SHARE
    if int(np.count_nonzero(figure.mask)) * of < most * labels.size:
        return False
    hidden = np.bincount(labels[figure.window][figure.mask], minlength=len(placed) + 1)
    shown = np.bincount(labels.ravel(), minlength=len(placed) + 1) - hidden
    for number, earlier in enumerate(placed, start=1):
        left = int(shown[number])
        drawn = int(np.count_nonzero(earlier.mask))
        if left * of < most * labels.size or left * LEAST_OWN_SHARE[1] < drawn * LEAST_OWN_SHARE[0]:
            return False
    return True


def _paint(
    rng: np.random.Generator,
    canvas: NDArray[np.float64],
    figure: Figure,
    light: tuple[float, float],
    scale: float,
    family: Colour | None,
    difficulty: float,
) -> None:
    """Paint a figure in place, in colours that differ from what lies under its edge."""
    under = canvas[figure.window]
    height, width = figure.mask.shape
    kind = PATTERNS[int(rng.integers(len(PATTERNS)))] if rng.random() < 0.25 + 0.75 * difficulty else "flat"
    field = pattern(rng, kind, height, width, scale)[..., None]
    shade = shading(rng, figure, light, 0.45 * difficulty)[..., None]
    edge = figure.mask & ~_eroded(figure.mask, max(1, round(2 * scale)))
    edge_field, edge_shade, edge_under = field[edge], shade[edge], under[edge]
    least = 34.0 + 46.0 * (1.0 - difficulty)
    for attempt in range(_RECOLOURINGS):
        if attempt == _RECOLOURINGS - 1:
            first = _opposite(edge_under)
        else:
            first = random_colour(rng) if family is None else near_colour(rng, family, 30.0 + 25.0 * attempt)
        second = near_colour(rng, first, 80.0 * difficulty)
        edge_fill = np.clip((first + (second - first) * edge_field) * edge_shade, 0.0, 255.0)
        if _distinct(edge_fill, edge_under, least):
            break
    fill = np.clip((first + (second - first) * field) * shade, 0.0, 255.0)
    np.copyto(under, fill, where=figure.mask[..., None])


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _distinct(fill: NDArray[np.float64], under: NDArray[np.float64], least: float) -> bool:
    """Whether two rows of colours ``[n, 3]`` are ``least`` apart on average and well apart at most places."""
    step = fill - under
    squared = step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1] + step[:, 2] * step[:, 2]
    # Whole sixteenths, for a sum of floats depends on the order in which a machine adds them.
    apart = np.floor(np.sqrt(squared) * 16.0).astype(np.int64)
    plain = int(np.count_nonzero(apart >= round(0.7 * 16 * least)))
    return int(apart.sum()) >= least * 16.0 * len(apart) and plain * 10 >= 7 * len(apart)


def _opposite(under: NDArray[np.float64]) -> Colour:
    """A colour far from the mean of ``[n, 3]``: light on dark, dark on light."""
    mean = np.floor(under).astype(np.int64).sum(axis=0) // max(1, len(under))
    return np.where(mean < 128, mean + 100, mean - 100).astype(np.float64)
