"""Pictures read, decoded and brought into the model's frame ahead of the model, in processes of their own."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.errors import InputError, RunFailed
from data.sample import ImageData, ImageSample, UnreadableImage
from evaluation.framing import framed_image


@dataclass(frozen=True)
class LoadedPicture:
    """One picture, ready to be encoded.

    Attributes:
        place: among the indices that were asked for.
        index: in the data set.
        size_hw: of the original; None where the picture is left out.
        sample: with its instances, where masks are wanted.
        frames: the model's inputs ``[3, S, S]`` by :attr:`ScoringProtocol.framing`.
        image: uint8 ``[H, W, 3]``, where a model takes pictures as they are.
        skipped: what the data set's rules left out when it was read, by reason.
    """

    place: int
    index: int
    size_hw: tuple[int, int] | None
    sample: ImageSample | None
    frames: Mapping[tuple[str, str], Tensor]
    skipped: Mapping[str, int]
    image: NDArray[np.uint8] | None = None


class _Pictures(Dataset[LoadedPicture | InputError]):
    def __init__(
        self,
        data: ImageData,
        places: Sequence[tuple[int, int]],
        frame: int,
        framings: Sequence[tuple[str, str]],
        with_masks: bool,
        with_images: bool,
        every: bool,
    ) -> None:
        self.data, self.places, self.frame, self.framings = data, places, frame, framings
        self.with_masks, self.with_images, self.every = with_masks, with_images, every

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> LoadedPicture | InputError:
        try:
            return self._loaded(number)
        except InputError as error:
            # Raised where it is waited for: a process of its own would wrap it into its traceback.
            return error

    def _loaded(self, number: int) -> LoadedPicture:
        place, index = self.places[number]
        before = dict(self.data.skipped)
        sample, size_hw, frames, shown = None, None, {}, None
        try:
            sample = self.data.sample(index) if self.with_masks else None
            image = self.data.image(index) if sample is None else sample.image
        except UnreadableImage:
            image = None
        if image is not None:
            size_hw = (image.shape[0], image.shape[1])
            # What has nothing to score is not encoded.
            if self.every or sample is None or len(sample.masks):
                frames = {framing: framed_image(image, self.frame, framing) for framing in self.framings}
                shown = image if self.with_images else None
        after = self.data.skipped
        skipped = {reason: count - before.get(reason, 0) for reason, count in after.items()}
        skipped = {reason: count for reason, count in skipped.items() if count}
        return LoadedPicture(place, index, size_hw, sample, frames, skipped, shown)


def loaded_pictures(
    data: ImageData,
    places: Sequence[tuple[int, int]],
    frame: int,
    framings: Sequence[tuple[str, str]],
    with_masks: bool,
    batch: int,
    workers: int,
    with_images: bool = False,
    every: bool = False,
) -> Iterator[list[LoadedPicture]]:
    """Pictures in order, several at a time.

    Args:
        places: place and index of each.
        frame: the model's input size, of which ``framings`` are made.
        with_masks: whether instances are read.
        batch: pictures handed out together.
        workers: processes that read ahead; 0 reads in this one.
        with_images: whether pictures are wanted as they are.
        every: whether pictures without instances are framed too: a detector may have found something there.

    Raises:
        InputError: an image cannot be read; those before it were handed out.
        RunFailed: a process that reads died; likewise.
    """
    pictures = _Pictures(data, places, frame, framings, with_masks, with_images, every)
    ahead = {"prefetch_factor": 4} if workers else {}
    # Each picture is a worker's item, so that a batch is read by all of them.
    loader = DataLoader(pictures, batch_size=None, num_workers=workers, **ahead)  # type: ignore[arg-type]
    together: list[LoadedPicture] = []
    with _signals_as_before():
        coming = iter(loader)
    try:
        while (picture := _next(coming)) is not None:
            together.append(picture)
            if len(together) == batch:
                yield together
                together = []
    except (InputError, RunFailed):
        if together:
            yield together
        raise
    if together:
        yield together


def _next(coming: Iterator[LoadedPicture | InputError]) -> LoadedPicture | None:
    try:
        found = next(coming, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RunFailed(
            f"a process that reads pictures died ({str(error).splitlines()[0].strip()}), often for lack of "
            "memory; the same command goes on from the pictures that are done; give a smaller evaluation.workers"
        ) from None
    if isinstance(found, InputError):
        raise found
    return found


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Take back the handler of ended processes that a DataLoader with workers leaves behind.

    It would raise at any moment, in whatever this process is doing, and run at the end of every process that is started
    later; with libraries that change the stack of signal handlers (seen with OpenVINO's) it ended this process.
    Without it, the loader notices within seconds that a worker is gone, when it waits for pictures.
    """
    first = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if first else None
    try:
        yield
    finally:
        if first and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
