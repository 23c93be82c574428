"""Points that follow errors: where a person would click next (RITM's clicker)."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from core.protocols import PictureSegmenter, Prompt, Segmenter
from data.prompts import deepest_pixel
from evaluation.answers import Answers
from evaluation.framing import upscaled_in_parts
from evaluation.scoring_protocol import ScoringProtocol


def answered_to_the_last_click(
    model: Segmenter | PictureSegmenter,
    embedding: Any,
    prompt: Prompt,
    size_hw: tuple[int, int],
    protocol: ScoringProtocol,
    truth: Tensor,
) -> Answers:
    """A protocol's answers to prompts and to as many further clicks as it has.

    Args:
        embedding, prompt, size_hw: as of :class:`evaluation.answers.Answers`.
        truth: bool ``[N, H, W]``, the instances that the clicks are about.
    """
    answers = Answers(model, embedding, prompt, size_hw, protocol.rounding)
    for _ in range(protocol.clicks - 1):
        masks, _ = answers.chosen(protocol)
        parts = [(logits[:, 0] > 0).cpu() for _, logits in upscaled_in_parts(masks, size_hw, protocol)]
        prompt = with_next_clicks(prompt, torch.cat(parts), truth)
        answers = Answers(model, embedding, prompt, size_hw, protocol.rounding)
    return answers


def with_next_clicks(prompt: Prompt, answered: Tensor, truth: Tensor) -> Prompt:
    """Each prompt with one more point, in the middle of what its answer got most wrong.

    That is the pixel farthest from the border of the missed region, or of the region too much, whichever reaches
    deeper; a missed pixel is foreground. An answer without errors gets padding.

    Args:
        prompt: of points ``[N, P, 2]``.
        answered, truth: bool ``[N, H, W]``.
    """
    assert prompt.points_xy is not None and prompt.labels is not None
    points, labels = [], []
    for found, wanted in zip(answered.cpu().numpy(), truth.cpu().numpy(), strict=True):
        point, label = _next_click(found, wanted)
        points.append(point)
        labels.append(label)
    device = prompt.points_xy.device
    more = torch.tensor(points, dtype=torch.float32, device=device)[:, None]
    kinds = torch.tensor(labels, dtype=prompt.labels.dtype, device=device)[:, None]
    return Prompt(points_xy=torch.cat([prompt.points_xy, more], 1), labels=torch.cat([prompt.labels, kinds], 1))


def _next_click(found: NDArray, wanted: NDArray) -> tuple[tuple[float, float], int]:
    missed, extra = wanted & ~found, found & ~wanted
    deepest = [(deepest_pixel(part) if part.any() else None) for part in (missed, extra)]
    depth = [0.0 if part is None else part[1] for part in deepest]
    chosen = deepest[0] if depth[0] > depth[1] else deepest[1]
    if chosen is None:
        return (0.0, 0.0), -1
    return (float(chosen[0][0]), float(chosen[0][1])), int(depth[0] > depth[1])
