"""What the JSON files of SA-1B say of their images, found once and kept: how many instances, and what the rules do."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.progress import counted
from data import kept
from data.content import SAVE_EVERY_S, Stamp, stamp_of
from data.instances import RULES_VERSION
from data.parallel import in_processes, in_threads
from data.sa1b_annotations import has_sides, plain_file, plain_masks
from data.tar_members import File, TarMember

ROW = np.dtype(
    [("number", "<i8"), ("stamp", "<i8", 5), ("count", "<i4"), ("height", "<i4"), ("width", "<i4"), ("clipped", "<i4")]
)
"""Of a file: the number, what it is known by, and of a plain one (:class:`data.sa1b_annotations.PlainFile`) instances,
listed size and cut boxes. The count of any other file is -1: the rules must look at it each time."""
_KIND = f"sa1b labels {RULES_VERSION}"
_TOGETHER = 32
_PARALLEL_FROM = 512


@dataclass(frozen=True)
class LabelIndex:
    """What is known of the JSON files of chosen images.

    Attributes:
        rows: of :data:`ROW`, in the requested order.
        ids: the annotation ids of the plain ones, one file after the other.
    """

    rows: NDArray[np.void]
    ids: NDArray[np.int64]


def label_index(sources: Mapping[int, File]) -> LabelIndex:
    """Look at files, or at what was kept of them where they are the same as then.

    Args:
        sources: by number.
    """
    numbers = np.fromiter(sources, np.int64, len(sources))
    rows = np.zeros(len(numbers), ROW)
    rows["number"] = numbers
    rows["stamp"] = _stamps(list(sources.values()))
    by_shard: dict[Path, list[int]] = defaultdict(list)
    for place, source in enumerate(sources.values()):
        by_shard[source.parent].append(place)
    ids: dict[int, NDArray[np.int64]] = {}
    new: list[int] = []
    earlier: dict[Path, tuple[NDArray[np.void], NDArray[np.int64]]] = {}
    for shard, places in by_shard.items():
        earlier[shard] = _kept(shard)
        new += _take(rows, np.array(places), ids, *earlier[shard])
    files = list(sources.values())
    saved, done_since = time.monotonic(), 0
    try:
        with counted("reading the annotations of sa1b, once", len(new), shown=len(new) > _PARALLEL_FROM) as done:
            for count, (place, found) in enumerate(zip(new, _described([files[p] for p in new]), strict=True), 1):
                for name, value in zip(("count", "height", "width", "clipped"), found[0], strict=True):
                    rows[name][place] = value
                ids[place] = found[1]
                done(count)
                done_since = count
                if time.monotonic() - saved > SAVE_EVERY_S:
                    _keep(rows, ids, by_shard, set(new[:count]), earlier)
                    saved = time.monotonic()
    finally:
        # Also of a reading that is stopped by Ctrl-C.
        _keep(rows, ids, by_shard, set(new[:done_since]), earlier)
    return LabelIndex(rows, np.concatenate([np.zeros(0, np.int64), *(ids[p] for p in sorted(ids))]))


def _stamps(sources: Sequence[File]) -> NDArray[np.int64]:
    """What files are known by, ``[N, 5]``: size and times; of members those of the archive, offset and size."""
    archives = {source.archive for source in sources if isinstance(source, TarMember)}
    of_archives: dict[Path, Stamp | None] = {archive: stamp_of(archive) for archive in archives}
    loose = [source for source in sources if not isinstance(source, TarMember)]
    of_files = iter(in_threads(stamp_of, loose))
    missing = (-1, -1, -1)
    stamps = [
        (*(of_archives[source.archive] or missing), source.offset, source.size)
        if isinstance(source, TarMember)
        else (*(next(of_files) or missing), 0, 0)
        for source in sources
    ]
    return np.array(stamps, dtype=np.int64).reshape(-1, 5)


def _take(
    rows: NDArray[np.void],
    places: NDArray[np.intp],
    ids: dict[int, NDArray[np.int64]],
    kept_rows: NDArray[np.void],
    kept_ids: NDArray[np.int64],
) -> list[int]:
    """Fill in what was kept of a shard; returns the places of the files that are new or have changed."""
    if not len(kept_rows):
        return places.tolist()
    found = np.minimum(np.searchsorted(kept_rows["number"], rows["number"][places]), len(kept_rows) - 1)
    same = kept_rows["number"][found] == rows["number"][places]
    same &= (kept_rows["stamp"][found] == rows["stamp"][places]).all(1)
    rows[places[same]] = kept_rows[found[same]]
    ends = np.cumsum(np.maximum(kept_rows["count"], 0))
    begins = ends - np.maximum(kept_rows["count"], 0)
    for place, at in zip(places[same].tolist(), found[same].tolist(), strict=True):
        ids[place] = kept_ids[begins[at] : ends[at]]
    return places[~same].tolist()


def _kept(shard: Path) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    arrays = kept.load(_KIND, shard)
    rows, ids = arrays.get("rows"), arrays.get("ids")
    if rows is None or ids is None or rows.dtype != ROW or np.maximum(rows["count"], 0).sum() != len(ids):
        return np.zeros(0, ROW), np.zeros(0, np.int64)
    return rows, ids


def _keep(
    rows: NDArray[np.void],
    ids: Mapping[int, NDArray[np.int64]],
    by_shard: Mapping[Path, Sequence[int]],
    new: set[int],
    earlier: Mapping[Path, tuple[NDArray[np.void], NDArray[np.int64]]],
) -> None:
    """Keep what is known of the shards that had something new, what others read of them before included."""
    for shard, places in by_shard.items():
        known = [place for place in places if place in ids]
        if not new.intersection(known):
            continue
        old_rows, old_ids = earlier[shard]
        others = ~np.isin(old_rows["number"], rows["number"][known])
        ends = np.cumsum(np.maximum(old_rows["count"], 0))
        parts = [
            old_ids[end - max(row["count"], 0) : end] for row, end in zip(old_rows[others], ends[others], strict=True)
        ]
        merged = np.concatenate([rows[known], old_rows[others]])
        parts = [*(ids[place] for place in known), *parts]
        order = np.argsort(merged["number"], kind="stable")
        joined = np.concatenate([np.zeros(0, np.int64), *(parts[at] for at in order.tolist())])
        kept.save(_KIND, shard, {"rows": merged[order], "ids": joined})


Described = tuple[tuple[int, int, int, int], NDArray[np.int64]]
_OTHER: Described = ((-1, 0, 0, 0), np.zeros(0, np.int64))


def _described(files: Sequence[File]) -> Iterator[Described]:
    """Count, listed size and cut boxes of each file, and its ids; in several processes where there are many."""
    together = _TOGETHER if len(files) >= _PARALLEL_FROM else max(1, len(files))
    return in_processes(_describe, files, together)


def _describe(files: Sequence[File]) -> list[Described]:
    plain = [plain_file(file) for file in files]
    known = [file for file in plain if file is not None]
    # So few together that memory freed is used again.
    masks = [found for start in range(0, len(known), 4) for found in plain_masks(known[start : start + 4])]
    sound = iter([m is not None and has_sides(file, m) for file, m in zip(known, masks, strict=True)])
    return [
        _OTHER if file is None or not next(sound) else ((len(file.ids), *file.size_hw, file.clipped), file.ids)
        for file in plain
    ]
