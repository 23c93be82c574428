"""Training batches with masks: pictures at given places of the training order, and some instances of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.geometry import boxes_to_frame
from core.seeding import seed_for
from data.batches import ImageBatch, ImageBatches
from data.prompts import jitter_boxes
from data.readable import first_readable
from data.sample import ImageData, ImageSample


@dataclass(frozen=True)
class InstanceBatch:
    """``B`` pictures with ``K`` instances each.

    Attributes:
        pictures: in the model's frame.
        places: of the pictures in the endless training order; randomness of a step is drawn by them.
        coverage: float32 ``[B, K, l, l]`` in [0, 1]: the share of each cell of the low-res logits that is mask.
        boxes_xyxy: float32 ``[B, K, 4]``, jittered, in the frame.
        labelled: bool ``[B]``: pictures that have instances; the others carry empty ones.
    """

    pictures: ImageBatch
    places: tuple[int, ...]
    coverage: Tensor
    boxes_xyxy: Tensor
    labelled: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Of the pictures, for messages."""
        return self.pictures.names

    def pin_memory(self) -> "InstanceBatch":
        """The same batch in page-locked memory."""
        parts = (part.pin_memory() for part in (self.coverage, self.boxes_xyxy, self.labelled))
        return InstanceBatch(self.pictures.pin_memory(), self.places, *parts)

    def to(self, device: torch.device) -> "InstanceBatch":
        """The same batch on a device; from page-locked memory without waiting."""
        parts = (part.to(device, non_blocking=True) for part in (self.coverage, self.boxes_xyxy, self.labelled))
        return InstanceBatch(self.pictures.to(device), self.places, *parts)


@dataclass(frozen=True)
class InstanceBatches:
    """A data set's pictures in a drawn order, each with ``count`` of its instances, drawn anew at every place.

    Attributes:
        data: the pictures with their annotations.
        frame: side of the model's square input.
        grid: side of its embedding; low-res logits have four cells for each of its.
        seed: of order, instances and jitter.
        count: instances a picture; where there are fewer, some come several times.
        box_jitter: noise of a box's sides as a share of their length (Segment Anything, appendix A).
    """

    data: ImageData
    frame: int
    grid: int
    seed: int
    count: int
    box_jitter: float = 0.0
    pictures: ImageBatches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pictures", ImageBatches(self.data, self.frame, self.grid, self.seed))

    def __call__(self, places: range) -> InstanceBatch:
        """The batch at consecutive places of the order; see :class:`data.batches.ImageBatches`."""
        indices, pictures, drawn = [], [], []
        for wanted, place in zip(self.pictures.indices(places), places, strict=True):
            index, sample = first_readable(self.data, wanted, self.data.sample)
            indices.append(index)
            pictures.append(sample.image)
            drawn.append(self._draw(sample, place))
        coverage, boxes = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        labelled = coverage.flatten(1).any(1)
        return InstanceBatch(self.pictures.made(indices, pictures), tuple(places), coverage, boxes, labelled)

    def _draw(self, sample: ImageSample, place: int) -> tuple[Tensor, Tensor]:
        side, size_hw = 4 * self.grid, (sample.image.shape[0], sample.image.shape[1])
        if not len(sample.masks):
            return torch.zeros(self.count, side, side), torch.zeros(self.count, 4)
        rng = np.random.Generator(np.random.PCG64(seed_for(self.seed, "instances", place)))
        chosen = np.resize(rng.permutation(len(sample.masks)), self.count)
        boxes = sample.boxes_xyxy[chosen]
        if self.box_jitter:
            boxes = jitter_boxes(boxes, size_hw, self.box_jitter, rng)
        frame_boxes = boxes_to_frame(torch.from_numpy(boxes).float(), size_hw, self.frame)
        return coverage_of(sample.masks, chosen.tolist(), side), frame_boxes


def coverage_of(masks: NDArray[np.bool_], chosen: Sequence[int], side: int) -> Tensor:
    """Masks as shares of the cells of a square grid over the frame.

    Args:
        masks: bool ``[N, H, W]`` at a picture's own size.
        chosen: which of them; one that comes several times is reduced once.
        side: cells along the picture's longer side.

    Returns:
        float32 ``[len(chosen), side, side]`` in [0, 1], zero in the padding.
    """
    height, width = masks.shape[1:]
    longer = max(height, width)
    reduced = {}
    # One after the other: as float32 the masks of a large picture do not fit into memory together.
    for index in sorted(set(chosen)):
        square = F.pad(torch.from_numpy(masks[index]).float(), (0, longer - width, 0, longer - height))
        reduced[index] = F.adaptive_avg_pool2d(square[None], side)[0]
    return torch.stack([reduced[index] for index in chosen])
