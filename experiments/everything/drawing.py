"""An image under all its masks, as Segment Anything's are known: translucent colours with thin outlines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

from data.annotations import decode_segmentation
from experiments.everything.files import SHOWS
from experiments.reporting.mask_images import COLOURS, save, scaled

LARGEST, SMALLEST = 1024, 512
"""Longer side of a drawing in pixels; an image beyond these is scaled before."""
NARROWEST = 300
"""Width of a drawing with its title in pixels, at least."""
TITLE = 30
"""Height of the title in pixels."""
OPACITY = 0.5
REACH = 4
"""Masks within so many pixels of each other get different colours."""
_WHITE = 255.0
# Each of the seven as it is, then lighter, then darker.
_PALETTE = np.concatenate([COLOURS, 0.5 * COLOURS + 0.5 * _WHITE, 0.6 * COLOURS])


def draw_everything(
    path: Path, image: NDArray[np.uint8], records: Sequence[Mapping[str, Any]], shows: str = ""
) -> None:
    """Draw all masks of an image ``[H, W, 3]`` over it, the largest first, under a line that says how many.

    Args:
        records: of :class:`evaluation.everything.Everything`, their segmentations COCO's run lengths.
        shows: what the drawing is of, kept in the file for :func:`experiments.everything.files.drawing_of`.

    Raises:
        OSError: the file cannot be written.
    """
    shown = painted(image, records, drawn_size((image.shape[0], image.shape[1])))
    height, width = shown.shape[:2]
    whole_hw = height + TITLE, max(width, NARROWEST)
    dpi = 100
    figure = Figure(figsize=(whole_hw[1] / dpi, whole_hw[0] / dpi), dpi=dpi)
    # One pixel of the file a pixel of the image.
    figure.figimage(shown, (whole_hw[1] - width) // 2, 0, origin="upper")
    title = f"{len(records):,} mask{'' if len(records) == 1 else 's'}"
    figure.text(0.5, 1 - TITLE / 2 / whole_hw[0], title, ha="center", va="center", fontsize=11)
    save(figure, path, **{SHOWS: shows})


def drawn_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Size ``(h, w)`` of what is drawn of an image, its longer side between :data:`SMALLEST` and :data:`LARGEST`."""
    longer = max(size_hw)
    scale = min(max(longer, SMALLEST), LARGEST) / longer
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def painted(
    image: NDArray[np.uint8], records: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """An image scaled to a size, its masks over it: uint8 ``[h, w, 3]``.

    Where masks overlap the smallest is seen.

    Raises:
        InputError: a segmentation is damaged or of another image's size.
    """
    base = scaled(image, size_hw).astype(np.float64)
    shown = base.copy()
    # The colour of the topmost mask of each pixel, -1 for none.
    colours = np.full(size_hw, -1)
    for number, record in enumerate(sorted(records, key=lambda record: -record["area"])):
        segmentation = decode_segmentation(record["segmentation"], (image.shape[0], image.shape[1]), f"mask {number}")
        binary = segmentation.astype(np.uint8) * 255
        mask = scaled(binary, size_hw) > 127
        if not mask.any():
            continue
        window = _window(mask)
        inside = mask[window]
        colour = _free_colour(number, colours[window][binary_dilation(inside, iterations=REACH)])
        colours[window][inside] = colour
        tint = _PALETTE[colour]
        shown[window][inside] = (1 - OPACITY) * base[window][inside] + OPACITY * tint
        # The image's own edge is no outline.
        border = inside & ~binary_erosion(inside, border_value=1)
        shown[window][border] = 0.45 * tint + 0.55 * _WHITE
    return shown.round().clip(0, 255).astype(np.uint8)


def _free_colour(number: int, near: NDArray[np.int64]) -> int:
    """The first colour that is not near, beginning at another one of the seven for each mask."""
    taken = set(np.unique(near).tolist())
    order = [7 * tone + (number + hue) % 7 for tone in range(3) for hue in range(7)]
    return next((colour for colour in order if colour not in taken), order[0])


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and columns of a mask and :data:`REACH` around them."""
    spans = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, span[0] - REACH - 1), span[-1] + REACH + 2) for span in spans)
    return rows, columns
