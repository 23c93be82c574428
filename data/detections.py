"""Boxes that a detector found, as prompts: a file in COCO's results format, indexed by image."""

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data import kept
from data.content import stamp_of
from data.json_fields import LARGEST, LARGEST_WHOLE, parse_json, require_int, value

ROW = np.dtype([("image_id", "<i8"), ("category_id", "<i8"), ("box_xywh", "<f8", 4), ("score", "<f8")])
"""One entry of the file; a number that is not finite, or beyond any coordinate, is NaN."""

_KEPT_FROM = 1_000_000
"""Bytes; smaller files are read quickly."""
_PACKED = struct.Struct("<qq5d")


def read_detections(path: Path) -> NDArray[np.void]:
    """All entries of a file in its order: ``[N]`` of :data:`ROW`.

    Each entry is ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``; other keys are ignored.

    Raises:
        InputError: the file is missing, not JSON or not a list, or an entry lacks a key or has a wrong type there; the
            message gives the entry's place, counted from 0.
    """
    stamp = stamp_of(path)
    kept_rows = kept.load("detections", path) if stamp is not None and stamp[0] >= _KEPT_FROM else {}
    if kept_rows and tuple(kept_rows["stamp"].tolist()) == stamp:
        return kept_rows["rows"].view(ROW)
    # Entries become bytes as they are read: as objects, the millions of entries of a large file fill the memory.
    content = parse_json(path, _pack)
    if not isinstance(content, list):
        raise InputError(f"{path}: the top level is not a list; give a file in COCO's results format")
    for place, entry in enumerate(content):
        if not isinstance(entry, bytes):
            _refuse(entry, f"{path}: entry {place}")
    rows = np.frombuffer(b"".join(content), dtype=ROW)
    if stamp is not None and stamp[0] >= _KEPT_FROM:
        kept.save("detections", path, {"stamp": np.array(stamp), "rows": rows.view(np.uint8)})
    return rows


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
        require_int(entry, key, where)
    box, score = value(entry, "bbox", where), value(entry, "score", where)
    if not isinstance(box, list) or len(box) != 4 or any(type(number) not in (int, float) for number in box):
        raise InputError(f'{where}: "bbox" is {str(box)[:40]!r}, not 4 numbers [x, y, width, height]; correct the file')
    raise InputError(f'{where}: "score" is {str(score)[:40]!r}, not a number; correct the file')


DETECTION_REASONS = {
    "detection_of_unknown_image": "the data set lacks the image, or left it out",
    "detection_not_finite": "a number of the box or the score is not finite, or beyond any coordinate",
    "detection_empty_box": "the box has no width or no height",
    "detection_outside_image": "no part of the box lies inside the image",
    "detection_below_top": "the image has enough boxes with higher scores",
}
"""What :attr:`Detections.skipped` counts; an entry that several fit counts under the first of them."""

_BELOW_TOP = list(DETECTION_REASONS).index("detection_below_top")
_KEPT = len(DETECTION_REASONS)


