"""Losses on masks, predicted IoUs and embeddings. All reduce to one number, in float32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from core import distributed
from core.feature_layout import EMBEDDING
from core.feature_maps import Features, maps_of

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


def embedding_mse(
    student: Features, teacher: Features, valid: Tensor | None = None, high_res: float | None = None
) -> Tensor:
    """Mean squared error of image embeddings over the cells that hold image, each image counting alike.

    Args:
        student, teacher: ``[B, C, g, g]``; of several maps the errors are added up.
        valid: bool ``[B, g, g]`` (see :func:`core.geometry.valid_cells`); None counts every cell.
        high_res: weight of each map beside the embedding; None: 1.
    """
    return _over_maps(student, teacher, valid, lambda errors, channels: errors, Tensor.square, high_res)


def embedding_l1(student: Features, teacher: Features, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error of image embeddings; otherwise as :func:`embedding_mse`."""
    return _over_maps(student, teacher, valid, lambda errors, channels: errors, Tensor.abs)


def embedding_rmse(
    student: Features, teacher: Features, valid: Tensor | None = None, high_res: float | None = None
) -> Tensor:
    """The third-party MobileSAM training code's loss: the root of the squared error summed over channels.

    The mean over cells (over those that hold image, where ``valid`` is given) and images is taken under the root, and
    the images are those of all processes. Args as of :func:`embedding_mse`.
    """
    return _over_maps(student, teacher, valid, _root, Tensor.square, high_res)


def _root(error: Tensor, channels: int) -> Tensor:
    own = error * channels
    if distributed.count() == 1:
        return own.sqrt()
    root = distributed.stacked(own.detach()).mean().sqrt()
    # The mean over processes of this, and of its gradient, is that of the root.
    return (own / root + root) / 2


def _over_maps(
    student: Features,
    teacher: Features,
    valid: Tensor | None,
    reduced: Callable[[Tensor, int], Tensor],
    error: Callable[[Tensor], Tensor],
    high_res: float | None = None,
) -> Tensor:
    """The weighted sum over maps of what ``reduced`` makes of a map's mean error and its number of channels."""
    ours, theirs = maps_of(student), maps_of(teacher)
    if ours.keys() != theirs.keys():
        raise ValueError(f"the student gives {', '.join(ours)}, the teacher {', '.join(theirs)}")
    terms = []
    for name, found in ours.items():
        errors = error(found.float() - theirs[name].float()).mean(1)
        term = reduced(over_cells(errors, valid), found.shape[1])
        terms.append(term if high_res is None or name == EMBEDDING else high_res * term)
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def over_cells(errors: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of errors ``[B, h, w]`` over valid cells ``[B, g, g]``, then over images; None: all cells."""
    if valid is None:
        return errors.mean()
    if (scale := errors.shape[-1] // valid.shape[-1]) > 1:
        valid = valid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    weight = valid.to(errors.dtype)
    # By image, so that parts of a batch average to the whole, on one device or on many.
    return ((errors * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).mean()
