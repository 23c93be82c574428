"""Batch normalisations folded into the convolutions before them, which leaves what a model computes as it is."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from students.quantized.layers import is_quantisable


def foldable(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Paths of convolutions and of the normalisations that stand right after them in the same module.

    Being next to each other is a sign only: in RepViT a sum of several branches stands between. So the model is run,
    and a pair counts whose normalisation is given what its convolution gave.

    Args:
        images: what the model is run on.
    """
    pairs: list[tuple[str, str]] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for (first, conv), (second, norm) in itertools.pairwise(module.named_children()):
            if (
                isinstance(conv, nn.Conv2d)
                and is_quantisable(conv)
                and isinstance(norm, nn.BatchNorm2d)
                and norm.num_features == conv.out_channels
                and norm.running_var is not None
            ):
                pairs.append((prefix + first, prefix + second))
    if not pairs:
        return []
    # A copy, so that no statistics are taken of these images.
    copied = copy.deepcopy(model).eval()
    given: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}
    for first, second in pairs:
        conv, norm = copied.get_submodule(first), copied.get_submodule(second)
        conv.register_forward_hook(lambda _, args, output, path=first: given.__setitem__(path, output))
        norm.register_forward_pre_hook(lambda _, args, path=second: taken.__setitem__(path, args[0]))
    with torch.no_grad():
        copied(images)
    return [(first, second) for first, second in pairs if first in given and taken.get(second) is given[first]]


def fold(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold each normalisation into its convolution, in place; an activation that it holds stays in its stead.

    Raises:
        AttributeError, ValueError: a path does not lead to such a layer.
    """
    for conv_path, norm_path in pairs:
        conv: Any = model.get_submodule(conv_path)
        norm: Any = model.get_submodule(norm_path)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            raise ValueError(f"{conv_path} and {norm_path} are no convolution and its normalisation")
        with torch.no_grad():
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            factor = (variance + norm.eps).rsqrt()
            factor = factor if norm.weight is None else factor * norm.weight
            bias = -mean * factor if conv.bias is None else (conv.bias - mean) * factor
            bias = bias if norm.bias is None else bias + norm.bias
            conv.weight = nn.Parameter(conv.weight * factor[:, None, None, None], requires_grad=False)
            conv.bias = nn.Parameter(bias, requires_grad=False)
        parent, _, name = norm_path.rpartition(".")
        # timm's normalisations may end in their activation.
        setattr(model.get_submodule(parent), name, getattr(norm, "act", None) or nn.Identity())
