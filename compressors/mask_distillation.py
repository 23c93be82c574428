"""A teacher's masks as targets: prompts on unlabelled pictures, the teacher's answers, and the loss of a student's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.candidates import best_of_three
from compressors.distill.losses import FOCAL_SHARE, dice_loss, focal_loss
from core.protocols import Prompt
from core.seeding import generator_for
from teachers.sam import Sam


@dataclass(frozen=True)
class Asked:
    """Prompts and the teacher's answers, those of one picture together.

    Attributes:
        prompt: ``B * K`` prompts in the model's frame.
        logits: ``[B * K, 4, l, l]``, all four candidates.
        iou_pred: ``[B * K, 4]``.
        counts: bool ``[B * K]``: prompts that have an answer worth learning (boxes of empty masks have none).
    """

    prompt: Prompt
    logits: Tensor
    iou_pred: Tensor
    counts: Tensor


def ask(teacher: Sam, embeddings: Tensor, valid: Tensor, points: int, seed: int, step: int) -> tuple[Asked, Asked]:
    """Ask the teacher about random points of each picture, and about the boxes of the masks it answers with.

    Args:
        embeddings: the teacher's, ``[B, C, g, g]``.
        valid: bool ``[B, g, g]``, the cells that hold picture; points fall there.
        points: prompts of each kind a picture.
        seed, step: what the points are drawn from.
    """
    generator = generator_for(seed, "mask prompts", step)
    drawn = torch.rand(len(embeddings), points, 1, 2, generator=generator).to(embeddings.device)
    # Valid cells are a rectangle in the upper left corner: its width and height, in the frame.
    cell = teacher.input_size / valid.shape[-1]
    size = torch.stack([valid.any(1).sum(1), valid.any(2).sum(1)], 1) * cell
    xy = (drawn * size[:, None, None]).flatten(0, 1)
    by_points = Prompt.foreground(xy)
    with torch.no_grad():
        first = teacher.decode_frame(embeddings, by_points)
        masks = best_of_three(first.logits, first.iou_pred)
        by_boxes = Prompt(boxes_xyxy=_boxes(masks, teacher.input_size))
        second = teacher.decode_frame(embeddings, by_boxes)
    every_one = torch.ones(len(xy), dtype=torch.bool, device=xy.device)
    return (
        Asked(by_points, first.logits.float(), first.iou_pred.float(), every_one),
        Asked(by_boxes, second.logits.float(), second.iou_pred.float(), masks.flatten(1).any(1)),
    )


def mask_loss(student: Sam, embeddings: Tensor, asked: tuple[Asked, Asked]) -> dict[str, Tensor]:
    """SAM's loss (focal 20, dice 1, squared error of predicted IoUs 1) of a student against the teacher's answers.

    Points are compared in all four candidates, boxes in the single one. Every picture counts alike.

    Args:
        embeddings: the student's, ``[B, C, g, g]``.
    """
    terms: dict[str, Tensor] = {}
    for name, part, kept in (("point", asked[0], slice(None)), ("box", asked[1], slice(0, 1))):
        found = student.decode_frame(embeddings, part.prompt)
        logits, targets = found.logits[:, kept].float(), (part.logits[:, kept] > 0).float()
        weight = part.counts.float()
        share = weight / len(weight)
        masks = FOCAL_SHARE * focal_loss(logits, targets) + dice_loss(logits, targets)
        terms[f"{name}_masks"] = (masks.mean(1) * share).sum()
        squared = (found.iou_pred[:, kept].float() - part.iou_pred[:, kept]).square()
        terms[f"{name}_iou"] = (squared.mean(1) * share).sum()
    return terms


def _boxes(masks: Tensor, frame: int) -> Tensor:
    """Tight boxes of masks ``[N, l, l]`` in the frame, ``[N, 4]``; the whole frame for an empty mask."""
    side = masks.shape[-1]
    places = torch.arange(side, device=masks.device)
    corners = []
    for axis in (1, 2):
        occupied = masks.any(axis)
        low = torch.where(occupied, places, side).amin(1)
        high = torch.where(occupied, places + 1, 0).amax(1)
        empty = high <= low
        corners.append((torch.where(empty, 0, low), torch.where(empty, side, high)))
    (left, right), (top, bottom) = corners
    return torch.stack([left, top, right, bottom], 1).float() * (frame / side)
