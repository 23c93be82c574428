"""An image into the model's frame and its masks back, as published evaluations do it, ahead of the model."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.errors import InputError, RunFailed
from core.geometry import Stretched, normalise, resized_size, upscale_logits
from core.protocols import ImageMasks, ImageSegmenter, Masks, Prompt, Segmenter
from data.images import to_frame
from data.sample import ImageData, ImageSample, UnreadableImage
from evaluation.mask_measures import Windows
from evaluation.protocols import ScoringProtocol

PIXELS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""Pixels of masks computed together, by type of device: on a CPU few enough that freed memory is used again instead of
asking the system for fresh pages, on a GPU enough to fill it. A single mask may have more."""
DEFAULT_PREPROCESSING = ("pillow", "nearest")
"""SAM's own :attr:`ScoringProtocol.preprocessing`."""
_KERNELS = {"pillow": Image.Resampling.BILINEAR, "pillow_bicubic": Image.Resampling.BICUBIC}
_USUAL = ScoringProtocol(name="usual")
_ABOUT_THE_FRAME = ("resize", "rounding", "upscaling", "truth")
_MOST_CANDIDATES = 4


def pixels_at_once(device: torch.device) -> int:
    """How many pixels of masks to make at a time."""
    return PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"])


def resized_in_frame(size_hw: tuple[int, int], frame: int, rounding: str) -> tuple[int, int]:
    """Size ``(h, w)`` of an image whose longer side was brought to the frame."""
    if rounding == "nearest" or isinstance(frame, Stretched):
        return resized_size(size_hw, frame)
    scale = frame / max(size_hw)
    return max(1, int(size_hw[0] * scale)), max(1, int(size_hw[1] * scale))


def preprocess(image: NDArray[np.uint8], frame: int, how: tuple[str, str]) -> Tensor:
    """An image uint8 ``[H, W, 3]`` as the model's input, float32 ``[3, frame, frame]``.

    Args:
        how: :attr:`ScoringProtocol.preprocessing`.
    """
    if how == DEFAULT_PREPROCESSING:
        return to_frame(image, frame)
    resize, rounding = how
    height, width = resized_in_frame((image.shape[0], image.shape[1]), frame, rounding)
    if resize in _KERNELS:
        resized = np.array(Image.fromarray(image).resize((width, height), _KERNELS[resize]))
        return normalise(torch.from_numpy(resized).permute(2, 0, 1), frame)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized_pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return normalise(resized_pixels[0], frame)


def placed_prompt(prompt: Prompt, size_hw: tuple[int, int], frame: int, rounding: str) -> Prompt:
    """A prompt such that a segmenter, which rounds to the nearest, puts it where ``rounding`` has it."""
    if rounding == "nearest" or isinstance(frame, Stretched):
        return prompt
    # By the longer side alone, whatever the shorter one was rounded to.
    scale, own = frame / max(size_hw), resized_size(size_hw, frame)
    ratio = torch.tensor([size_hw[1] * scale / own[1], size_hw[0] * scale / own[0]])
    boxes = None if prompt.boxes_xyxy is None else prompt.boxes_xyxy * ratio.repeat(2)
    points = None if prompt.points_xy is None else prompt.points_xy * ratio
    return Prompt(boxes, points, prompt.labels, prompt.mask_logits)


def upscaled(masks: Masks | ImageMasks, size_hw: tuple[int, int], protocol: ScoringProtocol) -> Tensor:
    """Logits at the original size, float32 ``[N, M, H, W]``; as they are where they have that size already."""
    if isinstance(masks, ImageMasks):
        return masks.logits
    if (protocol.rounding, protocol.upscaling) == ("nearest", "frame") or isinstance(masks.frame, Stretched):
        return upscale_logits(masks.logits, size_hw, masks.frame)
    logits = masks.logits.float()
    if protocol.upscaling == "frame":
        logits = F.interpolate(logits, (masks.frame, masks.frame), mode="bilinear", align_corners=False)
    rows, columns = _cells_of_image(size_hw, masks.frame, logits.shape[-1], protocol.rounding)
    return F.interpolate(logits[..., :rows, :columns], tuple(size_hw), mode="bilinear", align_corners=False)


