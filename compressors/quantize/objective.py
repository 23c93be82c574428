"""What the search for grids makes small: the distance of a layer's output, weighed by the gradient of the task loss.

The loss compares masks and predicted IoUs (TinySAM, eq. 11): ``KL(masks) + KL(IoUs)``, each pixel a Bernoulli variable.
The published setting takes its gradient where the quantised model equals the float one. There the divergence has its
minimum, so that gradient is zero and what is measured is rounding noise. Two sound ways:

- ``fisher``: masks and IoUs are drawn from the float model's own answers, and the gradient of their negative log
  likelihood is taken. It is zero on average, and its square is, on average, the diagonal of the Fisher information: the
  Hessian of the divergence at its minimum.
- ``perturbed``: the gradient is taken where it is not zero: in the model whose grids cover the full range.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.mask_decoder import Decoded

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
    iou, expected = _probability(answer.iou_pred), _probability(reference.iou_pred.detach())
    return of_masks + _bernoulli(iou.logit(), expected.logit()).sum()


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


def distance(metric: str, found: Tensor, expected: Tensor, gradient: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    """The distance over some dimensions; smaller is better.

    - ``hessian``: ``sum((G (found - expected))^2)`` with the gradient ``G`` of the task loss (PTQ4ViT, eq. 9): the
      squared gradient stands for the diagonal of the Hessian.
    - ``mse``: the same with ``G = 1``.
    - ``cosine``: one minus the cosine of the angle between the two.

    Args:
        found, expected, gradient: float32, one shape.
        dims: the dimensions that are summed over.
    """
    if metric == "cosine":
        product = (found * expected).sum(dims)
        norms = found.square().sum(dims) * expected.square().sum(dims)
        return 1 - product / norms.sqrt().clamp(min=1e-12)
    error = found - expected
    # Where no loss depends on a layer, all its errors count alike.
    if metric == "hessian" and gradient is not None:
        error.mul_(gradient)
    return error.square_().sum(dims)


def best_of(candidates: list[Tensor], score: Callable[[Tensor], Tensor]) -> Tensor:
    """The best candidate, for each entry of a scale on its own.

    Args:
        candidates: scales, all of one shape.
        score: of a candidate; of the scale's shape (or one that broadcasts to it), smaller is better.
    """
    scores = torch.stack([score(candidate).expand(candidate.shape) for candidate in candidates])
    # A distance that is not a number never wins.
    index = torch.nan_to_num(scores, nan=torch.inf).argmin(0)
    return torch.stack(candidates).gather(0, index[None])[0]
