"""What must be pruned together: groups of channels, found by torch-pruning's dependency graph."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressors.prune.traceable import TRACED_GRID, TraceableEncoder
from teachers.image_encoder import EncoderConfig

if TYPE_CHECKING:
    # It imports timm and torchvision, which takes seconds that only what prunes waits for.
    import torch_pruning as tp


@dataclass(frozen=True)
class Member:
    """A weight, by its name in a traceable encoder, whose rows (``axis`` 0) or columns (1) belong to a group."""

    name: str
    axis: int


@dataclass(frozen=True)
class Group:
    """Channels that live and die together.

    Attributes:
        name: ``embedding``, ``attention.<block>`` or ``mlp.<block>``.
        root: the layer whose output channels define the group.
        width: number of channels.
        members: every weight matrix that has these channels; biases, norms and positions follow them unscored.
        slices: how many equal slices (heads) must keep the same pattern of channels; 1 when channels are free.
    """

    name: str
    root: str
    width: int
    members: tuple[Member, ...]
    slices: int = 1


def dependency_graph(model: TraceableEncoder) -> "tp.DependencyGraph":
    """Trace a traceable encoder (on the CPU, a few tokens)."""
    import torch_pruning as tp

    side = TRACED_GRID * model.config.patch_size
    example = torch.zeros(1, 3, side, side)
    return tp.DependencyGraph().build_dependency(
        model, example, unwrapped_parameters=[(model.pos_embed, 3)], verbose=False
    )


@cache
def find_groups(config: EncoderConfig) -> dict[str, Group]:
    """Every group of an encoder of this shape, by name.

    The attention groups are tied across heads; the embedding has no head structure and is free.
    """
    model = TraceableEncoder(config)
    graph = dependency_graph(model)
    roots = {"embedding": "patch_embed.proj"}
    for i in range(config.depth):
        roots[f"attention.{i}"] = f"blocks.{i}.attn.q"
        roots[f"mlp.{i}"] = f"blocks.{i}.mlp.lin1"
    return {
        name: _group(graph, model, name, root, config.num_heads if name.startswith("attention") else 1)
        for name, root in roots.items()
    }


def pruning_function(layer: nn.Module) -> "tp.function.BasePruningFunc":
    """torch-pruning's function that removes output channels of a layer."""
    import torch_pruning as tp

    return tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels


def _group(graph: "tp.DependencyGraph", model: TraceableEncoder, name: str, root: str, slices: int) -> Group:
    layer = model.get_submodule(root)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    width = layer.weight.shape[0]
    traced = graph.get_pruning_group(layer, pruning_function(layer), idxs=list(range(width)))
    names = {module: path for path, module in model.named_modules()}
    members = []
    for item in traced:
        module = item.dep.target.module
        if isinstance(module, nn.Linear | nn.Conv2d):
            outputs = item.dep.handler == pruning_function(module)
            members.append(Member(f"{names[module]}.weight", 0 if outputs else 1))
    return Group(name, root, width, tuple(sorted(members, key=lambda m: (m.name, m.axis))), slices)
