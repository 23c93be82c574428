"""As many at a time as a device's memory takes: halved when it is too little, and kept so for the rest of a pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from core.memory import OutOfDeviceMemory, give_back, is_out_of_memory
from core.terminal import terminal

T = TypeVar("T")


@dataclass
class AdaptiveBatch:
    """How many of something are computed together.

    The work is split otherwise and not changed: every prompt and every image is computed as before.

    Attributes:
        most: at a time, at first.
        what: they are, for messages.
        setting: the setting they come from.
        fix: what to change where even one is too many.
    """

    most: int
    what: str
    setting: str
    fix: str = "give evaluation.precision=bfloat16, or engine.device=cpu"

    def parts(self, count: int, compute: Callable[[slice], T], limit: int | None = None) -> Iterator[tuple[slice, T]]:
        """Compute ``count`` of them in consecutive parts.

        Args:
            compute: of a part; it is called again for a smaller one where the device had too little memory.
            limit: an own largest part of this call.

        Raises:
            OutOfDeviceMemory: one alone is too many.
        """
        start = 0
        while start < count:
            size = min(count - start, self.most if limit is None else min(self.most, limit))
            part = slice(start, start + size)
            found = self._tried(compute, part)
            if found is None:
                self._smaller(size)
                continue
            yield part, found[0]
            start += size

    def _tried(self, compute: Callable[[slice], T], part: slice) -> tuple[T] | None:
        """What a part gives; None if there was too little memory, all of it given back."""
        try:
            return (compute(part),)
        except OutOfDeviceMemory:
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here are the error and its frames gone, with what they kept alive.
        give_back()
        return None

    def _smaller(self, size: int) -> None:
        if size == 1:
            raise OutOfDeviceMemory(f"the device has too little memory for one of the {self.what}; {self.fix}")
        self.most = size // 2
        terminal(stderr=True).print(
            f"{size} {self.what} together need more memory than the device has: {self.most} from here on "
            f"({self.setting}={self.most} spares the attempt)",
            soft_wrap=True,
        )


def prompt_batch(size: int) -> AdaptiveBatch:
    """For prompts that are decoded together."""
    return AdaptiveBatch(size, "prompts", "evaluation.prompt_batch_size")


def point_batch(points_per_batch: int) -> AdaptiveBatch:
    """For the points of a grid that are decoded together."""
    return AdaptiveBatch(points_per_batch, "prompts", "generator.points_per_batch", "give engine.device=cpu")


def image_batch(size: int) -> AdaptiveBatch:
    """For images that are encoded together."""
    return AdaptiveBatch(size, "images", "evaluation.image_batch_size")