def _cells_of_image(size_hw: tuple[int, int], frame: int, side: int, rounding: str) -> tuple[int, int]:
    """How many rows and columns of an answer of ``side`` cells a side have the image, not its padding."""
    if isinstance(frame, Stretched):
        return side, side
    if rounding == "floor":
        return resized_in_frame(size_hw, side, rounding)
    height, width = resized_in_frame(size_hw, frame, rounding)
    return max(1, round(height * side / frame)), max(1, round(width * side / frame))


def positive_windows(masks: Masks | ImageMasks, size_hw: tuple[int, int], protocol: ScoringProtocol) -> Windows | None:
    """Where :func:`upscaled` logits can be above -1 at all, known without looking at them: ``[N * M, 4]`` on the host.

    A pixel is a mean of cells of the low-resolution logits. Which rows of pixels the rows with a larger cell reach is
    found by sending ones for these rows, and zeros for the others, through the same interpolation; columns alike.

    Returns:
        Windows as :mod:`evaluation.mask_measures` takes them, empty ones of 0; None of an accelerator's masks, which
        are measured faster in one piece, and of those that were never small.
    """
    if isinstance(masks, ImageMasks) or masks.logits.device.type != "cpu":
        return None
    side = masks.frame if protocol.upscaling == "frame" else masks.logits.shape[-1]
    parts = _cells_of_image(size_hw, masks.frame, side, protocol.rounding)
    # A mean of numbers that are no larger is no larger, but for its rounding.
    large = masks.logits.flatten(0, 1) > -1.01
    ends = []
    for axis, (part, pixels) in enumerate(zip(parts, size_hw, strict=True)):
        # [N * M, 1, l]
        reached = large.any(2 - axis).float()[:, None]
        if protocol.upscaling == "frame":
            reached = F.interpolate(reached, masks.frame, mode="linear", align_corners=False)
        found = F.interpolate(reached[..., :part], pixels, mode="linear", align_corners=False)[:, 0] > 0
        first, last = found.byte().argmax(1), pixels - found.flip(1).byte().argmax(1)
        ends.append((first, torch.where(found.any(1), last, first)))
    (top, bottom), (left, right) = ends
    windows: Windows = torch.stack([left, top, right, bottom], 1).numpy()
    return windows


