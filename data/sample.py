"""One image with its instances, and what every data set offers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from data.run_lengths import RunLengths
from data.tar_members import File


@dataclass(frozen=True)
class ImageSample:
    """An image and the instances annotated on it, in pixels of the original image.

    Attributes:
        image_id: the data set's own id.
        name: file name or item name, for messages.
        image: uint8 ``[H, W, 3]``, RGB.
        masks: bool ``[N, H, W]``.
        boxes_xyxy: float64 ``[N, 4]``, the annotations' boxes.
        areas: float64 ``[N]``, the annotations' areas in pixels (size classes go by these).
        annotation_ids: one id an instance, unique in the data set.
        category_ids: one id an instance, or empty where the data set's annotations name no categories.
        points_xy: float64 ``[N, 2]``, the points that annotations were made from, or None where some name none.
    """

    image_id: int
    name: str
    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float64]
    areas: NDArray[np.float64]
    annotation_ids: tuple[int, ...]
    category_ids: tuple[int, ...] = ()
    points_xy: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ScaledImage:
    """An image as training reads it.

    Attributes:
        image: uint8 ``[h, w, 3]``, RGB; perhaps decoded at a reduced scale.
        size_hw: of the original.
    """

    image: NDArray[np.uint8]
    size_hw: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return self.image.nbytes


@dataclass(frozen=True)
class EncodedSample:
    """An image and the instances annotated on it as training reads them: no mask is drawn.

    Attributes:
        image: the image.
        boxes_xyxy: float64 ``[N, 4]``, as :attr:`ImageSample.boxes_xyxy`.
        masks: as run lengths.
    """

    image: ScaledImage
    boxes_xyxy: NDArray[np.float64]
    masks: RunLengths


class UnreadableImage(InputError):
    """An image that cannot be used, of a data set that goes on without such: leave the image out.

    ``skipped`` has counted it when this is raised.
    """


class ImageData(Protocol):
    """A data set: images by index, with or without their annotations."""

    name: str

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image alone, uint8 ``[H, W, 3]`` RGB: all that label-free distillation reads.

        Raises:
            InputError: the file is missing or is not an image; the message names it.
        """
        ...

    def image_name(self, index: int) -> str:
        """File name or item name, for messages."""
        ...

    def image_id(self, index: int) -> int:
        """The data set's own id of an image, as :attr:`ImageSample.image_id`."""
        ...

    def image_file(self, index: int) -> File | None:
        """The file of an image; None where it is made and not read."""
        ...

    def annotation_file(self, index: int) -> File | None:
        """The file that holds an image's annotations, perhaps with those of others; None as for :meth:`image_file`."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What images that are made are made from; empty where they are read."""
        ...

    def sample(self, index: int) -> ImageSample:
        """The image with its instances (perhaps none).

        Raises:
            UnreadableImage: the image is to be left out (only where the data set skips such).
            InputError: as :meth:`image`, or an annotation cannot be read.
        """
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many annotations the written rules left out, by reason."""
        ...
