"""Two models' records of the same instances, pair by pair: the difference, its interval, and who wins where."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import InputError
from evaluation.metrics import SIZE_CLASSES, resampled_interval, size_classes
from evaluation.records import InstanceRecord

ALL = "all"
"""The group of every pair, beside those of the size classes."""


@dataclass(frozen=True)
class InstancePair:
    """One instance, answered by both models."""

    first: InstanceRecord
    second: InstanceRecord

    @property
    def difference(self) -> float:
        """IoU of the second less that of the first."""
        return self.second.iou - self.first.iou


@dataclass(frozen=True)
class PairedFigures:
    """What a group of pairs says.

    Attributes:
        instances, images: how many pairs, and images that hold them.
        first, second: mIoU over instances.
        difference: mean of second less first.
        low, high: its 95 % bootstrap interval over images; None where all pairs lie in one image.
        wins, ties, losses: how often the second is better than, exactly as good as, worse than the first.
    """

    instances: int
    images: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    """Two models under one protocol.

    Attributes:
        pairs: every instance that both answered, in the first one's order.
        only_first, only_second: how many instances have no counterpart.
        figures: of :data:`ALL` pairs and of each size class that occurs; empty without pairs.
    """

    pairs: tuple[InstancePair, ...]
    only_first: int
    only_second: int
    figures: dict[str, PairedFigures]

    def worst(self, count: int) -> list[InstancePair]:
        """The largest losses of the second model, the largest first; fewer than ``count`` if it loses less often."""
        return self._ranked(count, sign=1)

    def best(self, count: int) -> list[InstancePair]:
        """The same with its largest gains."""
        return self._ranked(count, sign=-1)

    def _ranked(self, count: int, sign: int) -> list[InstancePair]:
        chosen = [pair for pair in self.pairs if sign * pair.difference < 0]
        return sorted(chosen, key=lambda pair: (sign * pair.difference, *_place(pair.first)))[:count]


def compare_records(
    first: Sequence[InstanceRecord],
    second: Sequence[InstanceRecord],
    bounds: str = "half_open",
    seed: int = 0,
    draws: int = 1000,
    average: str = "instances",
) -> Comparison:
    """Pair two models' records of one protocol by image and annotation.

    Args:
        bounds, average: as of :func:`evaluation.metrics.mean_iou`.
        seed, draws: of the bootstrap.

    Raises:
        InputError: an instance occurs twice on one side, or has another area on each: other annotations were scored.
    """
    ours, theirs = _by_place(first, "first"), _by_place(second, "second")
    pairs = tuple(InstancePair(record, theirs[place]) for place, record in ours.items() if place in theirs)
    for pair in pairs:
        if pair.first.area != pair.second.area:
            image, annotation = _place(pair.first)
            areas = f"{pair.first.area:g} pixels in the first and {pair.second.area:g} in the second"
            raise InputError(
                f"annotation {annotation} of image {image} has {areas}; compare evaluations of the same annotations"
            )
    groups = {ALL: list(pairs)}
    groups |= {name: [p for p in pairs if name in size_classes(p.first.area, bounds)] for name in SIZE_CLASSES}
    figures = {name: _figures(group, seed, draws, average) for name, group in groups.items() if group}
    return Comparison(pairs, len(ours) - len(pairs), len(theirs) - len(pairs), figures)


def _place(record: InstanceRecord) -> tuple[int, int]:
    return record.image_id, record.annotation_id


def _by_place(records: Iterable[InstanceRecord], side: str) -> dict[tuple[int, int], InstanceRecord]:
    found: dict[tuple[int, int], InstanceRecord] = {}
    for record in records:
        if _place(record) in found:
            image, annotation = _place(record)
            raise InputError(f"annotation {annotation} of image {image} occurs twice in the {side}; evaluate it again")
        found[_place(record)] = record
    return found


def _figures(pairs: Sequence[InstancePair], seed: int, draws: int, average: str) -> PairedFigures:
    differences = np.array([pair.difference for pair in pairs])
    images, places = np.unique([pair.first.image_id for pair in pairs], return_inverse=True)
    weights = 1 / np.bincount(places)[places] if average == "images" else np.ones(len(pairs))
    sums, counts = (np.bincount(places, values).astype(np.float64) for values in (differences * weights, weights))
    low, high = resampled_interval(sums, counts, seed, draws)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedFigures(
        instances=len(pairs),
        images=len(images),
        first=float(np.average([pair.first.iou for pair in pairs], weights=weights)),
        second=float(np.average([pair.second.iou for pair in pairs], weights=weights)),
        difference=float(np.average(differences, weights=weights)),
        low=low,
        high=high,
        wins=wins,
        ties=len(pairs) - wins - losses,
        losses=losses,
    )
