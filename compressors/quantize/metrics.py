"""How far a layer's quantised output is from its float one: what a search makes small."""

from collections.abc import Callable

import torch
from torch import Tensor

METRICS = ("hessian", "mse", "cosine", "minmax")


def distance(metric: str, found: Tensor, wanted: Tensor, gradient: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    """The distance over some dimensions; smaller is better.

    - ``hessian``: ``sum((G (found - wanted))^2)`` with the gradient ``G`` of the task loss (PTQ4ViT, eq. 9; TinySAM,
      eq. 12): the squared gradient stands for the diagonal of the Hessian.
    - ``mse``: the same with ``G = 1``.
    - ``cosine``: one minus the cosine of the angle between the two.

    Args:
        found, wanted, gradient: float32, one shape.
        dims: the dimensions that are summed over.
    """
    if metric == "cosine":
        product = (found * wanted).sum(dims)
        norms = found.square().sum(dims) * wanted.square().sum(dims)
        return 1 - product / norms.sqrt().clamp(min=1e-12)
    error = found - wanted
    # Where no loss depends on a layer, all its errors count alike.
    if metric == "hessian" and gradient is not None:
        error = error * gradient
    return error.square().sum(dims)


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
