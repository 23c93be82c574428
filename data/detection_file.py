"""A detector's boxes as COCO's results format has them, read into one table of numbers."""

import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.json_fields import LARGEST, LARGEST_WHOLE, parse_json, value, whole

ROW = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), ("box_xywh", "<f8", 4), ("score", "<f8")])
"""One entry of the file; a number that is not finite, or beyond any coordinate, is NaN."""

_PACKED = struct.Struct("<qq5d")


def read_detections(path: Path) -> NDArray[np.void]:
    """All entries of a file in its order: ``[N]`` of :data:`ROW`.

    Each entry is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; other keys are ignored.

    Raises:
        InputError: the file is missing, not JSON or not a list, or an entry lacks a key or has a wrong type there; the
            message gives the entry's place, counted from 0.
    """
    # Entries become bytes as they are read: as objects, the millions of entries of a large file fill the memory.
    content = parse_json(path, _pack)
    if not isinstance(content, list):
        raise InputError(f"{path}: the top level is not a list; give a file in COCO's results format")
    for place, entry in enumerate(content):
        if not isinstance(entry, bytes):
            _refuse(entry, f"{path}: entry {place}")
    return np.frombuffer(b"".join(content), dtype=ROW)


def _pack(raw: dict[str, Any]) -> bytes | dict[str, Any]:
    """An entry as the bytes of a :data:`ROW`; any other object, or an entry with a flaw, as it is."""
    image_id, category_id, box, score = (raw.get(key) for key in ("image_id", "category_id", "bbox", "score"))
    if type(image_id) is not int or type(category_id) is not int or not isinstance(box, list) or len(box) != 4:
        return raw
    numbers = (*box, score)
    if (
        any(type(number) not in (int, float) for number in numbers)
        or max(abs(image_id), abs(category_id)) > LARGEST_WHOLE
    ):
        return raw
    # Written so that NaN fails too, and so that an int too long for a float does not overflow.
    return _PACKED.pack(image_id, category_id, *(n if abs(n) <= LARGEST else float("nan") for n in numbers))


def _refuse(entry: object, where: str) -> NoReturn:
    """Say what is wrong with an entry that could not be packed."""
    for key in ("image_id", "category_id"):
        whole(entry, key, where)
    box, score = value(entry, "bbox", where), value(entry, "score", where)
    if not isinstance(box, list) or len(box) != 4 or any(type(number) not in (int, float) for number in box):
        raise InputError(f'{where}: "bbox" is {str(box)[:40]!r}, not 4 numbers [x, y, width, height]; correct the file')
    raise InputError(f'{where}: "score" is {str(score)[:40]!r}, not a number; correct the file')
