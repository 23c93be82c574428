"""Images and coordinates into the model's frame, under the names that users of ``segment_anything`` know."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from core.errors import InputError
from core.geometry import boxes_to_frame, points_to_frame, resized_size
from data.images import resized_image


class ResizeLongestSide:
    """Images and pixels of the original image to those of the frame, whose side is the image's longer side.

    Args:
        target_length: side of the frame.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image uint8 ``[H, W, 3]`` with its longer side at the frame's: uint8 ``[h, w, 3]``.

        Raises:
            InputError: another type or shape.
        """
        check_image(image)
        return resized_image(image, self.target_length)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` with their longer side at the frame's, same dtype and device: ``[B, C, h, w]``.

        Bilinear with antialiasing, which is not exactly what :meth:`apply_image` does. ``segment_anything`` 1.0 takes
        ``B`` and ``C`` for height and width; this does what its documentation says.

        Raises:
            InputError: another shape.
        """
        if image.ndim != 4 or not image.numel():
            raise InputError(f"images must be a tensor [B, C, H, W], got {list(image.shape)}; image[None] adds B")
        size = resized_size((image.shape[2], image.shape[3]), self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float64, same shape)."""
        new_h, new_w = self.get_preprocess_shape(*original_size, self.target_length)
        return np.asarray(coords, np.float64) * (new_w / original_size[1], new_h / original_size[0])

    def apply_boxes(self, boxes: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float64]:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float64 ``[N, 4]``."""
        return self.apply_coords(np.asarray(boxes, np.float64).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float32, same shape and device)."""
        return points_to_frame(coords, original_size, self.target_length)

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float32 ``[N, 4]``, same device."""
        return boxes_to_frame(boxes.reshape(-1, 4), original_size, self.target_length)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Size ``(h, w)`` of an image of ``oldh`` by ``oldw`` pixels, its longer side at ``long_side_length``."""
        return resized_size((oldh, oldw), long_side_length)

    def original_coords(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]`` of the frame back to original pixels (float32, same shape and device)."""
        new_h, new_w = resized_size(original_size, self.target_length)
        scale = torch.tensor([original_size[1] / new_w, original_size[0] / new_h], device=coords.device)
        return coords.to(torch.float32) * scale


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is not an image as an array.

    Raises:
        InputError: not uint8 ``[H, W, 3]``, or without a pixel.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image must be a numpy array uint8 [H, W, 3], got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"an image must be uint8 [H, W, 3] with values 0..255, got {image.dtype} {list(image.shape)}")
