"""What the training loop is given to do: a stage, its batches made ahead of their use, and a callback."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from compressors.distill.optimizer import OptimizerConfig


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
T = TypeVar("T")


class Frozen(Generic[B, T]):
    """What models that are not trained make of a batch: a loss calls it with the batch and the step.

    It is computed then, or was by the thread that made the batch, where that pays (:attr:`Engine.ahead`): its values
    are the same.

    Args:
        compute: from a batch at a step; must not depend on what is trained. Run without gradients.
    """

    def __init__(self, compute: Callable[[B, int], T]) -> None:
        self.compute = torch.no_grad()(compute)
        self.ready: T | None = None

    def __call__(self, batch: B, step: int) -> T:
        """Of the batch that a loss is given."""
        return self.compute(batch, step) if self.ready is None else self.ready


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
        whole_batches: whether the loss of an image depends on its place in the batch or on its neighbours. Processes
            then share each batch, so that a part's place in it is known; so they do where the model normalises over it.
        steps: optimizer steps, each over ``batch_size * optimisation.accumulate`` images.
        optimisation: optimizer and learning rate.
        validate: the figure to maximise, or None.
        validate_every: steps between validations (and at the end).
        keep_best: end with the weights of the best validation instead of the last.
        full_model: the student as it stands, for the callback; None where there is no such model yet.
        frozen: what ``loss`` needs of models that are not trained, so that it can be computed ahead; None: nothing.
        accumulates: whether the method can be set to accumulate batches.
    """

    name: str
    key: str
    model: nn.Module
    batch: Callable[[range], B]
    batch_size: int
    loss: Callable[[B, int], Mapping[str, Tensor]]
    steps: int
    optimisation: OptimizerConfig
    validate: Callable[[], float] | None = None
    validate_every: int = 500
    keep_best: bool = False
    full_model: Callable[[], Any] | None = None
    whole_batches: bool = False
    frozen: Frozen[B, Any] | None = None
    accumulates: bool = True

    @property
    def images_per_step(self) -> int:
        """Images behind one update of the weights, over all processes."""
        return self.batch_size * self.optimisation.accumulate

    def places(self, step: int) -> range:
        """Places of a step's images in the training order."""
        return range(step * self.images_per_step, (step + 1) * self.images_per_step)


class Callback(Protocol):
    """Is given what the training loop logs, and now and then scores the model. Only the first process has one.

    What it scores chooses nothing: neither weights nor learning rates depend on it.
    """

    def scores_at(self, step: int, steps: int) -> bool:
        """Whether to score the model after a step. A function of the numbers alone, so that resuming keeps it."""
        ...

    def score(self, model: Any) -> Mapping[str, float]:
        """Figures of the whole model as it stands, by name."""
        ...

    def log(self, stage: str, entry: Mapping[str, float]) -> None:
        """One line of a stage's log: ``step``, and figures by name."""
        ...


@contextmanager
def prefetch(make: Callable[[range], T], places: Iterator[range], workers: int) -> Iterator[Callable[[], T]]:
    """Yields a function that gives ``make(place)`` for one place after the other, in their order.

    Each is a function of its place alone, so threads change when a batch is made and not what is in it. An error of
    ``make`` is raised where its batch is taken.

    Args:
        workers: threads; each keeps two batches in advance. With 0, batches are made when they are taken.
    """
    if not workers:
        yield lambda: make(next(places))
        return
    # OpenMP counts threads for each thread of Python; what they compute must not depend on who does.
    shared = (torch.get_num_threads(),)
    pool = ThreadPoolExecutor(workers, "batches", initializer=torch.set_num_threads, initargs=shared)
    waiting: deque[Future[T]] = deque()

    def fill() -> None:
        while len(waiting) < 2 * workers and (place := next(places, None)) is not None:
            waiting.append(pool.submit(make, place))

    def following() -> T:
        fill()
        made = waiting.popleft().result()
        fill()
        return made

    try:
        yield following
    finally:
        pool.shutdown(cancel_futures=True)


def chunks(places: range, size: int) -> Sequence[range]:
    """Consecutive parts of at most ``size`` places."""
    return [places[start : start + size] for start in range(0, len(places), size)]
