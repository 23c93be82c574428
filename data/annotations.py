"""One COCO-style segmentation - polygons, compressed RLE or uncompressed RLE - checked, and turned into a mask."""

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from core.errors import InputError
from data.run_lengths import expand_all

MAX_COORDINATE = 1e6
"""Polygon coordinates beyond this are no pixels."""
LONGEST_OUTLINE = 2e6
"""Pixels along a polygon. pycocotools takes 40 bytes for each; no outline of an object comes near."""

_REAL = {int, float}


def check_segmentation(segmentation: object, size_hw: tuple[int, int], where: str) -> None:
    """Check the structure of a segmentation without decoding it.

    Args:
        segmentation: list of polygons (flat ``x, y, x, y, ...``), or an RLE ``{"size": [h, w], "counts": ...}`` with
            counts as str or bytes (compressed) or as a list (uncompressed).
        size_hw: size ``(h, w)`` of the image.
        where: file and annotation id, the beginning of every message.

    Raises:
        InputError: no or an unknown segmentation, a polygon of fewer than 3 points, an odd number of coordinates,
            coordinates that are not finite numbers, an outline that is longer than any object's, an RLE of another
            size or that does not fill its size.
    """
    if isinstance(segmentation, tuple):
        # By pack_polygons.
        return
    if isinstance(segmentation, list):
        if not segmentation:
            _refuse(where, "segmentation without polygons")
        for polygon in segmentation:
            _check_polygon(polygon, where)
    elif isinstance(segmentation, dict):
        _check_rle(segmentation, size_hw, where)
    else:
        _refuse(where, f"segmentation of type {type(segmentation).__name__} (polygons or an RLE are known)")


def pack_segmentation(segmentation: object) -> object:
    """A checked segmentation as it is kept: polygons as a tuple of float64 arrays, an RLE as it is.

    A list of Python's floats takes four times the memory, which large annotation files fill with them.
    """
    if isinstance(segmentation, list):
        return tuple(np.array(polygon, dtype=np.float64) for polygon in segmentation)
    return segmentation


def pack_polygons(raw: dict[str, Any]) -> dict[str, Any]:
    """An annotation as JSON gave it, whose polygons, if nothing is wrong with them, become what
    :func:`pack_segmentation` makes of them; such are not checked again. Any other object stays as it is."""
    segmentation = raw.get("segmentation")
    if type(segmentation) is list and segmentation:
        packed = []
        for polygon in segmentation:
            plain = type(polygon) is list and len(polygon) >= 6 and not len(polygon) % 2
            if not plain or not set(map(type, polygon)) <= _REAL:
                return raw
            try:
                coordinates = np.array(polygon, dtype=np.float64)
            except OverflowError:
                return raw
            # No outline can be longer, and no coordinate larger; written so that NaN fails too.
            if not float(np.abs(coordinates).max()) * len(polygon) <= LONGEST_OUTLINE:
                return raw
            packed.append(coordinates)
        raw["segmentation"] = tuple(packed)
    return raw


