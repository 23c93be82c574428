"""How much each channel matters: one score a channel of a group, higher is kept."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from compressors.prune.groups import Group
from compressors.prune.traceable import split_qkv
from core.seeding import generator_for
from data.batches import ImageBatch
from teachers.image_encoder import ImageEncoder

Weights = Mapping[str, Tensor]


def disturbed_gradients(
    encoder: ImageEncoder,
    batches: Iterable[ImageBatch],
    noise: float,
    seed: int,
    on_batch: Callable[[], None] | None = None,
) -> dict[str, Tensor]:
    """Gradients of the disturbed loss (SlimSAM, section 3.3): label-free, and not zero where student equals teacher.

    The target is the encoder's own embedding plus Gaussian noise of standard deviation ``noise``, so the loss is
    ``MSE(t + eps, t)`` and its gradient ``-(2 / N) J^T eps``: a random probe of how much each weight moves the
    embedding. Gradients add up over all batches with their signs, as in the reference.

    Returns:
        The summed gradient of every parameter, by the encoder's parameter names.
    """
    parameters = dict(encoder.named_parameters())
    wanted = {name: parameter.requires_grad for name, parameter in parameters.items()}
    encoder.requires_grad_(True).eval()
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for number, batch in enumerate(batches):
        embedding = encoder(batch.images)
        eps = torch.randn(embedding.shape, generator=generator_for(seed, "disturbance", number)).to(embedding.device)
        loss = F.mse_loss(embedding, embedding.detach() + noise * eps)
        for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            sums[name] += gradient
        if on_batch:
            on_batch()
    for name, parameter in parameters.items():
        parameter.requires_grad_(wanted[name])
    return sums


def taylor_scores(group: Group, weights: Weights, gradients: Weights) -> Tensor:
    """First-order Taylor scores ``|w g|`` (SlimSAM, eq. 1), averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: (weights[m.name] * gradients[m.name]).abs() for m in group.members})


def magnitude_scores(group: Group, weights: Weights) -> Tensor:
    """Squared magnitude, averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: weights[m.name].square() for m in group.members})


def random_scores(group: Group, seed: int) -> Tensor:
    """Uniform random scores: float ``[width]``."""
    return torch.rand(group.width, generator=generator_for(seed, "random importance", group.name))


def score(
    importance: str, group: Group, encoder: ImageEncoder, gradients: Mapping[str, Tensor] | None, seed: int
) -> Tensor:
    """Scores of a group by the name of the criterion.

    Args:
        importance: ``disturbed_taylor``, ``magnitude`` or ``random``.
        gradients: by the encoder's parameter names; needed by ``disturbed_taylor``.
    """
    if importance == "random":
        return random_scores(group, seed)
    weights = split_qkv({name: parameter.detach() for name, parameter in encoder.named_parameters()})
    if importance == "magnitude":
        return magnitude_scores(group, weights)
    if gradients is None:
        raise ValueError(f"importance {importance} needs gradients")
    return taylor_scores(group, weights, split_qkv(dict(gradients)))


def keep(scores: Tensor, count: int, slices: int) -> Tensor:
    """The channels to keep, in their order: int64 ``[count]``.

    Args:
        scores: float ``[width]``.
        count: channels to keep, a multiple of ``slices``.
        slices: with more than one, scores are summed over the slices and every slice keeps the same pattern.
    """
    width = len(scores) // slices
    summed = scores.reshape(slices, width).sum(0)
    # Sorting is stable, so equal scores keep the lower index on every machine.
    pattern = summed.sort(descending=True, stable=True).indices[: count // slices].sort().values
    return (torch.arange(slices)[:, None] * width + pattern.cpu()).flatten()


def _mean_over_members(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    scores = [values[m.name].transpose(0, m.axis).flatten(1).sum(1) for m in group.members]
    return torch.stack(scores).mean(0)
