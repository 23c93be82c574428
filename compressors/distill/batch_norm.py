"""Batch normalisation over the images of all processes: several devices compute what one would.

PyTorch's own module for this replaces those of a model and runs on accelerators alone. Here modules stay what they are,
with their parameters, buffers and names; while a model trains, their forward computes with everybody's statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from core import distributed


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model's answer to an image depends, while it trains, on the other images of the batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """While the block lasts, batch normalisation in training mode is over the images of all processes.

    Every process must run the same modules in the same order. Running statistics are then equal in all of them. In eval
    mode, and in a single process, nothing is changed.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)] if distributed.count() > 1 else []
    for layer in layers:
        # Here, since naming the compiler's part imports all of it, in every command.
        layer.forward = torch.compiler.disable(partial(_forward, layer.forward))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            # The method of its class comes to light again.
            del layer.forward


def _forward(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The forward of a layer of any class, timm's with an activation behind it too."""
    with _Synchronised():
        return forward(x)


class _Synchronised(TorchFunctionMode):
    """Puts :func:`batch_norm` in place of PyTorch's where that would take the statistics of a batch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A call of one of PyTorch's functions."""
        if func is F.batch_norm:
            return batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm` with the statistics of ``x``, ``[B, C, ...]``, over all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.is_cuda:
        about = (running_mean, running_var, eps, momentum, dist.group.WORLD, distributed.count())
        return SyncBatchNorm.apply(x, weight, bias, *about)
    normalised, mean, var, count = _Normalise.apply(x, eps)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    shape = (1, -1, *[1] * (x.ndim - 2))
    if weight is not None:
        normalised = normalised * weight.view(shape)
    return (normalised if bias is None else normalised + bias.view(shape)).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """To mean 0 and variance 1 in each channel, over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, int]:
        """``x`` ``[B, C, ...]`` normalised in float32, and its mean, (biased) variance and number of values."""
        # [C, values]
        values = x.float().transpose(0, 1).flatten(1)
        own_var, own_mean = torch.var_mean(values, 1, correction=0)
        every = distributed.stacked(torch.stack([own_mean, own_var, torch.full_like(own_mean, values.shape[1])]))
        means, variances, counts = every.unbind(1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        # Around the mean of all: a difference of sums of squares would lose digits.
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = (var + eps).rsqrt().view(shape)
        normalised = (x.float() - mean.view(shape)) * scale
        ctx.save_for_backward(normalised, scale)
        ctx.count, ctx.dtype = int(count[0]), x.dtype
        ctx.mark_non_differentiable(mean, var)
        return normalised, mean, var, ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        """Of the sum of all processes' losses; who averages gradients over processes has that of their mean."""
        normalised, scale = ctx.saved_tensors
        others = [axis for axis in range(gradient.ndim) if axis != 1]
        sums = torch.stack([gradient.sum(others), (gradient * normalised).sum(others)])
        first, second = (part.view_as(scale) / ctx.count for part in distributed.stacked(sums).sum(0))
        return (scale * (gradient - first - normalised * second)).to(ctx.dtype), None
