"""Batch normalisation folded into the convolution before it: one layer to quantise instead of two."""

import itertools
from typing import Any

import torch
from torch import nn


def foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Paths of convolutions and of the normalisations that stand right after them in the same module.

    Being next to each other is a sign, not a proof: whoever folds compares the model's outputs before and after.
    """
    pairs = []
    for path, module in model.named_modules():
        children = list(module.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(children):
            if (
                isinstance(conv, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and norm.num_features == conv.out_channels
                and norm.running_var is not None
            ):
                prefix = f"{path}." if path else ""
                pairs.append((prefix + first, prefix + second))
    return pairs


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
