"""TinySAM's losses: what a student's decoder says against its teacher's, and against the annotated masks (section 3.2).

All are means over a picture's prompts, and then over pictures; one without annotations adds nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressors.distill.losses import FOCAL_SHARE, dice_loss, focal_loss, mask_iou
from teachers.mask_decoder import Decoded


@dataclass(frozen=True)
class Truth:
    """What ``N = B * K`` prompts mean.

    Attributes:
        coverage: float ``[N, l, l]`` in [0, 1].
        valid: bool ``[N, l, l]``, the cells that hold picture.
        weight: float ``[N]``, 1 / N, or 0 for prompts on pictures without annotations.
    """

    coverage: Tensor
    valid: Tensor
    weight: Tensor


def truth_of(coverage: Tensor, valid: Tensor, labelled: Tensor) -> Truth:
    """The truth of a batch.

    Args:
        coverage: ``[B, K, l, l]``.
        valid: bool ``[B, g, g]``, of the embedding's cells.
        labelled: bool ``[B]``.
    """
    pictures, prompts, side = coverage.shape[:3]
    per_cell = side // valid.shape[-1]
    fine = valid.repeat_interleave(per_cell, 1).repeat_interleave(per_cell, 2)
    weight = labelled.float().repeat_interleave(prompts) / (pictures * prompts)
    return Truth(coverage.flatten(0, 1), fine.repeat_interleave(prompts, 0), weight)


def hard_mask_weights(student_iou: Tensor, teacher_iou: Tensor, epsilon: float) -> Tensor:
    """``H = sigmoid(IoU_T / (IoU_S + epsilon) - 1)``, without gradient (eq. 6): above 1/2 where the student is behind.

    Args:
        student_iou, teacher_iou: with the annotated mask, same shape.
    """
    return torch.sigmoid(teacher_iou / (student_iou + epsilon) - 1).detach()


def token_loss(student: Decoded, teacher: Decoded, truth: Truth) -> Tensor:
    """L1 distance of the output tokens after the two-way transformer (eq. 2)."""
    distance = (student.tokens.float() - teacher.tokens.float()).abs().mean((1, 2))
    return (distance * truth.weight).sum()


def output_loss(student: Decoded, teacher: Decoded, truth: Truth, epsilon: float | None) -> Tensor:
    """L1 distance of the mask logits of all four candidates, over the cells that hold picture (eq. 3).

    Args:
        epsilon: of hard mask weighting, each candidate having its own weight (eq. 6, 7); None weighs all alike.
    """
    valid = truth.valid[:, None].float()
    errors = (student.logits.float() - teacher.logits.float()).abs() * valid
    # [N, 4]
    distance = errors.sum((2, 3)) / valid.sum((2, 3)).clamp(min=1)
    if epsilon is not None:
        targets = truth.coverage[:, None].expand_as(student.logits)
        distance = distance * hard_mask_weights(
            mask_iou(student.logits, targets), mask_iou(teacher.logits, targets), epsilon
        )
    return (distance.mean(1) * truth.weight).sum()


def annotation_losses(student: Decoded, truth: Truth) -> dict[str, Tensor]:
    """Focal and dice loss against the annotated mask, and the L1 distance of predicted and actual IoU (eq. 5).

    The single-mask answer and the best of the three others are trained, as Segment Anything does; each counts half.
    """
    logits = student.logits.float()
    targets = truth.coverage[:, None].expand_as(logits)
    parts = {"focal": FOCAL_SHARE * focal_loss(logits, targets), "dice": dice_loss(logits, targets)}
    best = (parts["focal"] + parts["dice"]).detach()[:, 1:].argmin(1, keepdim=True) + 1
    terms = {name: ((part[:, 0] + part.gather(1, best)[:, 0]) / 2 * truth.weight).sum() for name, part in parts.items()}
    distance = (student.iou_pred.float() - mask_iou(logits, targets)).abs().mean(1)
    return terms | {"iou": (distance * truth.weight).sum()}