@dataclass(frozen=True)
class ImageDetections:
    """The boxes of one image, best first; equal scores stay in the order of the file, as in COCO's own code.

    Attributes:
        boxes_xyxy: float64 ``[N, 4]``, in pixels of the original image, as the detector gave them: not cut to it.
        scores: float64 ``[N]``.
        category_ids: int64 ``[N]``.
        indices: int64 ``[N]``, the entries' places in the file, counted from 0.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    category_ids: NDArray[np.int64]
    indices: NDArray[np.int64]


class Detections:
    """A detector's boxes by image id.

    Entries that :data:`DETECTION_REASONS` leave out are counted; the others are kept as they are, even where one
    repeats another (COCO's own evaluation counts both) or leaves the image in part. A file may hold no entries. Its
    order counts among equal scores alone: the earlier entry ranks first and is the one that ``top`` keeps.

    Args:
        path: JSON file in COCO's results format, a list of ``{"image_id", "category_id", "bbox": [x, y, width, height],
            "score"}`` in any order and of any length; other keys are ignored.
        sizes_hw: size ``(h, w)`` of each image of the data set by its id.
        top: at most so many boxes an image, the best ones, whatever their category; None keeps all.
        category_ids: those that the data set lists; None checks none.

    Raises:
        InputError: ``top`` is below 1, the file is missing or malformed, none of its entries is of these images, or one
            that is names no category of theirs.
    """

    def __init__(
        self,
        path: Path | str,
        sizes_hw: Mapping[int, tuple[int, int]],
        top: int | None = None,
        category_ids: Collection[int] | None = None,
    ) -> None:
        if top is not None and top < 1:
            raise InputError(f"top={top} boxes an image are too few; give at least 1, or none to keep all")
        rows = read_detections(Path(path))
        ids = self._ids = np.array(sorted(sizes_hw), dtype=np.int64)
        if len(rows) and not np.isin(rows["image_id"], ids).any():
            problem = f"none of its {len(rows)} entries is of an image of the data set"
            raise InputError(f"{path}: {problem}; give the detections of the same split")
        if category_ids is not None:
            _require_known(rows, ids, category_ids, path)
        boxes_xyxy = np.concatenate([rows["box_xywh"][:, :2], rows["box_xywh"][:, :2] + rows["box_xywh"][:, 2:]], 1)
        sizes = np.array([sizes_hw[image_id] for image_id in ids.tolist()], dtype=np.float64).reshape(-1, 2)
        reasons = _reasons(rows, boxes_xyxy, ids, sizes)
        kept = np.flatnonzero(reasons == _KEPT)
        # By the last key first; stable, so that equal scores keep the file's order.
        kept = kept[np.lexsort((-rows["score"][kept], rows["image_id"][kept]))]
        if top is not None:
            image_ids = rows["image_id"][kept]
            below = np.arange(len(kept)) - np.searchsorted(image_ids, image_ids) >= top
            reasons[kept[below]] = _BELOW_TOP
            kept = kept[~below]
        counts = np.bincount(reasons, minlength=_KEPT + 1).tolist()
        self._counts = dict(zip(DETECTION_REASONS, counts[:_KEPT], strict=True))
        image_ids = rows["image_id"][kept]
        self._starts, self._ends = np.searchsorted(image_ids, ids), np.searchsorted(image_ids, ids, "right")
        self._all = ImageDetections(boxes_xyxy[kept], rows["score"][kept], rows["category_id"][kept], kept)

    def __len__(self) -> int:
        """How many boxes are kept, of all images together."""
        return len(self._all.scores)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often each of :data:`DETECTION_REASONS` applied."""
        return dict(self._counts)

    def of(self, image_id: int) -> ImageDetections:
        """The boxes of an image; none for an image without detections, or one that is not of the data set."""
        place = int(np.searchsorted(self._ids, image_id))
        found = place < len(self._ids) and self._ids[place] == image_id
        own = slice(self._starts[place], self._ends[place]) if found else slice(0)
        boxes = self._all
        return ImageDetections(boxes.boxes_xyxy[own], boxes.scores[own], boxes.category_ids[own], boxes.indices[own])


def _require_known(
    rows: NDArray[np.void], ids: NDArray[np.int64], category_ids: Collection[int], path: Path | str
) -> None:
    """Refuse a file that numbers categories in another way: all its figures would be wrong."""
    listed = np.array(sorted(category_ids), dtype=np.int64)
    strange = np.flatnonzero(np.isin(rows["image_id"], ids) & ~np.isin(rows["category_id"], listed))
    if len(strange):
        found = f"entry {strange[0]}: category {rows['category_id'][strange[0]]} is not listed by the data set"
        raise InputError(f"{path}: {found}; give detections whose categories are numbered alike")


def _reasons(
    rows: NDArray[np.void], boxes_xyxy: NDArray[np.float64], ids: NDArray[np.int64], sizes_hw: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Which of :data:`DETECTION_REASONS` leaves each entry out, by its place there; ``_KEPT`` where none does."""
    known = np.isin(rows["image_id"], ids)
    limits_wh = np.zeros((len(rows), 2))
    limits_wh[known] = sizes_hw[np.searchsorted(ids, rows["image_id"][known])][:, ::-1]
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    finite = np.isfinite(boxes_xyxy).all(1) & np.isfinite(rows["score"])
    outside = (high <= 0).any(1) | (low >= limits_wh).any(1)
    return np.select([~known, ~finite, (high <= low).any(1), outside], [0, 1, 2, 3], default=_KEPT)
