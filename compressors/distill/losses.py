"""Losses on masks, predicted IoUs and embeddings. All reduce to one number, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core import processes

FOCAL_SHARE = 20.0
"""Segment Anything's loss on masks weighs the focal part so many times its dice part."""
_GAMMA, _ALPHA = 2.0, 0.25


def mask_cells(coverage: Tensor) -> Tensor:
    """The cells that are mask: covered by half at least, or as much as any where none is (tiny masks).

    Args:
        coverage: ``[..., l, l]`` in [0, 1].

    Returns:
        bool, same shape; none where the coverage is zero throughout.
    """
    most = coverage.flatten(-2).amax(-1)[..., None, None]
    return (coverage >= most.clamp(max=0.5)) & (coverage > 0)


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded logits with a target, no gradient.

    Args:
        logits: ``[..., h, w]``.
        target: coverage in [0, 1], same shape; :func:`mask_cells` of it count as mask, as they do for prompts.

    Returns:
        float ``[...]``; 1 where both are empty.
    """
    predicted, expected = logits > 0, mask_cells(target)
    union = (predicted | expected).flatten(-2).sum(-1)
    intersection = (predicted & expected).flatten(-2).sum(-1)
    return torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union, dtype=torch.float32))


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 5, gamma 2, alpha 1/4) of each mask, for soft targets.

    Args:
        logits: ``[..., h, w]``.
        target: coverage in [0, 1], same shape.

    Returns:
        ``[...]``, the mean over cells.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # |p - t| is 1 - p_t for hard targets and keeps soft ones meaningful.
    hardness = (logits.sigmoid() - target).abs() ** _GAMMA
    weight = _ALPHA * target + (1 - _ALPHA) * (1 - target)
    return (weight * hardness * cross_entropy).flatten(-2).mean(-1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss (Milletari et al. 2016) of each mask: ``[..., h, w]`` to ``[...]``."""
    probability = logits.sigmoid().flatten(-2)
    target = target.flatten(-2)
    overlap = 2 * (probability * target).sum(-1) + 1
    return 1 - overlap / (probability.sum(-1) + target.sum(-1) + 1)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of each mask: ``[..., h, w]`` to ``[...]``."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(-2).mean(-1)


def embedding_mse(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error of image embeddings over the cells that hold image, each image counting alike.

    Args:
        student, teacher: ``[B, C, g, g]``.
        valid: bool ``[B, g, g]`` (see :func:`core.geometry.valid_cells`); None counts every cell.
    """
    return over_cells((student.float() - teacher.float()).square().mean(1), valid)


def embedding_l1(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error of image embeddings; otherwise as :func:`embedding_mse`."""
    return over_cells((student.float() - teacher.float()).abs().mean(1), valid)


def over_cells(errors: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of errors ``[B, g, g]`` over valid cells, then over images; over all cells where ``valid`` is None."""
    if valid is None:
        return errors.mean()
    weight = valid.to(errors.dtype)
    # By image, so that parts of a batch average to the whole, on one device or on many.
    return ((errors * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).mean()


def embedding_rmse(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """The third-party MobileSAM training code's loss: the root of the squared error summed over channels.

    The mean over cells (over those that hold image, where ``valid`` is given) and images is taken under the root, and
    the images are those of all processes. Args as of :func:`embedding_mse`.
    """
    own = embedding_mse(student, teacher, valid) * student.shape[1]
    if processes.count() == 1:
        return own.sqrt()
    root = processes.stacked(own.detach()).mean().sqrt()
    # The mean over processes of this, and of its gradient, is that of the root.
    return (own / root + root) / 2
