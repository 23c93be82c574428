"""Masks as COCO's run lengths, a batch at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from data.annotations import decode_rle, expand_counts, rle_as_text


def encode_windows(
    masks: NDArray[np.bool_], top: NDArray[np.int64], left: NDArray[np.int64], size_hw: tuple[int, int]
) -> list[dict[str, Any]]:
    """Masks that are known in a window each, and empty outside, as compressed RLEs of the whole picture.

    Args:
        masks: bool ``[K, h, w]``.
        top, left: ``[K]``, the picture's pixel where each window begins.
        size_hw: of the picture.

    Returns:
        ``K`` dicts ``{"size": [H, W], "counts": bytes}``.
    """
    height, pixels = size_hw[0], size_hw[0] * size_hw[1]
    count, _, width = masks.shape
    # [K, w, h + 2]: run lengths go down the columns; what is around each column is empty
    columns = np.pad(masks.transpose(0, 2, 1), ((0, 0), (0, 0), (1, 1)))
    k, x, y = np.nonzero(columns[:, :, 1:] != columns[:, :, :-1])
    # Where a run of ones or of zeros begins, counted down the columns of the picture.
    at = (x + left[k]) * height + y + top[k]
    # A run that reaches the picture's last row and goes on in the next column's first neither ends nor begins there.
    twice = np.flatnonzero((at[1:] == at[:-1]) & (k[1:] == k[:-1]))
    # Nor does one begin after the last pixel.
    nowhere = np.concatenate([twice, twice + 1, np.flatnonzero(at == pixels)])
    at, k = np.delete(at, nowhere), np.delete(k, nowhere)
    runs = [
        {"size": list(size_hw), "counts": np.diff(begins, prepend=0, append=pixels)}
        for begins in np.split(at, np.searchsorted(k, np.arange(1, count)))
    ]
    rles: list[dict[str, Any]] = mask_api.frPyObjects(runs, *size_hw)
    return rles


def in_form(rle: dict[str, Any], output: str) -> dict[str, Any] | NDArray[np.bool_]:
    """A compressed RLE in the form that :class:`EverythingSettings` calls ``output``."""
    if output == "binary_mask":
        return decode_rle(rle)
    if output == "coco_rle":
        return rle_as_text(rle)
    counts = expand_counts(rle["counts"])
    assert counts is not None, "pycocotools wrote it"
    return {"size": list(rle["size"]), "counts": counts.tolist()}
