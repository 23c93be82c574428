"""What to do about pictures that show on reading that they are to be left out: go on with those that can be read."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from core.errors import InputError
from data.sample import ImageData, ImageSample, UnreadableImage

T = TypeVar("T")


def readable_samples(data: ImageData, indices: Sequence[int]) -> Iterator[tuple[int, ImageSample | None]]:
    """Each index with its sample, or with None where the picture is left out (and counted in ``data.skipped``).

    Raises:
        InputError: a picture cannot be read and such are refused.
    """
    for index in indices:
        try:
            yield index, data.sample(index)
        except UnreadableImage:
            yield index, None


def first_readable(data: ImageData, index: int, read: Callable[[int], T]) -> tuple[int, T]:
    """The picture of an index, or in place of one that is left out the next of the data set, and after the last the
    first.

    It depends on the files alone: whoever draws the same index sees the same picture.

    Args:
        read: ``data.image``, ``data.sample`` or what stands for it.

    Returns:
        The index that was read, and what was read.

    Raises:
        InputError: a picture cannot be read and such are refused, or all of them were left out.
    """
    count = len(data)
    for step in range(count):
        place = (index + step) % count
        try:
            return place, read(place)
        except UnreadableImage as problem:
            last = problem
    raise InputError(f"{data.name}: none of the {count} pictures can be read, such as {last}") from None
