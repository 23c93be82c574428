"""Groups, cut and check of a Hiera: each stage has a width of its own, queries are pooled where one begins.

As in :mod:`compressors.prune.groups` torch-pruning follows channels through a traceable form. Pooling takes the largest
of four tokens channel by channel and windows only reorder tokens, so neither couples channels, and both are left out of
it. A stage's width is that of its own residual stream; the first block of the next stage reads it.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressors.prune.groups import Group, find_groups, group_of, pruning_function, split_qkv
from compressors.prune.masking import KeptNorm, silence
from core.errors import RunFailed
from core.feature_maps import maps_of
from core.seeding import generator_for
from teachers.hiera import FeaturePyramid, HieraConfig, HieraEncoder

if TYPE_CHECKING:
    import torch_pruning as tp


class TraceableHiera(nn.Module):
    """Trunk and pyramid by the encoder's names, attention reduced to its coupling of channels."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _Trunk(config)
        self.neck = FeaturePyramid(config.embed_dims, config.out_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images of a few pixels; the numbers mean nothing."""
        maps = zip(reversed(list(self.neck.convs)), self.trunk(images), strict=True)
        return tuple(conv(x) for conv, x in maps)


class _Trunk(nn.Module):
    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dims = config.embed_dims
        self.config = config
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dims[0], 7, 4, 3)})
        self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], config.background, config.background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dims[0], *[config.window_sizes[0]] * 2))
        blocks = []
        for index, stage in enumerate(config.stages):
            begins = index in config.first_blocks[1:]
            widths = (config.attention_widths[index], config.mlp_widths[index])
            blocks.append(_Block(dims[stage - begins], dims[stage], *widths, begins))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed["proj"](images)
        side = x.shape[-1]
        x = x + self.pos_embed[..., :side, :side] + self.pos_embed_window[..., :side, :side]
        x, maps = x.permute(0, 2, 3, 1), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index + 1 in (*self.config.first_blocks[1:], self.config.depth):
                maps.append(x.permute(0, 3, 1, 2))
        return maps


class _Block(nn.Module):
    def __init__(self, dim: int, dim_out: int, attention: int, mlp: int, begins: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim_out) if begins else nn.Identity()
        self.begins = begins
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim_out)
        attn = {part: nn.Linear(dim, attention) for part in "qkv"}
        self.attn = nn.ModuleDict({**attn, "proj": nn.Linear(attention, dim_out)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim_out, mlp), "fc2": nn.Linear(mlp, dim_out)})

    def forward(self, x: Tensor) -> Tensor:
        y, attn, mlp = self.norm1(x), self.attn, self.mlp
        x = (self.proj(y) if self.begins else x) + attn["proj"](attn["q"](y) * attn["k"](y) + attn["v"](y))
        return x + mlp["fc2"](nn.functional.gelu(mlp["fc1"](self.norm2(x))))


def _graph(model: TraceableHiera) -> "tp.DependencyGraph":
    import torch_pruning as tp

    # Two tokens a side.
    positions = [(model.trunk.pos_embed, 1), (model.trunk.pos_embed_window, 1)]
    return tp.DependencyGraph().build_dependency(
        model, torch.zeros(1, 3, 8, 8), unwrapped_parameters=positions, verbose=False
    )


@find_groups.register
def _(config: HieraConfig) -> dict[str, Group]:
    return hiera_groups(config)


@cache
def hiera_groups(config: HieraConfig) -> dict[str, Group]:
    """Every group by name: ``embedding.<stage>``, ``attention.<block>`` (tied across heads) and ``mlp.<block>``."""
    model = TraceableHiera(config)
    graph = _graph(model)
    first = config.first_blocks
    roots = {"embedding.0": "trunk.patch_embed.proj"}
    roots |= {f"embedding.{stage}": f"trunk.blocks.{first[stage]}.proj" for stage in (1, 2, 3)}
    for i in range(config.depth):
        roots[f"attention.{i}"] = f"trunk.blocks.{i}.attn.q"
        roots[f"mlp.{i}"] = f"trunk.blocks.{i}.mlp.fc1"
    found = {}
    for name, root in roots.items():
        kind, _, number = name.partition(".")
        heads = config.num_heads[int(number) if kind == "embedding" else config.stages[int(number)]]
        found[name] = replace(group_of(graph, model, name, root, heads if kind == "attention" else 1), multiple=heads)
    return found


def prune_hiera(encoder: HieraEncoder, kept: Mapping[str, Tensor], fold: bool = True) -> HieraEncoder:
    """A smaller encoder; see :func:`compressors.prune.surgery.prune`. (There are no relative positions.)"""
    config, groups = encoder.config, hiera_groups(encoder.config)
    whole = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
    traceable = TraceableHiera(config)
    traceable.load_state_dict({n: t for n, t in split_qkv(whole).items() if n.startswith(("trunk.", "neck."))})
    graph = _graph(traceable)
    for name, indices in kept.items():
        gone = sorted(set(range(groups[name].width)) - set(indices.tolist()))
        if gone:
            layer = traceable.get_submodule(groups[name].root)
            graph.get_pruning_group(layer, pruning_function(layer), idxs=gone).prune()
    # torch-pruning 1.6 keeps channels of norms in the order of a set.
    for i, stage in enumerate(config.stages):
        for norm, of in (("norm1", stage - (i in config.first_blocks[1:])), ("norm2", stage)):
            if f"embedding.{of}" in kept:
                path, stays = f"trunk.blocks.{i}.{norm}", kept[f"embedding.{of}"].cpu()
                for part in ("weight", "bias"):
                    traceable.get_parameter(f"{path}.{part}").data.copy_(whole[f"{path}.{part}"][stays])
        factor = (_head_dim(kept, config, i) / (config.attention_widths[i] // config.num_heads[stage])) ** 0.5
        if fold:
            for parameter in traceable.get_submodule(f"trunk.blocks.{i}.attn.q").parameters():
                parameter.data.mul_(factor)
    return _encoder_of(traceable, whole, config).to(encoder.no_mem_embed.device)


def _head_dim(kept: Mapping[str, Tensor], config: HieraConfig, block: int) -> int:
    """Channels of a head that stay."""
    width = len(kept[f"attention.{block}"]) if f"attention.{block}" in kept else config.attention_widths[block]
    return width // config.num_heads[config.stages[block]]


def _encoder_of(traceable: TraceableHiera, whole: Mapping[str, Tensor], config: HieraConfig) -> HieraEncoder:
    parts, depth = traceable.state_dict(), range(config.depth)
    cut = replace(
        config,
        embed_dims=tuple(len(parts[f"trunk.blocks.{first}.norm2.weight"]) for first in config.first_blocks),
        attention_widths=tuple(parts[f"trunk.blocks.{i}.attn.proj.weight"].shape[1] for i in depth),
        mlp_widths=tuple(len(parts[f"trunk.blocks.{i}.mlp.fc1.weight"]) for i in depth),
    )
    # The projections of the features and the embedding of no memory are behind all that is cut.
    state = {name: tensor for name, tensor in whole.items() if not name.startswith(("trunk.", "neck."))}
    for name, tensor in parts.items():
        if ".attn.q." in name:
            state[name.replace(".q.", ".qkv.")] = torch.cat([parts[name.replace(".q.", f".{p}.")] for p in "qkv"])
        elif ".attn.k." not in name and ".attn.v." not in name:
            state[name] = tensor
    with torch.random.fork_rng(devices=[]):
        encoder = HieraEncoder(cut)
    encoder.load_state_dict(state)
    return encoder


@torch.no_grad()
def masked_hiera(encoder: HieraEncoder, kept: Mapping[str, Tensor], fold: bool = True) -> HieraEncoder:
    """A copy of the same widths in which channels that are not kept have no effect; written from the definition."""
    masked: Any = deepcopy(encoder).eval()
    config, device = encoder.config, encoder.no_mem_embed.device

    def channels(name: str, width: int) -> Tensor:
        return kept.get(name, torch.arange(width)).to(device)

    streams = [channels(f"embedding.{stage}", width) for stage, width in enumerate(config.embed_dims)]
    for i, (block, stage) in enumerate(zip(masked.trunk.blocks, config.stages, strict=True)):
        width = config.attention_widths[i]
        block.norm1 = KeptNorm(block.norm1, streams[stage - (i in config.first_blocks[1:])])
        block.norm2 = KeptNorm(block.norm2, streams[stage])
        rows = channels(f"attention.{i}", width)
        silence(block.attn.qkv, torch.cat([rows + part * width for part in range(3)]))
        if not fold:
            factor = (width / len(rows)) ** 0.5
            block.attn.qkv.weight[:width] *= factor
            block.attn.qkv.bias[:width] *= factor
        silence(block.mlp.fc1, channels(f"mlp.{i}", config.mlp_widths[i]))
    for conv, stream, width in zip(reversed(list(masked.neck.convs)), streams, config.embed_dims, strict=True):
        gone = torch.ones(width, dtype=torch.bool, device=device).index_fill(0, stream, False)
        conv.weight[:, gone] = 0
    found: HieraEncoder = masked
    return found


def check_hiera_cut(
    encoder: HieraEncoder, cut: HieraEncoder, kept: Mapping[str, Tensor], fold: bool, tolerance: float
) -> None:
    """Compare a cut encoder with :func:`masked_hiera` on one random image, map by map.

    Raises:
        RunFailed: they answer otherwise; the message names the first map that does.
    """
    size = encoder.config.image_size
    image = torch.randn(1, 3, size, size, generator=generator_for(0, "cut")).to(encoder.no_mem_embed.device)
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        expected, found = maps_of(masked_hiera(encoder, kept, fold)(image)), maps_of(cut.eval()(image))
    for name, answer in expected.items():
        difference = float((answer - found[name]).abs().max() / answer.abs().max().clamp(min=1e-12))
        if not difference <= tolerance:
            raise RunFailed(
                f"pruning: {name} of the cut encoder answers otherwise than the original with the same channels masked "
                f"(relative difference {difference:.1e}, at most {tolerance:.0e} is rounding); the cut is wrong there, "
                "and nothing is distilled from it"
            )
