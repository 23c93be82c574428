"""Which regions of an annotated image become masks: the one rule of every converter.

1. Of a label map, each connected region (4 neighbours) of each label is a mask; an instance of a polygon is one mask.
2. A mask below ``smallest`` pixels, or of more than the share ``largest`` of the image, is left out.
3. A mask whose IoU with one that was kept before it is at least :data:`REPEATED` is left out.

Pixels are those of the converted image.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from scipy.ndimage import find_objects, label

from core.errors import InputError
from data.annotations import encode_rle, rle_area

REPEATED = 0.8
"""IoU from which a mask repeats another, as two annotators draw the same region."""
MOST_LABELS = 10_000


def resized_labels(labels: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """A label map ``[H, W]`` at another size, each pixel with the label at its centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size_hw, labels.shape, strict=True)
    )
    return labels[rows][:, columns]


def connected(labels: NDArray[Any], without: int | None = None) -> Iterator[NDArray[np.bool_]]:
    """The connected regions of a label map ``[H, W]``, label by label: bool ``[H, W]``.

    Args:
        without: a label that is no region.

    Raises:
        InputError: more labels than a label map has; the message begins with a verb.
    """
    values = np.unique(labels)
    if len(values) > MOST_LABELS:
        raise InputError(f"has {len(values)} labels, so it is no label map")
    for value in values:
        if value == without:
            continue
        numbered, _ = label(labels == value)
        for number, window in enumerate(find_objects(numbered), start=1):
            region = np.zeros(labels.shape, dtype=np.bool_)
            region[window] = numbered[window] == number
            yield region


def label_regions(
    path: Path, labels: NDArray[Any], size_hw: tuple[int, int], without: int | None = None
) -> Iterator[NDArray[np.bool_]]:
    """:func:`connected` regions of a label map that is brought to another size.

    Raises:
        InputError: as there; the message names ``path``.
    """
    try:
        yield from connected(resized_labels(labels, size_hw), without)
    except InputError as problem:
        raise InputError(f"{path}: {problem}; fetch the file again") from None


def require_size_of_image(path: Path, image: Path, labels_hw: tuple[int, int], image_hw: tuple[int, int]) -> None:
    """Refuse labels of another size than their image.

    Raises:
        InputError: the sizes ``(h, w)`` differ; the message has both, and both files.
    """
    if labels_hw != image_hw:
        raise InputError(
            f"{path}: these labels are {labels_hw[1]}x{labels_hw[0]} (width x height), but their image {image} is "
            f"{image_hw[1]}x{image_hw[0]}; fetch both from the same release, or resize the image to its labels"
        )


def chosen(masks: Iterator[NDArray[np.bool_]], smallest: int, largest: float) -> list[dict[str, Any]]:
    """The masks that the rules keep, in their order, as compressed RLEs."""
    kept: list[dict[str, Any]] = []
    for mask in masks:
        if smallest <= mask.sum() <= largest * mask.size and not _repeats(rle := encode_rle(mask), kept):
            kept.append(rle)
    return kept


def _repeats(rle: dict[str, Any], kept: Sequence[dict[str, Any]]) -> bool:
    area = rle_area(rle)
    # Areas bound the IoU, and most pairs need no more than that.
    near = [other for other in kept if min(area, rle_area(other)) >= REPEATED * max(area, rle_area(other))]
    return bool(near) and bool(mask_api.iou([rle], near, [0] * len(near)).max() >= REPEATED)
