"""The task loss behind the hessian metric, and gradients of it that are not zero.

The loss compares masks and predicted IoUs (TinySAM, eq. 11): ``KL(masks) + KL(IoUs)``, each pixel a Bernoulli variable.
The published setting takes its gradient where the quantised model equals the float one. There the divergence has its
minimum, so that gradient is zero and what is measured is rounding noise. Two sound ways:

- ``fisher``: masks and IoUs are drawn from the float model's own answers, and the gradient of their negative log
  likelihood is taken. It is zero on average, and its square is, on average, the diagonal of the Fisher information: the
  Hessian of the divergence at its minimum.
- ``perturbed``: the gradient is taken where it is not zero: in the model whose grids cover the full range.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.mask_decoder import Decoded

GRADIENTS = ("fisher", "perturbed", "published")
_CERTAIN = 1e-3
"""Predicted IoUs count as probabilities no nearer to 0 and 1 than this."""


def fisher_loss(answer: Decoded, generator: torch.Generator) -> Tensor:
    """Negative log likelihood of masks and IoUs drawn from the answer itself.

    A mask's pixels weigh ``1 / sqrt(pixels)``: squared, that is the mean over pixels of the Fisher information.

    Args:
        generator: on the CPU.
    """
    logits, iou = answer.logits.float(), _probability(answer.iou_pred)
    masks = _drawn(logits.detach().sigmoid(), generator)
    ious = _drawn(iou.detach(), generator)
    pixels = logits.shape[-1] * logits.shape[-2]
    of_masks = F.binary_cross_entropy_with_logits(logits, masks, reduction="sum") / pixels**0.5
    return of_masks + F.binary_cross_entropy(iou, ious, reduction="sum")


def divergence(answer: Decoded, reference: Decoded) -> Tensor:
    """``KL(reference || answer)``: of masks, the mean over pixels; of predicted IoUs; summed over candidates.

    Args:
        reference: the float model's, without gradient.
    """
    logits, target = answer.logits.float(), reference.logits.detach().float()
    of_masks = (_bernoulli(logits, target)).mean((-2, -1)).sum()
    iou, wanted = _probability(answer.iou_pred), _probability(reference.iou_pred.detach())
    return of_masks + _bernoulli(iou.logit(), wanted.logit()).sum()


def _bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    """``KL(target || found)`` of Bernoulli variables given by logits."""
    probability = target.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(target, probability, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, probability, reduction="none") - entropy


def _probability(iou: Tensor) -> Tensor:
    return iou.float().clamp(_CERTAIN, 1 - _CERTAIN)


def _drawn(probability: Tensor, generator: torch.Generator) -> Tensor:
    chance = torch.rand(probability.shape, generator=generator).to(probability.device)
    return (chance < probability).float()
