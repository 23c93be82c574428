"""SAM 2's image encoder: a Hiera trunk on timm's own blocks, a feature pyramid, and three maps for the decoder.

Follows SAM 2 (Ravi et al. 2024, arXiv 2408.00714, section 4 and appendix D) and Hiera (Ryali et al. 2023). Every block
may have an attention width and an MLP width of its own: pruned encoders are ragged.
"""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.feature_layout import EMBEDDING, HIGH_RES, Layout, sam2_layout
from core.feature_maps import FeatureMaps

STRIDE = 4
"""Pixels of a token of the first stage; each later stage halves its map."""


@dataclass(frozen=True)
class HieraConfig:
    """Shape of a SAM 2's image encoder; tuples have an entry a stage unless they say otherwise.

    Attributes:
        image_size: side of the square input in pixels, a multiple of 32.
        embed_dims: width of the residual stream of each of the four stages.
        depths: blocks of each stage.
        num_heads: heads of its blocks.
        window_sizes: sides of its windows, in tokens; the first block of a stage has the windows of the stage before.
        global_blocks: indices of the blocks that attend over their whole map, counted through all stages.
        background: side of the position embedding that is resized to the map; windows of the first have one that tiles.
        attention_widths: ``A`` of each block, a multiple of its heads.
        mlp_widths: ``M`` of each block.
        out_channels: channels ``C`` of the image embedding.
    """

    image_size: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_sizes: tuple[int, ...]
    global_blocks: tuple[int, ...]
    background: int
    attention_widths: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    out_channels: int = 256

    def __post_init__(self) -> None:
        stages = (self.embed_dims, self.depths, self.num_heads, self.window_sizes)
        if any(len(sizes) != 4 for sizes in stages):
            raise ValueError(
                "a Hiera has four stages: embed_dims, depths, num_heads and window_sizes have four entries"
            )
        if {len(self.attention_widths), len(self.mlp_widths)} != {sum(self.depths)}:
            raise ValueError("attention_widths and mlp_widths must have one entry a block")
        if any(window % 2 for window in self.window_sizes[:3]):
            raise ValueError(f"windows of {self.window_sizes[:3]} tokens are halved between stages, and must be even")
        if self.image_size % 32 or self.image_size // STRIDE % self.window_sizes[0]:
            raise ValueError(f"image_size {self.image_size} must be a multiple of 32 and of {STRIDE} pixels x a window")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(self.depths)

    @property
    def grid(self) -> int:
        """Side of the image embedding: a sixteenth of the input."""
        return self.image_size // 16

    @property
    def maps(self) -> Layout:
        """What the encoder gives."""
        return sam2_layout(self.out_channels)

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Where the encoder has its blocks."""
        return tuple(f"trunk.blocks.{i}" for i in range(self.depth))

    @property
    def neck_paths(self) -> tuple[str, ...]:
        """The layers that read the residual streams of the stages."""
        return tuple(f"neck.convs.{i}" for i in range(len(self.embed_dims)))

    @property
    def stages(self) -> tuple[int, ...]:
        """The stage of each block."""
        return tuple(stage for stage, depth in enumerate(self.depths) for _ in range(depth))

    @property
    def first_blocks(self) -> tuple[int, ...]:
        """The first block of each stage."""
        return tuple(accumulate(self.depths[:-1], initial=0))


def hiera_config(
    image_size: int,
    width: int,
    depths: tuple[int, ...],
    heads: int,
    window_sizes: tuple[int, ...],
    global_blocks: tuple[int, ...],
    background: int,
    out_channels: int = 256,
) -> HieraConfig:
    """A Hiera of the usual form: widths and heads double from stage to stage, MLPs are four times as wide.

    Args:
        width, heads: of the first stage.
    """
    dims = tuple(width * 2**stage for stage in range(4))
    attention = tuple(dim for dim, depth in zip(dims, depths, strict=True) for _ in range(depth))
    return HieraConfig(
        image_size,
        dims,
        depths,
        tuple(heads * 2**stage for stage in range(4)),
        window_sizes,
        global_blocks,
        background,
        attention,
        tuple(4 * dim for dim in attention),
        out_channels,
    )


class Hiera(nn.Module):
    """The trunk: images to a map of each stage. Parameters have timm's names, those of Meta's but for the MLPs'."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        # timm takes a second to import, which only models of SAM 2 wait for.
        from timm.models.hieradet_sam2 import HieraPatchEmbed

        self.config = config
        dim = config.embed_dims[0]
        self.patch_embed: nn.Module = HieraPatchEmbed(embed_dim=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, config.background, config.background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, *[config.window_sizes[0]] * 2))
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        # A buffer, so that it follows the model to bfloat16.
        self._exported: Tensor | None
        self.register_buffer("_exported", None, persistent=False)

    def prepare_export(self) -> None:
        """Compute the position embedding once; the graph of an exported copy holds it as a constant."""
        self._exported = self.position().detach()

    def position(self) -> Tensor:
        """The position embedding of the first stage's map ``[1, H, W, D]``: the background, and tiles on it."""
        side = self.config.image_size // STRIDE
        background = F.interpolate(self.pos_embed, (side, side), mode="bicubic")
        tiles = side // self.config.window_sizes[0]
        return (background + self.pos_embed_window.tile(tiles, tiles)).permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``[B, 3, S, S]`` to the maps of the four stages, ``[B, D, h, w]`` each, finest first."""
        x = self.patch_embed(images) + (self.position() if self._exported is None else self._exported)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index + 1 in (*self.config.first_blocks[1:], self.config.depth):
                maps.append(x.permute(0, 3, 1, 2))
        return maps


def _block(config: HieraConfig, index: int) -> nn.Module:
    """timm's block, with the layers of its own widths where they are not the usual ones."""
    from timm.models.hieradet_sam2 import MultiScaleBlock

    stage = config.stages[index]
    begins = index in config.first_blocks[1:]
    before = stage - 1 if begins else stage
    dim, dim_out = config.embed_dims[before], config.embed_dims[stage]
    make: Any = MultiScaleBlock
    block: Any = make(
        dim,
        dim_out,
        config.num_heads[stage],
        q_stride=(2, 2) if begins else None,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        # PyTorch's own, which counters know.
        act_layer=nn.GELU,
        window_size=0 if index in config.global_blocks else config.window_sizes[before],
    )
    attention, mlp = config.attention_widths[index], config.mlp_widths[index]
    if begins and dim == dim_out:
        # Pruned stages may be as wide as the one before; timm would take the input itself for the shortcut.
        block.proj, block.dim = nn.Linear(dim, dim_out), -1
    if attention != dim_out:
        block.attn.qkv, block.attn.proj = nn.Linear(dim, 3 * attention), nn.Linear(attention, dim_out)
        block.attn.scale = (attention // config.num_heads[stage]) ** -0.5
    if mlp != 4 * dim_out:
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(dim_out, mlp), nn.Linear(mlp, dim_out)
    return block


class FeaturePyramid(nn.Module):
    """One map of ``channels`` a stage; the third also has what the fourth, a level above, knows.

    The convolutions stand in Meta's order, the coarsest first.
    """

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in reversed(widths))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the four stages, finest first, to three of ``[B, channels, h, w]``."""
        fine, middle, coarse, top = (
            conv(x)
            for conv, x in zip(reversed(list(self.convs)), maps, strict=True)  # finest first
        )
        return [fine, middle, coarse + F.interpolate(top, scale_factor=2.0, mode="nearest")]


class HieraEncoder(nn.Module):
    """Images to the three maps that SAM 2's mask decoder reads.

    The projections of the high-resolution features (of Meta's mask decoder) and the embedding of "no memory" belong to
    it here: they are computed once an image.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.out_channels
        self.trunk = Hiera(config)
        self.neck = FeaturePyramid(config.embed_dims, channels)
        self.conv_s0 = nn.Conv2d(channels, channels // 8, 1)
        self.conv_s1 = nn.Conv2d(channels, channels // 4, 1)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, images: Tensor) -> FeatureMaps:
        """Normalised images ``[B, 3, S, S]`` to the embedding ``[B, C, g, g]`` and :data:`HIGH_RES`."""
        fine, middle, coarse = self.neck(self.trunk(images))
        embedding = coarse + self.no_mem_embed.reshape(1, -1, 1, 1)
        return FeatureMaps({EMBEDDING: embedding, HIGH_RES[0]: self.conv_s0(fine), HIGH_RES[1]: self.conv_s1(middle)})
