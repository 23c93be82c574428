"""How much each channel matters: one score a channel of a group, higher is kept; and the gradients behind it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressors.distill.losses import FOCAL_SHARE, dice_loss, embedding_mse, focal_loss
from compressors.prune.groups import Group, Member, split_qkv
from core.errors import InputError
from core.feature_maps import packed
from core.geometry import upscale_logits
from core.protocols import Prompt
from core.seeding import generator_for
from data.batches import ImageBatch
from data.images import to_frame
from data.prompts import central_point
from data.sample import ImageSample
from teachers.sam import Sam

LOST = 0.01
"""Share of an embedding's values that may stay as they are when it is disturbed; of noise that is seen, none does."""
MASKS_PER_IMAGE = 16
"""Instances of an image whose masks the task's loss looks at, the first ones."""


@dataclass(frozen=True)
class Gradients:
    """Of every parameter of an encoder, by name, over all images.

    Attributes:
        sums: gradients added up with their signs, as in the reference.
        squares: their squares added up batch by batch (image by image where labels are read).
        joint: by group, the squares of its channels' :func:`joint_gradient` added up likewise: float ``[width]``.
    """

    sums: dict[str, Tensor]
    squares: dict[str, Tensor]
    joint: dict[str, Tensor] = field(default_factory=dict)


def disturbed_gradients(
    encoder: nn.Module,
    batches: Iterable[ImageBatch],
    noise: float,
    seed: int,
    on_batch: Callable[[], None] | None = None,
) -> Gradients:
    """Gradients of the disturbed loss (SlimSAM, section 3.3): label-free, and not zero where student equals teacher.

    The target is the encoder's own embedding plus Gaussian noise of standard deviation ``noise``, so the loss is
    ``MSE(t + eps, t)`` and its gradient ``-(2 / N) J^T eps``: a random probe of how much each weight moves the
    embedding. Cells of padding are left out. Every image counts alike, those of a last, smaller batch too.

    Raises:
        InputError: the noise is so small that it is lost beside the embedding's values.
    """

    def losses() -> Iterator[Tensor]:
        full = 0
        for number, batch in enumerate(batches):
            full = full or len(batch.names)
            # Several maps count as one, the cells of finer ones as channels.
            embedding = packed(encoder(batch.images))
            eps = torch.randn(embedding.shape, generator=generator_for(seed, "disturbance", number))
            disturbed = embedding.detach() + noise * eps.to(embedding.device)
            if (share := float((disturbed == embedding).float().mean())) > LOST:
                enough = float(embedding.detach().abs().mean()) / 100
                raise InputError(
                    f"method.noise={noise:g} is lost in the rounding of {share:.0%} of the embedding's values, so that "
                    f"channels would be scored by the others alone; give a larger one, such as {enough:.1g}"
                )
            # A mean over the batch.
            yield embedding_mse(embedding, disturbed, batch.valid) * (len(batch.names) / full)

    return _summed(encoder, losses(), on_batch)


def label_gradients(
    sam: Sam,
    encoder: nn.Module,
    samples: Iterable[ImageSample],
    on_image: Callable[[], None] | None = None,
    groups: Sequence[Group] = (),
) -> Gradients:
    """Gradients of SAM's loss on annotated masks (focal 20, dice 1), as "Taylor" and "Hessian" pruning need them.

    Up to ``MASKS_PER_IMAGE`` instances an image, each prompted by its box and by its central point and answered by the
    single mask. Images without instances are passed over.

    Args:
        sam: whose prompt encoder and mask decoder answer.
        encoder: whose gradients are taken.
        groups: those whose joint gradients are needed.

    Raises:
        InputError: no image has an instance, so that every channel would score the same.
    """
    device, looked_at, used = next(encoder.parameters()).device, 0, 0

    def losses() -> Iterator[Tensor]:
        nonlocal looked_at, used
        for sample in samples:
            looked_at += 1
            if not len(sample.masks):
                continue
            used += 1
            size_hw = (sample.image.shape[0], sample.image.shape[1])
            masks = torch.from_numpy(sample.masks[:MASKS_PER_IMAGE]).to(device).float()[:, None]
            embedding = encoder(to_frame(sample.image, sam.input_size)[None].to(device))
            terms = []
            for prompt in _prompts(sample):
                answer = sam.decode(embedding, prompt.to(device), size_hw)
                logits = upscale_logits(answer.logits.float(), size_hw, answer.frame)
                terms += [FOCAL_SHARE * focal_loss(logits, masks).mean(), dice_loss(logits, masks).mean()]
            yield torch.stack(terms).sum()

    gradients = _summed(encoder, losses(), on_image, groups)
    if not used:
        raise InputError(
            f"none of the {looked_at} images that are looked at has an annotated instance to score channels by; give "
            "a larger method.importance_images, or method.importance=disturbed_taylor, which reads no labels"
        )
    return gradients


def _prompts(sample: ImageSample) -> tuple[Prompt, Prompt]:
    count = min(len(sample.masks), MASKS_PER_IMAGE)
    points = [torch.from_numpy(central_point(mask)).float() for mask in sample.masks[:count]]
    return (
        Prompt(boxes_xyxy=torch.from_numpy(sample.boxes_xyxy[:count]).float()),
        Prompt.foreground(torch.stack(points)[:, None]),
    )


