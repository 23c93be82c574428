"""What the training loop is given to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from compressors.distill.schedule import Optimisation


class Batch(Protocol):
    """What a stage trains on at one time: anything that names its images and can move."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name an image."""
        ...

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which transfers to a CUDA device need not wait."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...


B = TypeVar("B", bound=Batch)


@dataclass
class Stage(Generic[B]):
    """One stage of training.

    Attributes:
        name: of the stage; its state and log carry it.
        key: what must be equal for a saved state to be continued (a hash of the configuration).
        model: whose trainable parameters are updated.
        batch: the images at consecutive places of the endless training order. A function of the places alone, so a
            resumed run sees what an undisturbed one sees, and several processes together see what one would.
        batch_size: most images at one time on a device.
        loss: named, weighted terms of the loss of a batch at a step; their sum is minimised. Every term is a mean over
            the images, so that the parts of a batch average to the whole.
        steps: optimizer steps, each over ``batch_size * optimisation.accumulate`` images.
        optimisation: optimizer and learning rate.
        validate: the figure to maximise, or None.
        validate_every: steps between validations (and at the end).
        keep_best: end with the weights of the best validation instead of the last.
        whole: the student as it stands, for who looks on while it trains; None where there is no such model yet.
    """

    name: str
    key: str
    model: nn.Module
    batch: Callable[[range], B]
    batch_size: int
    loss: Callable[[B, int], Mapping[str, Tensor]]
    steps: int
    optimisation: Optimisation
    validate: Callable[[], float] | None = None
    validate_every: int = 500
    keep_best: bool = False
    whole: Callable[[], Any] | None = None

    @property
    def images_per_step(self) -> int:
        """Images behind one update of the weights, over all processes."""
        return self.batch_size * self.optimisation.accumulate

    def places(self, step: int) -> range:
        """Places of a step's images in the training order."""
        return range(step * self.images_per_step, (step + 1) * self.images_per_step)
