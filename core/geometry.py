"""Frames: the original image, the square frame a model sees, and the low-resolution logits it returns.

An image of size ``(h, w)`` is resized so that its longer side fills the frame, and padded with zeros at the bottom
and at the right; where the frame is :class:`Stretched`, both sides fill it. Points and boxes are ``(x, y)`` pixels;
sizes are ``(h, w)``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_MEAN = (123.675, 116.28, 103.53)
"""SAM's per-channel mean, RGB in 0..255."""
PIXEL_STD = (58.395, 57.12, 57.375)
"""SAM's per-channel standard deviation, RGB in 0..255."""


class Stretched(int):
    """Side of a frame that every image fills, whatever its proportions, as SAM 2 is given images."""


def resized_size(size_hw: tuple[int, int], frame: int) -> tuple[int, int]:
    """Size ``(h, w)`` of an image after its longer side was brought to ``frame`` (rounded half up, at least 1)."""
    if isinstance(frame, Stretched):
        return int(frame), int(frame)
    scale = frame / max(size_hw)
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))


def points_to_frame(points_xy: Tensor, size_hw: tuple[int, int], frame: int) -> Tensor:
    """Points ``[..., 2]`` in original pixels to the frame (float32, same shape)."""
    new_h, new_w = resized_size(size_hw, frame)
    scale = torch.tensor([new_w / size_hw[1], new_h / size_hw[0]], device=points_xy.device)
    return points_xy.to(torch.float32) * scale


def boxes_to_frame(boxes_xyxy: Tensor, size_hw: tuple[int, int], frame: int) -> Tensor:
    """Boxes ``[..., 4]`` (xyxy) in original pixels to the frame (float32, same shape)."""
    return points_to_frame(boxes_xyxy.unflatten(-1, (2, 2)), size_hw, frame).flatten(-2)


def normalise(pixels: Tensor, frame: int) -> Tensor:
    """A resized image ``[3, h, w]`` (0..255) as the model's input ``[3, frame, frame]``: normalised, zero-padded."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(PIXEL_STD, device=pixels.device)[:, None, None]
    normalised = (pixels.to(torch.float32) - mean) / std
    return F.pad(normalised, (0, frame - pixels.shape[-1], 0, frame - pixels.shape[-2]))


def valid_cells(size_hw: tuple[int, int], frame: int, grid: int) -> Tensor:
    """Which cells of the embedding grid hold image rather than padding: bool ``[grid, grid]``.

    A cell counts as valid when its centre lies inside the resized image; the first row and column always do.
    """
    new_h, new_w = resized_size(size_hw, frame)
    centres = (torch.arange(grid) + 0.5) * (frame / grid)
    return (centres < max(new_h, frame / grid))[:, None] & (centres < max(new_w, frame / grid))[None, :]


def upscale_logits(low_res: Tensor, size_hw: tuple[int, int], frame: int) -> Tensor:
    """Low-resolution logits ``[N, M, l, l]`` to the original image ``[N, M, H, W]`` (float32).

    As SAM does: bilinear to the frame, crop the padding, bilinear to the original size. As SAM 2 does, where the frame
    is :class:`Stretched`: bilinear to the original size.
    """
    if isinstance(frame, Stretched):
        return F.interpolate(low_res.float(), tuple(size_hw), mode="bilinear", align_corners=False)
    new_h, new_w = resized_size(size_hw, frame)
    logits = F.interpolate(low_res.float(), (frame, frame), mode="bilinear", align_corners=False)
    logits = logits[..., :new_h, :new_w]
    if (new_h, new_w) == tuple(size_hw):
        return logits
    return F.interpolate(logits, tuple(size_hw), mode="bilinear", align_corners=False)
