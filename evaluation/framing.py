"""A picture into the model's frame and its answers back, in each way that published evaluations do it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.geometry import normalise, resized_size, upscale_logits
from core.protocols import Masks, PictureMasks, PictureSegmenter, Prompt, Segmenter
from data.images import to_frame
from evaluation.scoring_protocol import ScoringProtocol

PIXELS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""Pixels of masks computed together, by type of device: on a CPU few enough that freed memory is used again instead of
asking the system for fresh pages, on a GPU enough to fill it. A single mask may have more."""
USUAL_FRAMING = ("pillow", "nearest")
"""SAM's own :attr:`ScoringProtocol.framing`."""
_ABOUT_THE_FRAME = {"resize": "tensor", "rounding": "floor", "upscaling": "direct", "truth": "frame"}
_MOST_CANDIDATES = 4


def pixels_at_once(device: torch.device) -> int:
    """How many pixels of masks to make at a time."""
    return PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"])


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
    if framing == USUAL_FRAMING:
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


def upscaled(masks: Masks | PictureMasks, size_hw: tuple[int, int], protocol: ScoringProtocol) -> Tensor:
    """Logits at the original size, float32 ``[N, M, H, W]``; as they are where they have that size already."""
    if isinstance(masks, PictureMasks):
        return masks.logits
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
    masks: Masks | PictureMasks, size_hw: tuple[int, int], protocol: ScoringProtocol
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


def most_prompts(model: Segmenter | PictureSegmenter, size_hw: tuple[int, int]) -> int | None:
    """How many prompts to decode at a time, at most, where answers may have the original size; else None."""
    if not isinstance(model, PictureSegmenter):
        return None
    return max(1, PIXELS_AT_ONCE["cpu"] // (_MOST_CANDIDATES * size_hw[0] * size_hw[1]))


def check_framing(model: Segmenter | PictureSegmenter, protocols: Sequence[ScoringProtocol]) -> None:
    """Refuse protocols that say how pictures come into the frame, of a model that takes pictures as they are.

    Raises:
        InputError: there is such a protocol.
    """
    if not isinstance(model, PictureSegmenter):
        return
    for protocol in protocols:
        for axis, value in _ABOUT_THE_FRAME.items():
            if getattr(protocol, axis) == value:
                raise InputError(
                    f"{protocol.name}: {axis}={value} needs a model that is given frames, but {model.name} takes "
                    "pictures as they are; choose another protocol"
                )


def framed_truth(truth: Tensor, frame: int) -> Tensor:
    """Masks bool ``[N, H, W]`` brought to the frame (nearest) and back (bilinear, above 0), as EdgeSAM's evaluation."""
    size_hw = (truth.shape[1], truth.shape[2])
    small = F.interpolate(truth[:, None].float(), resized_size(size_hw, frame), mode="nearest")
    return F.interpolate(small, size_hw, mode="bilinear", align_corners=False)[:, 0] > 0
