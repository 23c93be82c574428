"""A part of a data set: of a list, by share or by count, drawn by name, so that it is the same wherever it is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.plain_file import reraise_access
from data.image_files import SA1B_FILE


@dataclass(frozen=True)
class Subset:
    """Which images of SA-1B are taken; what is None takes all.

    Attributes:
        names: a text file of names, one a line (``sa_1``, ``sa_1.jpg``, or a path that ends so); empty lines and those
            that begin with ``#`` say nothing.
        share: of the images, in (0, 1]: those whose :func:`draw` lies below it.
        count: so many, those with the lowest :func:`draw`: more images are a superset of fewer.
        seed: of the draw.

    Raises:
        InputError: ``share`` or ``count`` is no such value.
    """

    names: Path | None = None
    share: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.share is not None and not (0 < self.share <= 1 and math.isfinite(self.share)):
            raise InputError(f"data.share={self.share} is no share of the images; give one above 0, at most 1")
        if self.count is not None and self.count < 1:
            raise InputError(f"data.count={self.count} images are too few; give at least 1")

    def listed(self) -> set[int] | None:
        """The numbers that the file of names lists; None without one.

        Raises:
            InputError: it cannot be read, lists nothing, or a line is no name.
        """
        if self.names is None:
            return None
        with reraise_access(self.names):
            if not self.names.is_file():
                raise InputError(f"{self.names}: no such file of names; data.names needs one name of an image a line")
            lines = self.names.read_text(encoding="utf-8", errors="replace").splitlines()
        found = set()
        for place, line in enumerate(lines, 1):
            name = line.strip().replace("\\", "/").rpartition("/")[2]
            if not name or line.lstrip().startswith("#"):
                continue
            match = SA1B_FILE.fullmatch(name if "." in name else f"{name}.jpg")
            if match is None:
                raise InputError(
                    f"{self.names}: line {place} is {line.strip()[:40]!r}, no name such as sa_1.jpg; correct it"
                )
            found.add(int(match[1]))
        if not found:
            raise InputError(f"{self.names}: lists no names; give one name of an image a line, such as sa_1.jpg")
        return found

    def of(self, numbers: Sequence[int], listed: set[int] | None) -> list[int]:
        """The numbers that are taken, in the order given.

        Args:
            listed: as :meth:`listed` gives them.

        Raises:
            InputError: there are fewer than ``count``.
        """
        taken = np.array([n for n in numbers if listed is None or n in listed], dtype=np.int64)
        if self.share is not None:
            taken = taken[draw(taken, self.seed) < self.share]
        if self.count is not None:
            if len(taken) < self.count:
                raise InputError(f"data.count={self.count}: there are {len(taken)} images to choose from; give fewer")
            taken = taken[np.sort(np.argsort(draw(taken, self.seed), kind="stable")[: self.count])]
        return [int(number) for number in taken.tolist()]

    def may_have(self, number: int, listed: set[int] | None) -> bool:
        """Whether an image that is not there would have been taken; of a count nobody knows, so False."""
        if self.count is not None or (listed is not None and number not in listed):
            return False
        return self.share is None or bool(draw(np.array([number]), self.seed)[0] < self.share)


def draw(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each image, of its number and the seed alone: SplitMix64 of ``number + 2**40 * seed``."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(seed % 2**24) * np.uint64(2**40) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
