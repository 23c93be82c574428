"""Cutting channels out of an image encoder, keeping what the cut need not change."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compressors.prune.groups import dependency_graph, find_groups, pruning_function
from compressors.prune.traceable import from_traceable, to_traceable
from teachers.image_encoder import ImageEncoder


def prune(encoder: ImageEncoder, kept: Mapping[str, Tensor], rel_pos: str = "keep", fold: bool = True) -> ImageEncoder:
    """A smaller encoder, with only the kept channels of each named group.

    Relative positions are indexed by the kept within-head channels instead of being thrown away, and the change of
    the softmax scale (``head_dim ** -0.5``) is folded into queries and relative positions, so that removing channels
    whose weights are zero changes nothing.

    Args:
        encoder: left as it is.
        kept: group name to the sorted indices of its kept channels (see :func:`compressors.prune.selection.keep`).
        rel_pos: ``keep``, or ``reset`` to zero the tables of every encoder that is cut, as the released code does.
        fold: whether the change of the softmax scale is folded in; the released code lets the temperature change.
    """
    groups = find_groups(encoder.config)
    traceable = to_traceable(encoder)
    graph = dependency_graph(traceable)
    for name, indices in kept.items():
        group = groups[name]
        gone = sorted(set(range(group.width)) - set(indices.tolist()))
        if gone:
            layer = traceable.get_submodule(group.root)
            graph.get_pruning_group(layer, pruning_function(layer), idxs=gone).prune()

    if "embedding" in kept:
        _cut_norms(encoder, traceable, kept["embedding"])
    tables: dict[str, Tensor] = {}
    for i in range(encoder.config.depth):
        head_dim = encoder.config.attention_widths[i] // encoder.config.num_heads
        channels = kept.get(f"attention.{i}", torch.arange(head_dim))
        # The pattern is the same in every head: the first head's part of the indices tells it.
        pattern = channels[channels < head_dim]
        factor = (len(pattern) / head_dim) ** 0.5 if fold else 1.0
        with torch.no_grad():
            for parameter in traceable.get_submodule(f"blocks.{i}.attn.q").parameters():
                parameter.mul_(factor)
        for axis in "hw":
            name = f"blocks.{i}.attn.rel_pos_{axis}"
            table = encoder.get_parameter(name).detach()[:, pattern] / factor
            tables[name] = torch.zeros_like(table) if rel_pos == "reset" else table
    return from_traceable(traceable, encoder, tables).to(encoder.pos_embed.device)


@torch.no_grad()
def _cut_norms(encoder: nn.Module, traceable: nn.Module, kept: Tensor) -> None:
    """Give every layer norm the kept channels in their order.

    torch-pruning 1.6 keeps them in the order of a Python set, which is another one where few channels of many are left.
    """
    whole = encoder.state_dict()
    for name, norm in traceable.named_modules():
        if isinstance(norm, nn.LayerNorm):
            norm.weight.copy_(whole[f"{name}.weight"][kept.to(norm.weight.device)])
            norm.bias.copy_(whole[f"{name}.bias"][kept.to(norm.bias.device)])
