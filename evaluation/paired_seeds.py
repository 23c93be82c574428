"""Two methods trained with the same seeds and scored on the same instances: their difference and its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import grouped_sums
from evaluation.records import InstanceRecord

LEVEL = 0.95
DIGITS = 6
"""Of the mean IoUs that a file keeps of each image."""


@dataclass(frozen=True)
class ImageScores:
    """One model's mean IoU image by image: enough for any bootstrap over images.

    Attributes:
        images: the data set's ids, ascending.
        instances: of each image, as many as were scored.
        iou: mean over these, by column: ``miou`` (boxes) and ``miou_point``.
    """

    images: tuple[int, ...]
    instances: tuple[int, ...]
    iou: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, records: Mapping[str, Sequence[InstanceRecord]]) -> Self:
        """The scores of records by column, all of the same instances."""
        means: dict[str, tuple[float, ...]] = {}
        images, counts = np.zeros(0, np.int64), np.zeros(0)
        for column, of_column in records.items():
            images, sums, counts = grouped_sums(of_column, [record.image_id for record in of_column])
            means[column] = tuple(round(float(mean), DIGITS) for mean in sums / counts)
        return cls(tuple(map(int, images)), tuple(map(int, counts)), means)

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists, as a result file keeps them."""
        return {"image": list(self.images), "instances": list(self.instances)} | {
            k: list(v) for k, v in self.iou.items()
        }

    @classmethod
    def from_dict(cls, raw: object) -> Self | None:
        """What :meth:`to_dict` gave; None for anything else, such as a file of an earlier version."""
        if not isinstance(raw, Mapping) or not all(isinstance(values, list) for values in raw.values()):
            return None
        columns = {key: tuple(values) for key, values in raw.items()}
        images, instances = columns.pop("image", ()), columns.pop("instances", ())
        sound = images and {len(values) for values in (instances, *columns.values())} == {len(images)}
        return cls(images, instances, columns) if sound else None


@dataclass(frozen=True)
class SeedDifference:
    """Mean difference of two methods over paired seeds, first less second, in the unit of the scores.

    Attributes:
        low, high: its 95 % interval.
        over_images: whether the interval counts the choice of images too, or that of seeds alone.
    """

    difference: float
    low: float
    high: float
    over_images: bool

    @property
    def verdict(self) -> str:
        """``holds`` where the interval is above 0, ``reversed`` where it is below, else ``undecided``."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "undecided"


def seed_difference(first: Sequence[float], second: Sequence[float]) -> SeedDifference:
    """By Student's t over the differences of paired seeds, for scores that are known as means alone.

    Args:
        first, second: a mean a seed, in the same order of seeds; at least two.
    """
    # Here, because scipy.stats takes a second to import.
    from scipy.stats import t

    differences = np.array(first) - np.array(second)
    count, mean = len(differences), float(differences.mean())
    half = float(t.ppf(0.5 + LEVEL / 2, count - 1)) * float(differences.std(ddof=1)) / count**0.5
    return SeedDifference(mean, mean - half, mean + half, over_images=False)


def hierarchical_difference(
    first: Sequence[ImageScores], second: Sequence[ImageScores], column: str, seed: int = 0, draws: int = 2000
) -> SeedDifference:
    """By a bootstrap that draws seeds, and images, again with repetition; one draw of images serves all its seeds.

    Args:
        first, second: in the same order of seeds, all of the same images and instances.
        column: which of their scores.
    """
    counts = np.array(first[0].instances, dtype=np.float64)
    # [seeds, images]
    gains = np.array([one.iou[column] for one in first]) - np.array([other.iou[column] for other in second])
    seeds, images = gains.shape
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        of_seeds: NDArray[np.int64] = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds)
        weights = np.bincount(rng.integers(0, images, images), minlength=images) * counts
        means.append(of_seeds @ gains @ weights / (seeds * weights.sum()))
    low, high = np.quantile(means, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    difference = float((gains @ counts).mean() / counts.sum())
    return SeedDifference(difference, float(low), float(high), over_images=True)


def are_paired(scores: Sequence[ImageScores | None], column: str) -> bool:
    """Whether all are known, with the column, and are of the same images and instances."""
    first = scores[0]
    return first is not None and all(
        one is not None and column in one.iou and (one.images, one.instances) == (first.images, first.instances)
        for one in scores
    )
