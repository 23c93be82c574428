"""What a model, a data set and an evaluator must look like. Plain data and structural types; nothing to inherit."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.feature_maps import Features
from core.geometry import upscale_logits


@dataclass(frozen=True)
class Prompt:
    """``N`` prompts for one image, in pixels of the ORIGINAL image.

    Attributes:
        boxes_xyxy: float ``[N, 4]``, or None.
        points_xy: float ``[N, P, 2]``, or None.
        labels: int ``[N, P]``: 1 foreground, 0 background, -1 padding. Required with points.
        mask_logits: float ``[N, 1, l, l]`` low-resolution logits of an earlier answer, or None.
    """

    boxes_xyxy: Tensor | None = None
    points_xy: Tensor | None = None
    labels: Tensor | None = None
    mask_logits: Tensor | None = None

    @classmethod
    def foreground(cls, points_xy: Tensor) -> "Prompt":
        """Prompts of foreground points alone, float ``[N, P, 2]``."""
        return cls(
            points_xy=points_xy, labels=torch.ones(points_xy.shape[:2], dtype=torch.int64, device=points_xy.device)
        )

    def __post_init__(self) -> None:
        if (self.points_xy is None) != (self.labels is None):
            raise ValueError("a Prompt needs points_xy and labels together")
        parts = (self.boxes_xyxy, self.points_xy, self.labels, self.mask_logits)
        counts = {len(part) for part in parts if part is not None}
        if len(counts) != 1:
            raise ValueError(f"the parts of a Prompt must describe one number of prompts, got {sorted(counts)}")

    def __len__(self) -> int:
        """Number of prompts ``N``."""
        first = self.boxes_xyxy if self.boxes_xyxy is not None else self.points_xy
        return len(first if first is not None else self.mask_logits)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "Prompt":
        """The same prompts on a device."""
        parts = (self.boxes_xyxy, self.points_xy, self.labels, self.mask_logits)
        return Prompt(*(None if part is None else part.to(device) for part in parts))

    def __getitem__(self, index: slice) -> "Prompt":
        """The prompts of a slice."""
        parts = (self.boxes_xyxy, self.points_xy, self.labels, self.mask_logits)
        return Prompt(*(None if part is None else part[index] for part in parts))


@dataclass(frozen=True)
class Masks:
    """Answers to ``N`` prompts, ``M`` candidates each.

    Attributes:
        logits: float ``[N, M, l, l]`` low-resolution mask logits, in the model's frame.
        iou_pred: float ``[N, M]``, the model's estimate of each candidate's IoU.
        frame: side of the square frame the logits cover, padding included.
    """

    logits: Tensor
    iou_pred: Tensor
    frame: int

    def binary(self, size_hw: tuple[int, int], threshold: float = 0.0) -> Tensor:
        """The candidates as bool ``[N, M, H, W]`` at the original image's size."""
        return upscale_logits(self.logits, size_hw, self.frame) > threshold


@runtime_checkable
class Segmenter(Protocol):
    """A promptable segmentation model: all that ``evaluation`` ever sees.

    Attributes:
        name: for messages and rows.
        input_size: side ``S`` of its frame; a :class:`core.geometry.Stretched` where images are to fill it.
    """

    name: str
    input_size: int

    def encode(self, images: Tensor) -> Features:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, C, g, g]``, or to a named set of maps."""
        ...

    def decode(self, embedding: Any, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False) -> Masks:
        """Answer prompts on one image of original size ``size_hw``, of which :meth:`encode` made ``embedding``.

        ``multimask=False`` gives one candidate a prompt (M = 1), ``multimask=True`` SAM's three (M = 3).
        """
        ...


@dataclass(frozen=True)
class ImageMasks:
    """Answers to ``N`` prompts, ``M`` candidates each, at the original image's size already.

    Attributes:
        logits: float ``[N, M, H, W]``, above 0 where the mask is; or bool, of a model that gives masks alone.
        iou_pred: float ``[N, M]``, the model's estimate of each candidate's IoU.
    """

    logits: Tensor
    iou_pred: Tensor


@runtime_checkable
class ImageSegmenter(Protocol):
    """A promptable model that takes images as they are: how it scales and normalises them is its own affair.

    ``evaluation``'s passes score it like a :class:`Segmenter`; of a model that is both, they use this side.
    """

    name: str

    def encode_image(self, image: NDArray[np.uint8]) -> Any:
        """An image uint8 ``[H, W, 3]``, RGB, to whatever :meth:`decode` needs of it. Several may exist at a time."""
        ...

    def decode(
        self, embedding: Any, prompt: Prompt, size_hw: tuple[int, int], multimask: bool = False
    ) -> Masks | ImageMasks:
        """Answer prompts (in original pixels) on one encoded image of size ``size_hw``.

        ``multimask=False`` gives one candidate a prompt (M = 1), ``multimask=True`` as many as the model has (SAM 3).
        """
        ...


@dataclass(frozen=True)
class Metric:
    """A figure with what is needed to trust it: its unit, how many instances it rests on, and an interval."""

    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None


def device_of(model: object) -> torch.device:
    """The device of a model's parameters; the CPU for anything that has none."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return torch.device("cpu") if first is None else first.device
