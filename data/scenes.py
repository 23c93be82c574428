"""Training scenes composed from annotated images at several scales: mosaics of random crops, on any device.

A scene fills a model's frame as an image does at evaluation: its longer side is the frame, the rest is padding. It is
cut into cells, and each cell shows a random crop of one image. Many cells make many small objects out of large ones,
sharp at every scale. All choices come from a seeded generator; only their arithmetic runs on the device.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from core.errors import InputError
from core.geometry import resized_size
from data.exclusions import readable_samples
from data.sample import ImageData


@dataclass(frozen=True)
class MaskedImage:
    """An image with the masks of its instances, each kept within its box.

    Attributes:
        name: of the image, for messages.
        pixels: uint8 ``[3, h, w]``, RGB.
        corners: int ``[N, 2]``, ``(x, y)`` of the masks' upper left corners.
        masks: of each instance, uint8 ``[h_i, w_i]`` of 0 and 1; every side holds a pixel of it.
    """

    name: str
    pixels: Tensor
    corners: NDArray[np.int64]
    masks: tuple[Tensor, ...]


def load_masked_images(
    data: ImageData, longest_side: int, count: int | None = None, device: torch.device | str = "cpu"
) -> list[MaskedImage]:
    """Read annotated images into memory, with a progress bar.

    Args:
        longest_side: larger images are reduced to it (masks by nearest cells).
        count: only so many, evenly spread over the data set; None for all.
        device: where pixels and masks lie.

    Returns:
        The images that have instances; those that are left out are counted in ``data.skipped``.
    """
    indices = range(len(data)) if count is None or count >= len(data) else _spread(len(data), count)
    found = []
    described = f"reading {data.name}"
    samples = readable_samples(data, indices)
    for _, sample in track(samples, described, len(indices), console=Console(stderr=True), transient=True):
        if sample is None:
            continue
        pixels = torch.from_numpy(sample.image).permute(2, 0, 1)
        masks = torch.from_numpy(sample.masks).to(torch.uint8)
        if max(pixels.shape[1:]) > longest_side:
            size = resized_size((pixels.shape[1], pixels.shape[2]), longest_side)
            pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
            masks = F.interpolate(masks[None], size, mode="nearest-exact")[0] if len(masks) else masks
        kept = [_within_box(mask) for mask in masks.numpy() if mask.any()]
        if kept:
            corners = np.array([corner for corner, _ in kept], dtype=np.int64)
            cut = tuple(torch.from_numpy(mask).to(device) for _, mask in kept)
            found.append(MaskedImage(sample.name, pixels.contiguous().to(device), corners, cut))
    return found


def _spread(length: int, count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, length - 1, count).round()]


def _within_box(mask: NDArray[np.uint8]) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return (int(columns[0]), int(rows[0])), np.ascontiguousarray(cut)


@dataclass(frozen=True)
class SceneRecipe:
    """How scenes are composed.

    Attributes:
        cells: numbers of cells along the longer side of a scene, and ``cell_shares`` how often each is drawn.
        narrowest: smallest shorter side as a share of the longer one; aspects are drawn down to it.
        smallest_crop: smallest side of a crop as a share of the image's side.
        least_area: instances with fewer visible pixels of the frame become no prompts.
        colour: largest change of brightness, of contrast and of each channel, as a share.
    """

    cells: tuple[int, ...] = (1, 2, 3)
    cell_shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    narrowest: float = 0.55
    smallest_crop: float = 0.55
    least_area: float = 30.0
    colour: float = 0.2


@dataclass(frozen=True)
class Scene:
    """A composed image of a frame with instances.

    Attributes:
        names: of the images in it.
        image: float32 ``[3, frame, frame]`` in 0..255; ``size_hw`` of it is image, the rest zero.
        coverage: float32 ``[K, l, l]``: the share of each cell of the low-res logits that is mask.
        boxes_xyxy: float64 ``[K, 4]``, tight around what is visible, in the frame.
        points_xy: float64 ``[K, P, 2]``, drawn from the visible pixels of each instance, in the frame.
    """

    names: tuple[str, ...]
    image: Tensor
    size_hw: tuple[int, int]
    coverage: Tensor
    boxes_xyxy: NDArray[np.float64]
    points_xy: NDArray[np.float64]


@dataclass(frozen=True)
class _Placement:
    """Where a crop of an image stands in a scene: scene = (source - start) * scale + offset along each axis (x, y)."""

    source: MaskedImage
    flipped: bool
    start: tuple[float, float]
    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]


def compose(
    images: Sequence[MaskedImage],
    recipe: SceneRecipe,
    frame: int,
    low_res: int,
    instances: int,
    points: int,
    rng: np.random.Generator,
) -> Scene:
    """A random scene.

    Args:
        images: at least one, those of one data set.
        frame: side of the model's square input in pixels.
        low_res: side of its low-res logits in cells; divides ``frame``.
        instances: ``K``; where fewer are visible, some come several times.
        points: ``P`` points an instance.

    Raises:
        InputError: of many crops none shows an instance that is large enough.
    """
    for _ in range(100):
        across = int(rng.choice(recipe.cells, p=recipe.cell_shares))
        short = frame * float(rng.uniform(recipe.narrowest, 1.0))
        down = max(1, round(across * short / frame))
        height, width = max(1, round(short)), frame
        columns, rows = _edges(width, across), _edges(height, down)
        if rng.random() < 0.4:
            height, width, columns, rows = width, height, rows, columns
        device = images[0].pixels.device
        image = torch.zeros(3, frame, frame, device=device)
        placements = []
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                source = images[int(rng.integers(len(images)))]
                placed = _place(source, (left, top), (right - left, bottom - top), recipe, rng)
                image[:, top:bottom, left:right] = _drawn(placed, recipe.colour, rng)
                placements.append(placed)
        found = _instances(placements, recipe.least_area, frame, low_res, instances, points, rng)
        if found is not None:
            names = tuple(placed.source.name for placed in placements)
            return Scene(names, image, (height, width), *found)
    raise InputError(
        f"{images[0].name} and others: of 100 scenes none shows an instance of {recipe.least_area:g} pixels; "
        "give data with larger objects"
    )


def _edges(length: int, count: int) -> list[int]:
    return [round(length * i / count) for i in range(count + 1)]


def _place(
    source: MaskedImage, offset: tuple[int, int], size: tuple[int, int], recipe: SceneRecipe, rng: np.random.Generator
) -> _Placement:
    """A random crop of the shape of a cell, its scale along both axes equal up to a tenth."""
    height, width = source.pixels.shape[1:]
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    aspect = size[0] / size[1] * stretch
    # The largest crop of that aspect within the image, and a share of it.
    share = rng.uniform(recipe.smallest_crop, 1.0)
    crop_w = min(width, height * aspect) * share
    crop_h = crop_w / aspect
    start = (rng.uniform(0, width - crop_w), rng.uniform(0, height - crop_h))
    scale = (size[0] / crop_w, size[1] / crop_h)
    return _Placement(source, bool(rng.random() < 0.5), start, scale, offset, size)


def _drawn(placed: _Placement, colour: float, rng: np.random.Generator) -> Tensor:
    """The crop at the size of its cell, float32 ``[3, h, w]`` in 0..255, its colours changed a little."""
    pixels = placed.source.pixels.flip(2) if placed.flipped else placed.source.pixels
    width, height = placed.size
    # Whole pixels of the source around the crop are resized, and the cell is cut out of them.
    first = [int(s) for s in placed.start]
    last = [
        min(limit, math.ceil(s + side / scale))
        for s, side, scale, limit in zip(placed.start, placed.size, placed.scale, pixels.shape[:0:-1], strict=True)
    ]
    cut = pixels[None, :, first[1] : last[1], first[0] : last[0]].float()
    big_w = max(width, round((last[0] - first[0]) * placed.scale[0]))
    big_h = max(height, round((last[1] - first[1]) * placed.scale[1]))
    shrinks = min(placed.scale) < 1
    resized = F.interpolate(cut, (big_h, big_w), mode="bilinear", antialias=shrinks)[0]
    left = min(big_w - width, round((placed.start[0] - first[0]) * placed.scale[0]))
    top = min(big_h - height, round((placed.start[1] - first[1]) * placed.scale[1]))
    cell = resized[:, top : top + height, left : left + width]
    gain = 1 + colour * rng.uniform(-1, 1) + colour / 2 * rng.uniform(-1, 1, 3)
    shift = 128 * colour * rng.uniform(-1, 1)
    gains = torch.tensor(gain, dtype=torch.float32, device=cell.device)[:, None, None]
    return ((cell - 128) * gains + 128 + shift).clamp(0, 255)


@dataclass(frozen=True)
class _Visible:
    """The visible part of an instance: source pixels ``mask`` and the scene coordinates of their borders."""

    mask: Tensor
    x_edges: NDArray[np.float64]
    y_edges: NDArray[np.float64]


def _visible(placed: _Placement, instance: int) -> _Visible | None:
    mask = placed.source.masks[instance]
    corner = placed.source.corners[instance]
    if placed.flipped:
        mask = mask.flip(1)
        corner = np.array([placed.source.pixels.shape[2] - corner[0] - mask.shape[1], corner[1]])
    edges = []
    for axis in (0, 1):
        at = np.arange(mask.shape[1 - axis] + 1) + corner[axis]
        inside = (at - placed.start[axis]) * placed.scale[axis] + placed.offset[axis]
        edges.append(inside.clip(placed.offset[axis], placed.offset[axis] + placed.size[axis]))
    (left, right), (top, bottom) = (_shown(edge) for edge in edges)
    mask = mask[top:bottom, left:right]
    if not mask.numel() or not mask.any():
        return None
    return _Visible(mask, edges[0][left : right + 1], edges[1][top : bottom + 1])


def _shown(edges: NDArray[np.float64]) -> tuple[int, int]:
    """First and last (exclusive) interval between edges that has a length."""
    lengths = np.flatnonzero(np.diff(edges) > 1e-9)
    return (int(lengths[0]), int(lengths[-1]) + 1) if len(lengths) else (0, 0)


def _instances(
    placements: Sequence[_Placement],
    least_area: float,
    frame: int,
    low_res: int,
    count: int,
    points: int,
    rng: np.random.Generator,
) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]] | None:
    candidates = [(placed, i) for placed in placements for i in range(len(placed.source.masks))]
    cell = frame / low_res
    coverages, boxes, drawn = [], [], []
    for index in rng.permutation(len(candidates)):
        visible = _visible(*candidates[index])
        if visible is None:
            continue
        coverage = coverage_of_edges(visible.mask, visible.x_edges, visible.y_edges, cell, low_res)
        if float(coverage.sum()) * cell * cell < least_area:
            continue
        coverages.append(coverage)
        boxes.append(_box(visible))
        drawn.append(_points(visible, points, rng))
        if len(boxes) == count:
            break
    if not boxes:
        return None
    order = np.resize(np.arange(len(boxes)), count)
    stacked = torch.stack(coverages)[torch.from_numpy(order).to(coverages[0].device)]
    return stacked, np.stack(boxes)[order], np.stack(drawn)[order]


def coverage_of_edges(
    mask: Tensor, x_edges: NDArray[np.float64], y_edges: NDArray[np.float64], cell: float, side: int
) -> Tensor:
    """The exact share of each cell of a square grid that a stretched mask covers.

    Args:
        mask: uint8 ``[h, w]`` of 0 and 1.
        x_edges, y_edges: float64 ``[w + 1]`` and ``[h + 1]``, where the borders of its pixels lie, rising.
        cell: side of a cell, in the units of the edges; the grid begins at 0.
        side: cells along each axis.

    Returns:
        float32 ``[side, side]`` in [0, 1].
    """
    across, down = _overlaps(x_edges, cell, side), _overlaps(y_edges, cell, side)
    # [side, h] @ [h, w] @ [w, side]
    across, down = across.to(mask.device), down.to(mask.device)
    return down @ mask.float() @ across.T


def _overlaps(edges: NDArray[np.float64], cell: float, side: int) -> Tensor:
    """``[side, n]``: the share of each cell along an axis that each of ``n`` intervals covers."""
    starts = np.arange(side)[:, None] * cell
    low, high = np.maximum(starts, edges[None, :-1]), np.minimum(starts + cell, edges[None, 1:])
    return torch.from_numpy((np.maximum(high - low, 0.0) / cell).astype(np.float32))


def _box(visible: _Visible) -> NDArray[np.float64]:
    columns = torch.nonzero(visible.mask.any(0)).flatten()
    rows = torch.nonzero(visible.mask.any(1)).flatten()
    left, right, top, bottom = (int(i) for i in (columns[0], columns[-1], rows[0], rows[-1]))
    x, y = visible.x_edges, visible.y_edges
    return np.array([x[left], y[top], x[right + 1], y[bottom + 1]])


def _points(visible: _Visible, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    places = torch.nonzero(visible.mask).cpu().numpy()
    chosen = places[rng.integers(0, len(places), count)]
    x, y = visible.x_edges, visible.y_edges
    inside = rng.random((count, 2))
    rows, columns = chosen[:, 0], chosen[:, 1]
    return np.stack(
        [
            x[columns] + inside[:, 0] * (x[columns + 1] - x[columns]),
            y[rows] + inside[:, 1] * (y[rows + 1] - y[rows]),
        ],
        1,
    )
