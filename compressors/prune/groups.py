"""What must be pruned together: groups of channels, found by torch-pruning's dependency graph.

torch-pruning follows channels from layer to layer. Fused q/k/v and relative positions hide the coupling of attention
from it (it then prunes nothing there, silently). Channel ``c`` of the queries meets channel ``c`` of the keys in
``q k^T``, and channel ``c`` of the values becomes input ``c`` of the projection; the elementwise form ``q * k + v``
couples exactly the same channels, and is what gets traced here. The numbers it computes mean nothing.
"""

from dataclasses import dataclass, replace
from functools import cache, singledispatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from teachers.image_encoder import MLP, EncoderConfig, ImageEncoder, PatchEmbed

if TYPE_CHECKING:
    # It imports timm and torchvision, which takes seconds that only what prunes waits for.
    import torch_pruning as tp


TRACED_GRID = 2
"""Tokens a side while tracing: groups depend on the layers, not on the number of tokens."""


class TraceableAttention(nn.Module):
    """Attention with q, k and v apart, reduced to its coupling of channels."""

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(embed_dim, width)
        self.k = nn.Linear(embed_dim, width)
        self.v = nn.Linear(embed_dim, width)
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Couples channels as attention does."""
        return self.proj(self.q(x) * self.k(x) + self.v(x))


class TraceableBlock(nn.Module):
    """A block without windows or relative positions."""

    def __init__(self, embed_dim: int, attention: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = TraceableAttention(embed_dim, attention)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, mlp)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``[B, g, g, D]`` unchanged."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TraceableEncoder(nn.Module):
    """The encoder up to the first convolution of its neck: all that pruning touches."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, dim))
        widths = zip(config.attention_widths, config.mlp_widths, strict=True)
        self.blocks = nn.ModuleList(TraceableBlock(dim, attention, mlp) for attention, mlp in widths)
        self.neck = nn.Sequential(nn.Conv2d(dim, config.out_channels, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Images of ``TRACED_GRID`` patches a side."""
        x = self.patch_embed(images) + self.pos_embed[:, :TRACED_GRID, :TRACED_GRID]
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by an encoder's parameter names (weights or gradients) to a traceable encoder's names.

    Fused ``qkv`` rows become ``q``, ``k`` and ``v``; what the traceable form lacks is left out.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace("qkv", part)] = rows
        elif "rel_pos" not in name and not name.startswith(("neck.1", "neck.2", "neck.3")):
            split[name] = tensor
    return split


def to_traceable(encoder: ImageEncoder) -> TraceableEncoder:
    """The traceable form of an encoder, with a copy of its weights."""
    traceable = TraceableEncoder(encoder.config)
    traceable.load_state_dict(split_qkv(encoder.state_dict()))
    return traceable


def from_traceable(traceable: TraceableEncoder, original: ImageEncoder, rel_pos: dict[str, Tensor]) -> ImageEncoder:
    """The encoder of a (pruned) traceable form.

    Args:
        original: where the rest of the neck comes from.
        rel_pos: the pruned encoder's tables of relative positions, by parameter name.
    """
    parts, depth = traceable.state_dict(), original.config.depth
    config = replace(
        original.config,
        embed_dim=traceable.pos_embed.shape[-1],
        attention_widths=tuple(parts[f"blocks.{i}.attn.proj.weight"].shape[1] for i in range(depth)),
        mlp_widths=tuple(parts[f"blocks.{i}.mlp.lin1.weight"].shape[0] for i in range(depth)),
    )
    state = {name: tensor for name, tensor in original.state_dict().items() if name.startswith("neck.")} | rel_pos
    for name, tensor in parts.items():
        if ".attn.q." in name:
            state[name.replace(".q.", ".qkv.")] = torch.cat([parts[name.replace(".q.", f".{p}.")] for p in "qkv"])
        elif ".attn.k." not in name and ".attn.v." not in name:
            state[name] = tensor
    encoder = ImageEncoder(config)
    encoder.load_state_dict(state)
    return encoder


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
        multiple: of what the kept channels are to be; 0: of the encoder's one number of heads.
    """

    name: str
    root: str
    width: int
    members: tuple[Member, ...]
    slices: int = 1
    multiple: int = 0


def dependency_graph(model: TraceableEncoder) -> "tp.DependencyGraph":
    """Trace a traceable encoder (on the CPU, a few tokens)."""
    import torch_pruning as tp

    side = TRACED_GRID * model.config.patch_size
    example = torch.zeros(1, 3, side, side)
    return tp.DependencyGraph().build_dependency(
        model, example, unwrapped_parameters=[(model.pos_embed, 3)], verbose=False
    )


@singledispatch
def find_groups(config: Any) -> dict[str, Group]:
    """Every group of an encoder of this shape, by name.

    The attention groups are tied across heads; the embedding has no head structure and is free.
    """
    return _vit_groups(config)


@cache
def _vit_groups(config: EncoderConfig) -> dict[str, Group]:
    model = TraceableEncoder(config)
    graph = dependency_graph(model)
    roots = {"embedding": "patch_embed.proj"}
    for i in range(config.depth):
        roots[f"attention.{i}"] = f"blocks.{i}.attn.q"
        roots[f"mlp.{i}"] = f"blocks.{i}.mlp.lin1"
    return {
        name: group_of(graph, model, name, root, config.num_heads if name.startswith("attention") else 1)
        for name, root in roots.items()
    }


def pruning_function(layer: nn.Module) -> "tp.function.BasePruningFunc":
    """torch-pruning's function that removes output channels of a layer."""
    import torch_pruning as tp

    return tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels


def group_of(graph: "tp.DependencyGraph", model: nn.Module, name: str, root: str, slices: int) -> Group:
    """What lives and dies with the output channels of the layer ``root``."""
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
