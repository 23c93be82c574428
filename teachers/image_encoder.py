"""SAM's image encoder: a plain ViT with windowed and global blocks and a convolutional neck.

Follows Segment Anything (Kirillov et al. 2023, section 3 and appendix A) and Li et al. 2022 (ViTDet). Every block may
have an attention width and an MLP width of its own: pruned encoders are ragged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from teachers.attention import Attention, merge_windows, partition_windows


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an image encoder.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels; the token grid is ``image_size // patch_size``.
        embed_dim: embedding width ``D`` of the residual stream.
        num_heads: heads of every block.
        attention_widths: ``A`` of each block, multiples of ``num_heads``; its length is the depth.
        mlp_widths: ``M`` of each block.
        window_size: side of a window, in tokens.
        global_blocks: indices of the blocks that attend over the whole grid.
        out_channels: channels of the image embedding.
    """

    image_size: int
    patch_size: int
    embed_dim: int
    num_heads: int
    attention_widths: tuple[int, ...]
    mlp_widths: tuple[int, ...]
    window_size: int
    global_blocks: tuple[int, ...]
    out_channels: int = 256

    def __post_init__(self) -> None:
        if len(self.attention_widths) != len(self.mlp_widths):
            raise ValueError("attention_widths and mlp_widths must have one entry a block")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.attention_widths)

    @property
    def grid(self) -> int:
        """Side of the token grid."""
        return self.image_size // self.patch_size

    @property
    def block_paths(self) -> tuple[str, ...]:
        """Where the encoder has its blocks."""
        return tuple(f"blocks.{i}" for i in range(self.depth))

    @property
    def neck_paths(self) -> tuple[str, ...]:
        """The layers that read the residual stream behind the blocks."""
        return ("neck.0",)

    @property
    def uniform(self) -> bool:
        """Whether every block has the same widths, as other libraries' classes require."""
        return len(set(self.attention_widths)) == 1 and len(set(self.mlp_widths)) == 1


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a map ``[B, C, H, W]`` (eps 1e-6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; shape unchanged."""
        # The channels-last view lets the fused kernel do the work.
        return self.on_tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def on_tokens(self, x: Tensor) -> Tensor:
        """The same of ``[..., C]``."""
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)


def make_neck(dim: int, out_channels: int) -> nn.Sequential:
    """SAM's neck: a map ``[B, dim, g, g]`` to the image embedding ``[B, out_channels, g, g]``."""
    return nn.Sequential(
        nn.Conv2d(dim, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )


class PatchEmbed(nn.Module):
    """Images ``[B, 3, S, S]`` to patch embeddings ``[B, g, g, D]``."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed each patch."""
        return self.proj(x).permute(0, 2, 3, 1)


class MLP(nn.Module):
    """The two-layer perceptron of a block, with GELU."""

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embed_dim, width)
        self.act = nn.GELU()
        self.lin2 = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``[..., D]`` unchanged."""
        return self.lin2(self.act(self.lin1(x)))


class Block(nn.Module):
    """A transformer block: attention within windows (or over the whole grid), then the MLP.

    Args:
        window: side of a window in tokens, or 0 for a global block.
        grid: side of the token grid.
    """

    def __init__(self, embed_dim: int, num_heads: int, attention: int, mlp: int, window: int, grid: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = Attention(embed_dim, attention, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim, mlp)

    def attend(self, x: Tensor) -> Tensor:
        """Attention over ``[B, H, W, D]``. Padding cells of a window take part in it, as in Meta's model."""
        if not self.window:
            return self.attn(x)
        windows, padded = partition_windows(x, self.window)
        return merge_windows(self.attn(windows), self.window, padded, (x.shape[1], x.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``[B, H, W, D]`` unchanged."""
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """Images to image embeddings."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                config.num_heads,
                attention,
                mlp,
                0 if i in config.global_blocks else config.window_size,
                config.grid,
            )
            for i, (attention, mlp) in enumerate(zip(config.attention_widths, config.mlp_widths, strict=True))
        )
        self.neck = make_neck(dim, config.out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, out_channels, g, g]``."""
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))
