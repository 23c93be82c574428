"""Label-free training batches: images at given places of an endless training order, drawn from a seed alone."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Generic, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import Stretched, boxes_to_frame, valid_cells
from core.seeding import generator_for, seed_for
from data.content import ReadFromFiles
from data.exclusions import first_readable
from data.images import to_frame
from data.prompts import jitter_boxes
from data.run_lengths import RunLengths
from data.sample import ImageData, ScaledImage

T = TypeVar("T", NDArray[np.uint8], ScaledImage)
CACHE_BYTES = 512_000_000
"""Decoded images are kept up to this size: small data sets are decoded once, large ones always anew."""


class ImageCache(Generic[T]):
    """Decoded images by index, up to a size; what does not fit is read each time. Threads may share it.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.kept: dict[int, T] = {}
        self._lock = threading.Lock()

    def get(self, index: int, read: Callable[[int], T]) -> T:
        """The image of an index, read if it is not kept."""
        if index in self.kept:
            return self.kept[index]
        image = read(index)
        with self._lock:
            if index not in self.kept and image.nbytes <= self.free:
                self.free -= image.nbytes
                self.kept[index] = image
        return image


@dataclass(frozen=True)
class ImageBatch:
    """Images in the model's frame.

    Attributes:
        names: of the images, for messages.
        images: float32 ``[B, 3, S, S]``, normalised and zero-padded.
        valid: bool ``[B, g, g]``, the cells of the embedding grid that hold image.
        digests: SHA-256 of each image's size and pixels as decoded, by which what a model made of it is kept.
        start: place of the first image in the training order, of a batch that was read at places of it.
    """

    names: tuple[str, ...]
    images: Tensor
    valid: Tensor
    digests: tuple[bytes, ...] = ()
    start: int = 0

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return replace(self, images=self.images.pin_memory(), valid=self.valid.pin_memory())

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; from page-locked memory without waiting."""
        images, valid = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.valid))
        return replace(self, images=images, valid=valid)


@dataclass(frozen=True)
class ImageBatches:
    """A data set's images, every image once an epoch, in an order drawn for each epoch.

    Attributes:
        data: the images; annotations are never read.
        frame: side of the model's square input.
        grid: side of its embedding.
        seed: of the order.
        images: those read so far: a second stage sees the first one's again.
    """

    data: ImageData
    frame: int
    grid: int
    seed: int
    images: ImageCache[ScaledImage] = field(default_factory=lambda: ImageCache(CACHE_BYTES))

    def __call__(self, places: range) -> ImageBatch:
        """The batch at consecutive places of the order; it may run on across the end of an epoch."""
        return replace(self.of(self.indices(places)), start=places.start)

    def indices(self, places: range) -> list[int]:
        """Which images stand at consecutive places of the order."""
        count = len(self.data)
        return [_order(self.seed, place // count, count)[place % count] for place in places]

    def of(self, indices: Sequence[int]) -> ImageBatch:
        """The batch of chosen images. In place of one that is left out comes the next in the data set.

        Raises:
            InputError: an image cannot be read and such are refused, or none can be read.
        """
        read = [first_readable(self.data, index, self._image) for index in indices]
        return self.made([index for index, _ in read], [image for _, image in read])

    def made(self, indices: Sequence[int], images: Sequence[ScaledImage]) -> ImageBatch:
        """The batch of images that were read, at their places in the data set."""
        return ImageBatch(
            names=tuple(self.data.image_name(index) for index in indices),
            images=_stacked([to_frame(read.image, self.frame, read.size_hw) for read in images]),
            valid=torch.stack([valid_cells(read.size_hw, self.frame, self.grid) for read in images]),
            digests=tuple(_digest(read.image) for read in images),
        )

    def _image(self, index: int) -> ScaledImage:
        return self.images.get(index, self._read)

    def _read(self, index: int) -> ScaledImage:
        if isinstance(self.data, ReadFromFiles):
            return self.data.training_image(index, self.frame)
        return _whole(self.data.image(index))


def _whole(image: NDArray[np.uint8]) -> ScaledImage:
    return ScaledImage(image, (image.shape[0], image.shape[1]))


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors along a new first dimension; a single one is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tuple(tensors))


def _digest(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "order", epoch)).tolist()


@dataclass(frozen=True)
class InstanceBatch:
    """``B`` images with ``K`` instances each.

    Attributes:
        images: in the model's frame.
        places: of the images in the endless training order; randomness of a step is drawn by them.
        coverage: float32 ``[B, K, l, l]`` in [0, 1]: the share of each cell of the low-res logits that is mask.
        boxes_xyxy: float32 ``[B, K, 4]``, jittered, in the frame.
        labelled: bool ``[B]``: images that have instances; the others carry empty ones.
    """

    images: ImageBatch
    places: tuple[int, ...]
    coverage: Tensor
    boxes_xyxy: Tensor
    labelled: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images, for messages."""
        return self.images.names

    def pin_memory(self) -> "InstanceBatch":
        """The same batch in page-locked memory."""
        parts = (part.pin_memory() for part in (self.coverage, self.boxes_xyxy, self.labelled))
        return InstanceBatch(self.images.pin_memory(), self.places, *parts)

    def to(self, device: torch.device) -> "InstanceBatch":
        """The same batch on a device; from page-locked memory without waiting."""
        parts = (part.to(device, non_blocking=True) for part in (self.coverage, self.boxes_xyxy, self.labelled))
        return InstanceBatch(self.images.to(device), self.places, *parts)


