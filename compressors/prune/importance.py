"""How much each channel matters: one score a channel of a group, higher is kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

from compressors.prune.gradients import Gradients
from compressors.prune.groups import Group
from compressors.prune.traceable import split_qkv
from core.seeding import generator_for
from teachers.image_encoder import ImageEncoder

Weights = Mapping[str, Tensor]
IMPORTANCE = ("disturbed_taylor", "taylor", "hessian", "magnitude", "random")
LABELLED = ("taylor", "hessian")
"""Those that rest on the gradients of a loss on annotated masks."""


def taylor_scores(group: Group, weights: Weights, sums: Weights) -> Tensor:
    """First-order Taylor scores ``|w g|`` (SlimSAM, eq. 1), averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: (weights[m.name] * sums[m.name]).abs() for m in group.members})


def hessian_scores(group: Group, weights: Weights, squares: Weights) -> Tensor:
    """Second-order scores ``w^2 h / 2`` (LeCun et al. 1990), averaged over the members: float ``[width]``.

    The diagonal ``h`` of the Hessian is that of the empirical Fisher matrix: squared gradients, image by image.
    """
    return _mean_over_members(group, {m.name: weights[m.name].square() * squares[m.name] / 2 for m in group.members})


def magnitude_scores(group: Group, weights: Weights) -> Tensor:
    """Squared magnitude, averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: weights[m.name].square() for m in group.members})


def random_scores(group: Group, seed: int) -> Tensor:
    """Uniform random scores: float ``[width]``."""
    return torch.rand(group.width, generator=generator_for(seed, "random importance", group.name))


def score(importance: str, group: Group, encoder: ImageEncoder, gradients: Gradients | None, seed: int) -> Tensor:
    """Scores of a group by the name of the criterion.

    Args:
        importance: one of :data:`IMPORTANCE`.
        gradients: of the encoder's parameters; not needed by ``magnitude`` and ``random``.
    """
    if importance == "random":
        return random_scores(group, seed)
    weights = split_qkv({name: parameter.detach() for name, parameter in encoder.named_parameters()})
    if importance == "magnitude":
        return magnitude_scores(group, weights)
    if gradients is None:
        raise ValueError(f"importance {importance} needs gradients")
    if importance == "hessian":
        return hessian_scores(group, weights, split_qkv(gradients.squares))
    return taylor_scores(group, weights, split_qkv(gradients.sums))


def _mean_over_members(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    scores = [values[m.name].transpose(0, m.axis).flatten(1).sum(1) for m in group.members]
    return torch.stack(scores).mean(0)
