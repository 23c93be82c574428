"""Label-free training batches: pictures at given places of an endless training order, drawn from a seed alone."""

import hashlib
import threading
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
from data.readable import first_readable
from data.sample import ImageData

CACHE_BYTES = 512_000_000
"""Decoded pictures are kept up to this size: small data sets are decoded once, large ones always anew."""


class PictureCache:
    """Decoded pictures by index, up to a size; what does not fit is read each time. Threads may share it.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.kept: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def get(self, index: int, read: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The picture of an index, read if it is not kept: uint8 ``[H, W, 3]``."""
        if index in self.kept:
            return self.kept[index]
        picture = read(index)
        with self._lock:
            if index not in self.kept and picture.nbytes <= self.free:
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
        digests: SHA-256 of each picture's size and pixels as decoded, by which what a model made of it is kept.
    """

    names: tuple[str, ...]
    images: Tensor
    valid: Tensor
    digests: tuple[bytes, ...] = ()

    def pin_memory(self) -> "ImageBatch":
        """The same batch in page-locked memory."""
        return ImageBatch(self.names, self.images.pin_memory(), self.valid.pin_memory(), self.digests)

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch on a device; from page-locked memory without waiting."""
        images, valid = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.valid))
        return ImageBatch(self.names, images, valid, self.digests)


@dataclass(frozen=True)
class ImageBatches:
    """A data set's pictures, every picture once an epoch, in an order drawn for each epoch.

    Attributes:
        data: the pictures; annotations are never read.
        frame: side of the model's square input.
        grid: side of its embedding.
        seed: of the order.
        pictures: those read so far: a second stage sees the first one's again.
    """

    data: ImageData
    frame: int
    grid: int
    seed: int
    pictures: PictureCache = field(default_factory=lambda: PictureCache(CACHE_BYTES))

    def __call__(self, places: range) -> ImageBatch:
        """The batch at consecutive places of the order; it may run on across the end of an epoch."""
        return self.of(self.indices(places))

    def indices(self, places: range) -> list[int]:
        """Which pictures stand at consecutive places of the order."""
        count = len(self.data)
        return [_order(self.seed, place // count, count)[place % count] for place in places]

    def of(self, indices: Sequence[int]) -> ImageBatch:
        """The batch of chosen pictures. In place of one that is left out comes the next in the data set.

        Raises:
            InputError: a picture cannot be read and such are refused, or none can be read.
        """
        read = [first_readable(self.data, index, self._picture) for index in indices]
        return self.made([index for index, _ in read], [picture for _, picture in read])

    def made(self, indices: Sequence[int], pictures: Sequence[NDArray[np.uint8]]) -> ImageBatch:
        """The batch of pictures (uint8 ``[H, W, 3]`` each) that were read, at their places in the data set."""
        return ImageBatch(
            names=tuple(self.data.image_name(index) for index in indices),
            images=torch.stack([to_frame(picture, self.frame) for picture in pictures]),
            valid=torch.stack([valid_cells((p.shape[0], p.shape[1]), self.frame, self.grid) for p in pictures]),
            digests=tuple(_digest(picture) for picture in pictures),
        )

    def _picture(self, index: int) -> NDArray[np.uint8]:
        return self.pictures.get(index, self.data.image)


def _digest(picture: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "order", epoch)).tolist()