@dataclass(frozen=True)
class InstanceBatches:
    """A data set's images in a drawn order, each with ``count`` of its instances, drawn anew at every place.

    Attributes:
        data: the images with their annotations.
        frame: side of the model's square input.
        grid: side of its embedding; low-res logits have four cells for each of its.
        seed: of order, instances and jitter.
        count: instances an image; where there are fewer, some come several times.
        box_jitter: noise of a box's sides as a share of their length (Segment Anything, appendix A).
    """

    data: ImageData
    frame: int
    grid: int
    seed: int
    count: int
    box_jitter: float = 0.0
    images: ImageBatches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", ImageBatches(self.data, self.frame, self.grid, self.seed))

    def __call__(self, places: range) -> InstanceBatch:
        """The batch at consecutive places of the order; see :class:`data.batches.ImageBatches`."""
        indices, images, drawn = [], [], []
        for start, place in zip(self.images.indices(places), places, strict=True):
            index, (image, boxes, cover) = first_readable(self.data, start, self._read)
            indices.append(index)
            images.append(image)
            drawn.append(self._draw(image.size_hw, boxes, cover, place))
        coverage, frame_boxes = (_stacked(parts) for parts in zip(*drawn, strict=True))
        # As any(1), which takes several times as long.
        labelled = coverage.flatten(1).amax(1) > 0
        return InstanceBatch(self.images.made(indices, images), tuple(places), coverage, frame_boxes, labelled)

    def _read(self, index: int) -> tuple[ScaledImage, NDArray[np.float64], Callable[[list[int], int], Tensor]]:
        """An image, the boxes of its instances, and what makes the coverage of chosen ones."""
        stretched = isinstance(self.frame, Stretched)
        if isinstance(self.data, ReadFromFiles):
            encoded = self.data.training_sample(index, self.frame)
            return encoded.image, encoded.boxes_xyxy, partial(coverage_of_runs, encoded.masks, stretched=stretched)
        sample = self.data.sample(index)
        return _whole(sample.image), sample.boxes_xyxy, partial(coverage_of, sample.masks, stretched=stretched)

    def _draw(
        self,
        size_hw: tuple[int, int],
        all_boxes: NDArray[np.float64],
        cover: Callable[[list[int], int], Tensor],
        place: int,
    ) -> tuple[Tensor, Tensor]:
        side = 4 * self.grid
        if not len(all_boxes):
            return torch.zeros(self.count, side, side), torch.zeros(self.count, 4)
        rng = np.random.Generator(np.random.PCG64(seed_for(self.seed, "instances", place)))
        chosen = np.resize(rng.permutation(len(all_boxes)), self.count)
        boxes = all_boxes[chosen]
        if self.box_jitter:
            boxes = jitter_boxes(boxes, size_hw, self.box_jitter, rng)
        frame_boxes = boxes_to_frame(torch.from_numpy(boxes).float(), size_hw, self.frame)
        return cover(chosen.tolist(), side), frame_boxes


def coverage_of_runs(masks: RunLengths, chosen: Sequence[int], side: int, stretched: bool = False) -> Tensor:
    """The same as :func:`coverage_of` gives of drawn masks, of run lengths: no mask is drawn."""
    covered = torch.zeros(len(chosen), side, side)
    # One that comes several times is made once.
    distinct, places = np.unique(chosen, return_inverse=True)
    masks.only(distinct).coverage(side, covered[: len(distinct)].numpy(), stretched)
    return covered if places.tolist() == list(range(len(places))) else covered[torch.from_numpy(places)]


def coverage_of(masks: NDArray[np.bool_], chosen: Sequence[int], side: int, stretched: bool = False) -> Tensor:
    """Masks as shares of the cells of a square grid over the frame.

    Args:
        masks: bool ``[N, H, W]`` at an image's own size.
        chosen: which of them; one that comes several times is reduced once.
        side: cells along the frame.
        stretched: whether both sides of the image fill the frame, or the longer one.

    Returns:
        float32 ``[len(chosen), side, side]`` in [0, 1], zero in the padding.
    """
    height, width = masks.shape[1:]
    high, wide = (height, width) if stretched else (max(height, width),) * 2
    reduced = {}
    # One after the other: as float32 the masks of a large image do not fit into memory together.
    for index in sorted(set(chosen)):
        whole = F.pad(torch.from_numpy(masks[index]).float(), (0, wide - width, 0, high - height))
        reduced[index] = F.adaptive_avg_pool2d(whole[None], side)[0]
    return torch.stack([reduced[index] for index in chosen])
