"""Label-free training batches: the batch of a step is a function of the seed and the step alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import valid_cells
from core.seeding import generator_for
from data.images import to_frame
from data.sample import ImageData

CACHE_BYTES = 512_000_000
"""Decoded pictures are kept up to this size: small data sets are decoded once, large ones always anew."""


class PictureCache:
    """Decoded pictures by index, up to a size; what does not fit is read each time.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def get(self, index: int, read: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The picture of an index, read if it is not kept: uint8 ``[H, W, 3]``."""
        if index in self.kept:
            return self.kept[index]
        picture = read(index)
        if picture.nbytes <= self.free:
            self.free -= picture.nbytes
            self.kept[index] = picture
        return picture


@dataclass(frozen=True)
class ImageBatch:
    """Pictures in the model's frame.

    Attributes:
        names: of the pictures, for messages.
        images: float32 ``[B, 3, S, S]``, normalised and zero-padded.
        valid: bool ``[B, g, g]``, the cells of the embedding grid that hold picture.
    """

    names: tuple[str, ...]
    images: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch on a device."""
        return ImageBatch(self.names, self.images.to(device), self.valid.to(device))


@dataclass(frozen=True)
class ImageBatches:
    """Batches of a data set's pictures, every picture once an epoch, in an order drawn for each epoch.

    Attributes:
        data: the pictures; annotations are never read.
        frame: side of the model's square input.
        grid: side of its embedding.
        batch: pictures a batch.
        seed: of the order.
        pictures: those read so far: a second stage sees the first one's again.
    """

    data: ImageData
    frame: int
    grid: int
    batch: int
    seed: int
    device: torch.device = torch.device("cpu")
    pictures: "PictureCache" = field(default_factory=lambda: PictureCache(CACHE_BYTES))

    def __call__(self, step: int) -> ImageBatch:
        """The batch of a step; batches run on across the ends of epochs."""
        count = len(self.data)
        places = range(step * self.batch, (step + 1) * self.batch)
        return self.of([_order(self.seed, place // count, count)[place % count] for place in places])

    def of(self, indices: Sequence[int]) -> ImageBatch:
        """The batch of chosen pictures."""
        pictures = [self.pictures.get(i, self.data.image) for i in indices]
        batch = ImageBatch(
            names=tuple(self.data.image_name(i) for i in indices),
            images=torch.stack([to_frame(picture, self.frame) for picture in pictures]),
            valid=torch.stack([valid_cells((p.shape[0], p.shape[1]), self.frame, self.grid) for p in pictures]),
        )
        return batch.to(self.device)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "order", epoch)).tolist()
