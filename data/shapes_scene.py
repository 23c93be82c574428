"""Composition of one picture of the ``shapes`` data set: which figures, in which order, in which colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.shapes_drawing import KINDS, Figure, between, direction, draw_figure
from data.shapes_texture import (
    PATTERNS,
    Colour,
    cast_shadow,
    near_colour,
    pattern,
    photograph,
    random_colour,
    scratch,
    shading,
    specks,
    value_noise,
)

MOST_OBJECTS = 7
LEAST_PICTURE_SHARE = (3, 100)
"""Every instance shows at least 3 % of the picture."""
LEAST_OWN_SHARE = (4, 10)
"""Every instance shows at least 40 % of what was drawn of it."""
_ATTEMPTS = 40
_RECOLOURINGS = 6


@dataclass(frozen=True)
class Scene:
    """One picture and its instances.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        labels: uint8 ``[H, W]``, 0 where no instance is seen, ``k + 1`` where instance ``k`` is.
        kinds: the kind of each instance, of :data:`data.shapes_drawing.KINDS`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    kinds: tuple[str, ...]


def compose(seed: int, size: int, difficulty: float) -> Scene:
    """Make the picture that belongs to a seed.

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
    wanted = int(rng.integers(2, MOST_OBJECTS + 1))
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
        if len(placed) == wanted:
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
    most, of = LEAST_PICTURE_SHARE
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
