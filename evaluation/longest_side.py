"""Coordinates into the model's frame, under the names that users of ``segment_anything`` know."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from core.geometry import boxes_to_frame, points_to_frame, resized_size


class ResizeLongestSide:
    """Pixels of the original image to pixels of the frame, whose side is the picture's longer side.

    Args:
        target_length: side of the frame.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_coords(self, coords: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float32]:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float32, same shape)."""
        return self.apply_coords_torch(torch.from_numpy(np.asarray(coords, np.float32)), original_size).numpy()

    def apply_boxes(self, boxes: ArrayLike, original_size: tuple[int, int]) -> NDArray[np.float32]:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float32 ``[N, 4]``."""
        return self.apply_boxes_torch(torch.from_numpy(np.asarray(boxes, np.float32)), original_size).numpy()

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]``, xy in original pixels, to the frame (float32, same shape and device)."""
        return points_to_frame(coords, original_size, self.target_length)

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Boxes ``[..., 4]``, xyxy in original pixels, to the frame: float32 ``[N, 4]``, same device."""
        return boxes_to_frame(boxes.reshape(-1, 4), original_size, self.target_length)

    def original_coords(self, coords: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Points ``[..., 2]`` of the frame back to original pixels (float32, same shape and device)."""
        new_h, new_w = resized_size(original_size, self.target_length)
        scale = torch.tensor([original_size[1] / new_w, original_size[0] / new_h], device=coords.device)
        return coords.to(torch.float32) * scale