def to_rle(segmentation: object, size_hw: tuple[int, int], where: str) -> dict[str, Any]:
    """Any form as compressed RLE ``{"size": [h, w], "counts": bytes}``; the parts of an object are united.

    What :func:`pack_segmentation` made of polygons is taken too, and is not checked again.

    Raises:
        InputError: as :func:`check_segmentation`.
    """
    rle: dict[str, Any]
    if isinstance(segmentation, tuple):
        rle = mask_api.merge(mask_api.frPyObjects(list(segmentation), *size_hw))
        return rle
    check_segmentation(segmentation, size_hw, where)
    if isinstance(segmentation, list):
        rle = mask_api.merge(mask_api.frPyObjects(segmentation, *size_hw))
        return rle
    assert isinstance(segmentation, dict)
    counts = segmentation["counts"]
    if isinstance(counts, list):
        rle = mask_api.frPyObjects({"size": list(size_hw), "counts": counts}, *size_hw)
        return rle
    return {"size": list(size_hw), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask bool ``[H, W]`` as a compressed RLE with counts as bytes."""
    rle: dict[str, Any] = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle


def rle_as_text(rle: dict[str, Any]) -> dict[str, Any]:
    """A compressed RLE with counts as text, as JSON takes it."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of an RLE that :func:`to_rle` returned: bool ``[H, W]``."""
    return np.asarray(mask_api.decode(rle), dtype=np.bool_)


def rle_area(rle: dict[str, Any]) -> int:
    """How many pixels an RLE that :func:`to_rle` returned covers, without decoding it."""
    return int(mask_api.area(rle))


def rle_boxes(rles: list[dict[str, Any]]) -> NDArray[np.float64]:
    """The boxes of RLEs that :func:`to_rle` returned, not decoding them: xyxy float64 ``[N, 4]``, 0 of empty ones."""
    boxes: NDArray[np.float64] = np.asarray(mask_api.toBbox(rles), dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def decode_segmentation(segmentation: object, size_hw: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask of a segmentation: bool ``[H, W]`` at the stored size of the image.

    Raises:
        InputError: as :func:`check_segmentation`.
    """
    return decode_rle(to_rle(segmentation, size_hw, where))


def expand_counts(compressed: bytes) -> NDArray[np.int64] | None:
    """The run lengths ``[R]`` that a compressed RLE string stands for; None if it is malformed."""
    counts, _, well_formed = expand_all([compressed])
    return counts if well_formed[0] else None


def _refuse(where: str, problem: str) -> NoReturn:
    raise InputError(f"{where}: {problem}; correct the annotation or remove it")


def _check_polygon(polygon: object, where: str) -> None:
    try:
        coordinates = np.asarray(polygon)
    except ValueError:
        _refuse(where, "polygon that is no flat list x, y, x, y, ...")
    if not isinstance(polygon, list) or coordinates.ndim != 1:
        _refuse(where, "polygon that is no flat list x, y, x, y, ...")
    if len(polygon) > 0 and coordinates.dtype.kind not in "iuf":
        _refuse(where, "polygon with coordinates that are not numbers")
    if len(polygon) % 2:
        _refuse(where, f"polygon with an odd number of coordinates ({len(polygon)})")
    if len(polygon) < 6:
        _refuse(where, f"polygon with {len(polygon) // 2} points where at least 3 are needed")
    # Written so that NaN fails too.
    if not np.abs(coordinates).max() <= MAX_COORDINATE:
        _refuse(where, "polygon with coordinates that are infinite, not a number or beyond any image")
    points = coordinates.reshape(-1, 2).astype(np.float64)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    if outline > LONGEST_OUTLINE:
        _refuse(where, f"polygon of {len(points)} points whose outline is {outline:.0f} pixels long")


def _check_rle(rle: dict[str, Any], size_hw: tuple[int, int], where: str) -> None:
    for key in ("size", "counts"):
        if key not in rle:
            _refuse(where, f'RLE without "{key}"')
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or list(size) != list(size_hw):
        _refuse(where, f"RLE of size {str(size)[:40]} on an image of size {list(size_hw)} (height, width)")
    if isinstance(counts, str | bytes):
        # JSON may hold halves of surrogate pairs, which are no letters of a count either.
        runs = expand_counts(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
        if runs is None:
            _refuse(where, "RLE with a malformed counts string")
    elif isinstance(counts, list):
        runs = np.asarray(counts) if all(type(count) is int for count in counts) else np.array([-1])
    else:
        _refuse(where, f"RLE with counts of type {type(counts).__name__} (a string or a list is known)")
    if len(runs) and (runs.dtype.kind not in "iu" or runs.min() < 0):
        _refuse(where, "RLE with counts that are not whole numbers of at least 0")
    total = sum(runs.tolist())
    if total != size_hw[0] * size_hw[1]:
        _refuse(where, f"RLE whose counts add up to {total} of {size_hw[0] * size_hw[1]} pixels")