def upscaled_in_parts(
    masks: Masks | ImageMasks, size_hw: tuple[int, int], protocol: ScoringProtocol
) -> Iterator[tuple[slice, Tensor]]:
    """Which prompts, and their :func:`upscaled` logits, so few at a time that memory stays bounded."""
    count, candidates = masks.logits.shape[:2]
    frame = masks.frame if isinstance(masks, Masks) else 0
    pixels = candidates * max(size_hw[0] * size_hw[1], frame**2)
    step = max(1, pixels_at_once(masks.logits.device) // pixels)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        some = replace(masks, logits=masks.logits[part], iou_pred=masks.iou_pred[part])
        yield part, upscaled(some, size_hw, protocol)


def most_prompts(model: Segmenter | ImageSegmenter, size_hw: tuple[int, int]) -> int | None:
    """How many prompts to decode at a time, at most, where answers may have the original size; else None."""
    if not isinstance(model, ImageSegmenter):
        return None
    return max(1, PIXELS_AT_ONCE["cpu"] // (_MOST_CANDIDATES * size_hw[0] * size_hw[1]))


def check_preprocessing(model: Segmenter | ImageSegmenter, protocols: Sequence[ScoringProtocol]) -> None:
    """Refuse protocols that say how images come into the frame, of a model that takes images as they are.

    Raises:
        InputError: there is such a protocol.
    """
    if not isinstance(model, ImageSegmenter):
        return
    for protocol in protocols:
        for axis in _ABOUT_THE_FRAME:
            if (value := getattr(protocol, axis)) not in (getattr(_USUAL, axis), "reference"):
                raise InputError(
                    f"{protocol.name}: {axis}={value} needs a model that is given frames, but {model.name} takes "
                    "images as they are; choose another protocol"
                )


def truth_in_frame(truth: Tensor, frame: int) -> Tensor:
    """Masks bool ``[N, H, W]`` brought to the frame (nearest) and back (bilinear, above 0), as EdgeSAM's evaluation."""
    size_hw = (truth.shape[1], truth.shape[2])
    small = F.interpolate(truth[:, None].float(), resized_size(size_hw, frame), mode="nearest")
    return F.interpolate(small, size_hw, mode="bilinear", align_corners=False)[:, 0] > 0


@dataclass(frozen=True)
class LoadedImage:
    """One image, ready to be encoded.

    Attributes:
        place: among the requested indices.
        index: in the data set.
        size_hw: of the original; None where the image is left out.
        sample: with its instances, where masks are needed.
        frames: the model's inputs ``[3, S, S]`` by :attr:`ScoringProtocol.preprocessing`.
        image: uint8 ``[H, W, 3]``, where a model takes images as they are.
        skipped: what the data set's rules left out when it was read, by reason.
    """

    place: int
    index: int
    size_hw: tuple[int, int] | None
    sample: ImageSample | None
    frames: Mapping[tuple[str, str], Tensor]
    skipped: Mapping[str, int]
    image: NDArray[np.uint8] | None = None


@dataclass
class _Images(Dataset[LoadedImage | InputError]):
    data: ImageData
    places: Sequence[tuple[int, int]]
    frame: int
    preprocessings: Sequence[tuple[str, str]]
    with_masks: bool
    with_images: bool
    every: bool

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> LoadedImage | InputError:
        try:
            return self._loaded(number)
        except InputError as error:
            # Raised where it is waited for: a process of its own would wrap it into its traceback.
            return error

    def _loaded(self, number: int) -> LoadedImage:
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
                frames = {how: preprocess(image, self.frame, how) for how in self.preprocessings}
                shown = image if self.with_images else None
        skipped = {reason: count - before.get(reason, 0) for reason, count in self.data.skipped.items()}
        skipped = {reason: count for reason, count in skipped.items() if count}
        return LoadedImage(place, index, size_hw, sample, frames, skipped, shown)


def load_images(
    data: ImageData,
    places: Sequence[tuple[int, int]],
    frame: int,
    preprocessings: Sequence[tuple[str, str]],
    with_masks: bool,
    batch: int,
    workers: int,
    with_images: bool = False,
    every: bool = False,
) -> Iterator[list[LoadedImage]]:
    """Images in order, several at a time.

    Args:
        places: place and index of each.
        frame: the model's input size.
        preprocessings: how each image is brought into the frame.
        with_masks: whether instances are read.
        batch: images handed out together.
        workers: processes that read ahead; 0 reads in this one.
        with_images: whether images are handed out as they are, too.
        every: whether images without instances are framed too: a detector may have found something there.

    Raises:
        InputError: an image cannot be read; those before it were handed out.
        RunFailed: a process that reads died; likewise.
    """
    images = _Images(data, places, frame, preprocessings, with_masks, with_images, every)
    together: list[LoadedImage] = []
    # Without workers no DataLoader: making one draws from PyTorch's global generator, which a stage may train by.
    coming = _read_ahead(images, workers) if workers else (images[number] for number in range(len(images)))
    try:
        while (image := _next(coming)) is not None:
            together.append(image)
            if len(together) == batch:
                yield together
                together = []
    except (InputError, RunFailed):
        if together:
            yield together
        raise
    if together:
        yield together


def _read_ahead(images: _Images, workers: int) -> Iterator[LoadedImage | InputError]:
    # Each image is a worker's item, so that a batch is read by all of them.
    loader = DataLoader(images, batch_size=None, num_workers=workers, prefetch_factor=4, generator=torch.Generator())
    with _signals_as_before():
        return iter(loader)


def _next(coming: Iterator[LoadedImage | InputError]) -> LoadedImage | None:
    try:
        found = next(coming, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RunFailed(
            f"a process that reads images died ({str(error).splitlines()[0].strip()}), often for lack of "
            "memory; the same command goes on from the images that are done; give a smaller evaluation.workers"
        ) from None
    if isinstance(found, InputError):
        raise found
    return found


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Take back the handler of ended processes that a DataLoader with workers leaves behind.

    It would raise at any moment, in whatever this process is doing, and run at the end of every process that is started
    later; with libraries that change the stack of signal handlers (seen with OpenVINO's) it ended this process.
    Without it, the loader notices within seconds that a worker is gone, when it waits for images.
    """
    first = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if first else None
    try:
        yield
    finally:
        if first and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
