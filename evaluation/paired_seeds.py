"""Two methods trained with the same seeds and scored on the same instances: their difference and its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from evaluation.metrics import grouped_sums
from evaluation.records import InstanceRecord

LEVEL = 0.95
DIGITS = 6
"""Of the mean IoUs that a file keeps of each image."""


@dataclass(frozen=True)
class ImageScores:
    """One model's mean IoU image by image: enough for any interval over images.

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

    def mean(self, column: str) -> float:
        """The mean of a column over all instances."""
        counts = np.array(self.instances, dtype=np.float64)
        return float(np.array(self.iou[column]) @ counts / counts.sum())

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
        sound = sound and all(type(value) is int for value in images)
        sound = sound and all(type(value) is int and 0 < value < 2**63 for value in instances)
        # NaN fails too.
        shares = (value for values in columns.values() for value in values)
        sound = sound and all(type(value) in (int, float) and 0 <= value <= 1 for value in shares)
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


def crossed_difference(first: Sequence[ImageScores], second: Sequence[ImageScores], column: str) -> SeedDifference:
    """Over seeds and images, which are crossed: every seed is scored on the same images.

    The variance is that of the seeds' means, as if the images were given, and that of the images' means over seeds, as
    if the seeds were; Student's t takes the degrees of freedom of their sum by Satterthwaite (Biometrics Bulletin 2,
    1946). A bootstrap that draws three seeds again would cover the true difference in three quarters of all cases where
    seeds make the spread, and be taken for 95 %.

    Args:
        first, second: in the same order of seeds, and :func:`are_paired`. Of a single seed the interval is that over
            images.
        column: which of their scores.
    """
    from scipy.stats import t

    counts = np.array(first[0].instances, dtype=np.float64)
    # [seeds, images]
    gains = np.array([one.iou[column] for one in first]) - np.array([other.iou[column] for other in second])
    seeds, images = gains.shape
    of_seeds = gains @ counts / counts.sum()
    difference = float(of_seeds.mean())
    # Images with many instances weigh more: what each one moves the ratio of sums by.
    moves = counts / counts.mean() * (gains.mean(0) - difference)
    parts = [(float(moves @ moves) / (images * (images - 1)), images - 1)]
    if seeds > 1:
        parts.append((float(of_seeds.var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / own for part, own in parts)
        half = float(t.ppf(0.5 + LEVEL / 2, freedom)) * variance**0.5
    return SeedDifference(difference, difference - half, difference + half, over_images=True)


def are_paired(scores: Sequence[ImageScores | None], column: str) -> bool:
    """Whether all are known, with the column, and are of the same instances in two images or more.

    One image says nothing of others: there is no interval over images.
    """
    first = scores[0]
    return (
        first is not None
        and len(first.images) > 1
        and all(
            one is not None and column in one.iou and (one.images, one.instances) == (first.images, first.instances)
            for one in scores
        )
    )