def _summed(
    encoder: nn.Module,
    losses: Iterator[Tensor],
    on_loss: Callable[[], None] | None,
    groups: Sequence[Group] = (),
) -> Gradients:
    parameters = dict(encoder.named_parameters())
    weights = split_qkv({name: parameter.detach() for name, parameter in parameters.items()})
    joint = {group.name: torch.zeros(group.width, device=next(encoder.parameters()).device) for group in groups}
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with _trainable(encoder):
        for loss in losses:
            found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            for name, gradient in found.items():
                sums[name] += gradient
                squares[name] += gradient.square()
            for group in groups:
                joint[group.name] += joint_gradient(group, weights, split_qkv(found)).square()
            if on_loss:
                on_loss()
    return Gradients(sums, squares, joint)


@contextmanager
def _trainable(encoder: nn.Module) -> Iterator[None]:
    before = {parameter: parameter.requires_grad for parameter in encoder.parameters()}
    encoder.requires_grad_(True).eval()
    try:
        yield
    finally:
        for parameter, was in before.items():
            parameter.requires_grad_(was)


Weights = Mapping[str, Tensor]
LABELLED = ("taylor", "hessian", "group_fisher")
"""Those that rest on the gradients of a loss on annotated masks."""


def taylor_scores(group: Group, weights: Weights, sums: Weights) -> Tensor:
    """First-order Taylor scores ``|w g|`` (SlimSAM, eq. 1), averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: (weights[m.name] * sums[m.name]).abs() for m in group.members})


def hessian_scores(group: Group, weights: Weights, squares: Weights) -> Tensor:
    """Second-order scores ``w^2 h / 2`` (LeCun et al. 1990), averaged over the members: float ``[width]``.

    The diagonal ``h`` of the Hessian is that of the empirical Fisher matrix: squared gradients, image by image.
    """
    return _mean_over_members(group, {m.name: weights[m.name].square() * squares[m.name] / 2 for m in group.members})


def joint_gradient(group: Group, weights: Weights, gradients: Weights) -> Tensor:
    """The gradient by one mask on what all layers behind a channel take in: float ``[width]``.

    A mask on an input channel of a linear layer or a convolution has the gradient ``sum(w g)`` over the weights of that
    input; the layers that make the channel have no part in it (Liu et al. 2021, section 3.2). Channels of queries and
    keys meet in a product that has no weights: the mask is on it once, on the queries, with the relative positions
    that these meet; ``sum(w g)`` over their rows, biases included, is its gradient.

    It is one sum over these layers, and over the slices that keep one pattern, so that what compensates in it does so
    before anything is squared. Each slice has the sum's share of its channel (its square root's, so that the slices'
    squares add up to the square of the sum).
    """
    members = [member for member in group.members if member.axis == 1]
    if group.name.startswith("attention"):
        members += [Member(name, 0) for kind in ("weight", "bias") if (name := f"{group.root}.{kind}") in weights]
    products = [_by_channel(weights[m.name] * gradients[m.name], m) for m in members]
    of_pattern = torch.stack(products).sum(0).reshape(group.slices, -1).sum(0)
    return (of_pattern / group.slices**0.5).repeat(group.slices)


def group_fisher_scores(joint: Tensor) -> Tensor:
    """Group Fisher scores (Liu et al. 2021, arXiv 2108.00708): float ``[width]``.

    Half the sum over images of the squared gradient by the mask that coupled channels share, the diagonal of the
    Fisher matrix of masks. :func:`hessian_scores` squares weight by weight instead.

    Args:
        joint: ``[width]``, squares of :func:`joint_gradient` added up image by image.
    """
    return joint / 2


def magnitude_scores(group: Group, weights: Weights) -> Tensor:
    """Squared magnitude, averaged over the members: float ``[width]``."""
    return _mean_over_members(group, {m.name: weights[m.name].square() for m in group.members})


def random_scores(group: Group, seed: int) -> Tensor:
    """Uniform random scores: float ``[width]``."""
    return torch.rand(group.width, generator=generator_for(seed, "random importance", group.name))


def score(importance: str, group: Group, encoder: nn.Module, gradients: Gradients | None, seed: int) -> Tensor:
    """Scores of a group by the name of the criterion.

    Args:
        importance: one of :data:`compressors.settings.IMPORTANCE`.
        gradients: of the encoder's parameters; not needed by ``magnitude`` and ``random``, and with the group's joint
            gradient for ``group_fisher``.
    """
    if importance == "random":
        return random_scores(group, seed)
    weights = split_qkv({name: parameter.detach() for name, parameter in encoder.named_parameters()})
    if importance == "magnitude":
        return magnitude_scores(group, weights)
    if gradients is None:
        raise ValueError(f"importance {importance} needs gradients")
    if importance == "group_fisher":
        return group_fisher_scores(gradients.joint[group.name])
    if importance == "hessian":
        return hessian_scores(group, weights, split_qkv(gradients.squares))
    return taylor_scores(group, weights, split_qkv(gradients.sums))


def _mean_over_members(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([_by_channel(values[m.name], m) for m in group.members]).mean(0)


def _by_channel(values: Tensor, member: Member) -> Tensor:
    """Values of a weight summed for each channel of its group: ``[width]``."""
    return values.transpose(0, member.axis).reshape(values.shape[member.axis], -1).sum(1)
