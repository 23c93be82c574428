"""The instances of an annotation file as a few arrays: a tenth of the memory of as many objects, and quickly kept."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from data.instances import Instance


@dataclass(frozen=True)
class InstanceTable:
    """Instances in the order of their images' ids, and of the file within an image.

    Attributes:
        image_ids, ids: int64 ``[N]``.
        categories: int64 ``[N]``, or ``[0]`` where annotations name none.
        boxes_xyxy, areas: float64 ``[N, 4]`` and ``[N]``.
        points_xy: float64 ``[N, 2]``; NaN where an annotation names none.
        coordinates: of all polygons, one after the other: float64 pixels, or int32 hundredths where that is exact.
        polygons: where each polygon's begin, and the last end, int64 ``[P + 1]``.
        firsts: where each instance's polygons begin, int64 ``[N + 1]``; one that has none has run lengths.
        run_lengths: those, a JSON list in their order, as bytes.
    """

    image_ids: NDArray[np.int64]
    ids: NDArray[np.int64]
    categories: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]
    points_xy: NDArray[np.float64]
    coordinates: NDArray[Any]
    polygons: NDArray[np.int64]
    firsts: NDArray[np.int64]
    run_lengths: NDArray[np.uint8]

    def __post_init__(self) -> None:
        # What is read once and again; those without polygons are counted through.
        object.__setattr__(self, "_rles", json.loads(self.run_lengths.tobytes() or b"[]"))
        object.__setattr__(self, "_before", np.cumsum(self.firsts[1:] == self.firsts[:-1]))

    def of(self, image_id: int) -> "Instances":
        """The instances of an image; none of one that has none."""
        return Instances(self, *(int(np.searchsorted(self.image_ids, image_id, side)) for side in ("left", "right")))

    def instance(self, place: int) -> Instance:
        """One of them, as :meth:`data.instances.Rules.admit` gave it."""
        first, last = self.firsts[place : place + 2].tolist()
        segmentation: object
        if first == last:
            segmentation = self._rles[int(self._before[place]) - 1]  # type: ignore[attr-defined]
        else:
            parts = zip(self.polygons[first:last].tolist(), self.polygons[first + 1 : last + 1].tolist(), strict=True)
            scale = 100.0 if self.coordinates.dtype == np.int32 else 1.0
            segmentation = tuple(self.coordinates[begin:end] / scale for begin, end in parts)
        x, y = self.points_xy[place].tolist()
        left, top, right, bottom = self.boxes_xyxy[place].tolist()
        return Instance(
            annotation_id=int(self.ids[place]),
            category_id=int(self.categories[place]) if len(self.categories) else None,
            box_xyxy=(left, top, right, bottom),
            area=float(self.areas[place]),
            segmentation=segmentation,
            point_xy=None if x != x else (x, y),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, by name: the arguments of another one."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


@dataclass(frozen=True)
class Instances(Sequence[Instance]):
    """Consecutive instances of a table, made when they are looked at."""

    table: InstanceTable
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @overload
    def __getitem__(self, place: int) -> Instance: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Instance]: ...
    def __getitem__(self, place: int | slice) -> Instance | Sequence[Instance]:
        found = range(self.first, self.last)[place]
        return self.table.instance(found) if isinstance(found, int) else [self.table.instance(one) for one in found]

    def __iter__(self) -> Iterator[Instance]:
        return map(self.table.instance, range(self.first, self.last))


def instance_table(instances: Sequence[Instance], image_ids: Sequence[int]) -> InstanceTable:
    """Instances in the order of the file, and the image of each."""
    owners = np.array(image_ids, dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    ordered = [instances[place] for place in order.tolist()]
    packed = [one.segmentation if isinstance(one.segmentation, tuple) else () for one in ordered]
    polygons = [polygon for parts in packed for polygon in parts]
    coordinates = np.concatenate([np.zeros(0), *polygons])
    if np.abs(coordinates).max(initial=0) < 2**24:
        hundredths = np.rint(coordinates * 100).astype(np.int32)
        # Also of -0.0, whose sign would be lost.
        if np.array_equal((hundredths / 100.0).view(np.int64), coordinates.view(np.int64)):
            coordinates = hundredths
    rles = [one.segmentation for one in ordered if not isinstance(one.segmentation, tuple)]
    nowhere = (np.nan, np.nan)
    return InstanceTable(
        image_ids=owners[order],
        ids=np.array([one.annotation_id for one in ordered], dtype=np.int64),
        categories=np.array([one.category_id for one in ordered if one.category_id is not None], dtype=np.int64),
        boxes_xyxy=np.array([one.box_xyxy for one in ordered], dtype=np.float64).reshape(-1, 4),
        areas=np.array([one.area for one in ordered], dtype=np.float64),
        points_xy=np.array([one.point_xy or nowhere for one in ordered], dtype=np.float64).reshape(-1, 2),
        coordinates=coordinates,
        polygons=np.cumsum([0, *map(len, polygons)], dtype=np.int64),
        firsts=np.cumsum([0, *map(len, packed)], dtype=np.int64),
        run_lengths=np.frombuffer(json.dumps(rles).encode(), dtype=np.uint8),
    )
