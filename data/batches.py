"""Label-free training batches: the batch of a step is a function of the seed and the step alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from core.geometry import valid_cells
from core.seeding import generator_for
from data.images import to_frame
from data.sample import ImageData


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
    """

    data: ImageData
    frame: int
    grid: int
    batch: int
    seed: int
    device: torch.device = torch.device("cpu")

    def __call__(self, step: int) -> ImageBatch:
        """The batch of a step; batches run on across the ends of epochs."""
        count = len(self.data)
        places = range(step * self.batch, (step + 1) * self.batch)
        return self.of([_order(self.seed, place // count, count)[place % count] for place in places])

    def of(self, indices: Sequence[int]) -> ImageBatch:
        """The batch of chosen pictures."""
        pictures = [self.data.image(i) for i in indices]
        batch = ImageBatch(
            names=tuple(self.data.image_name(i) for i in indices),
            images=torch.stack([to_frame(picture, self.frame) for picture in pictures]),
            valid=torch.stack([valid_cells((p.shape[0], p.shape[1]), self.frame, self.grid) for p in pictures]),
        )
        return batch.to(self.device)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "order", epoch)).tolist()
