"""A picture into the model's frame and its answers back, in each way that published evaluations do it."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.geometry import normalise, resized_size, upscale_logits
from core.protocols import Masks, Prompt
from data.images import to_frame
from evaluation.scoring_protocol import ScoringProtocol

PIXELS_AT_ONCE = 2**24
"""Logits brought to the original size together: 64 MB of float32, whatever the number of prompts."""


def framed_size(size_hw: tuple[int, int], frame: int, rounding: str) -> tuple[int, int]:
    """Size ``(h, w)`` of a picture whose longer side was brought to the frame."""
    if rounding == "nearest":
        return resized_size(size_hw, frame)
    scale = frame / max(size_hw)
    return max(1, int(size_hw[0] * scale)), max(1, int(size_hw[1] * scale))


def framed_image(image: NDArray[np.uint8], frame: int, framing: tuple[str, str]) -> Tensor:
    """A picture uint8 ``[H, W, 3]`` as the model's input, float32 ``[3, frame, frame]``.

    Args:
        framing: :attr:`ScoringProtocol.framing`.
    """
    if framing == ("pillow", "nearest"):
        return to_frame(image, frame)
    resize, rounding = framing
    height, width = framed_size((image.shape[0], image.shape[1]), frame, rounding)
    if resize == "pillow":
        resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return normalise(torch.from_numpy(resized).permute(2, 0, 1), frame)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized_pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return normalise(resized_pixels[0], frame)


def placed_prompt(prompt: Prompt, size_hw: tuple[int, int], frame: int, rounding: str) -> Prompt:
    """A prompt such that a segmenter, which rounds to the nearest, puts it where ``rounding`` has it."""
    if rounding == "nearest":
        return prompt
    wanted, own = framed_size(size_hw, frame, rounding), resized_size(size_hw, frame)
    ratio = torch.tensor([wanted[1] / own[1], wanted[0] / own[0]])
    boxes = None if prompt.boxes_xyxy is None else prompt.boxes_xyxy * ratio.repeat(2)
    points = None if prompt.points_xy is None else prompt.points_xy * ratio
    return Prompt(boxes, points, prompt.labels, prompt.mask_logits)


def upscaled(masks: Masks, size_hw: tuple[int, int], protocol: ScoringProtocol) -> Tensor:
    """Logits ``[N, M, l, l]`` at the original size, float32 ``[N, M, H, W]``."""
    if (protocol.rounding, protocol.upscaling) == ("nearest", "frame"):
        return upscale_logits(masks.logits, size_hw, masks.frame)
    height, width = framed_size(size_hw, masks.frame, protocol.rounding)
    logits, side = masks.logits.float(), masks.logits.shape[-1]
    if protocol.upscaling == "frame":
        logits = F.interpolate(logits, (masks.frame, masks.frame), mode="bilinear", align_corners=False)
        side = masks.frame
    rows, columns = (max(1, round(part * side / masks.frame)) for part in (height, width))
    return F.interpolate(logits[..., :rows, :columns], tuple(size_hw), mode="bilinear", align_corners=False)


def upscaled_in_parts(
    masks: Masks, size_hw: tuple[int, int], protocol: ScoringProtocol
) -> Iterator[tuple[slice, Tensor]]:
    """Which prompts, and their :func:`upscaled` logits, so few at a time that memory stays bounded."""
    count, candidates = masks.logits.shape[:2]
    pixels = candidates * max(size_hw[0] * size_hw[1], masks.frame**2)
    step = max(1, PIXELS_AT_ONCE // pixels)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        yield part, upscaled(Masks(masks.logits[part], masks.iou_pred[part], masks.frame), size_hw, protocol)


def framed_truth(truth: Tensor, frame: int) -> Tensor:
    """Masks bool ``[N, H, W]`` brought to the frame (nearest) and back (bilinear, above 0), as EdgeSAM's evaluation."""
    size_hw = (truth.shape[1], truth.shape[2])
    small = F.interpolate(truth[:, None].float(), resized_size(size_hw, frame), mode="nearest")
    return F.interpolate(small, size_hw, mode="bilinear", align_corners=False)[:, 0] > 0
