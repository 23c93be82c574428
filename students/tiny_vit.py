"""TinyViT as a SAM's image encoder (MobileSAM, Zhang et al. 2023, arXiv 2306.14289; TinyViT, Wu et al. 2022).

The backbone is timm's; what is changed is what MobileSAM changed: the last stage keeps the grid of the third instead of
halving it, the classifier is left out, and SAM's neck follows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.tiny_vit import Attention, TinyVit, TinyVitBlock
from torch import Tensor, nn

from core.feature_layout import EMBEDDING, HIGH_RES
from core.feature_maps import FeatureMaps, sized
from students.encoder_shapes import TinyVitConfig
from teachers.attention import merge_windows, partition_windows
from teachers.image_encoder import make_neck


def of_rows(layer: Any, rows: Tensor) -> nn.Module:
    """A linear layer, float or quantised, with some of its outputs alone: rows ``[n]`` of the weight, in that order."""
    if hasattr(layer, "of_rows"):
        found: nn.Module = layer.of_rows(rows)
        return found
    part = nn.Linear(layer.in_features, len(rows), layer.bias is not None)
    part.weight = nn.Parameter(layer.weight[rows], requires_grad=False)
    if layer.bias is not None:
        part.bias = nn.Parameter(layer.bias[rows], requires_grad=False)
    return part


class FreshBiases(Attention):
    """timm's attention without its cache of biases.

    In eval mode timm (as the released MobileSAM) gathers the biases once and keeps them; weights that are loaded, moved
    or changed afterwards would be answered with the old ones. Gathering takes a small part of the attention's time.
    """

    def prepare_export(self) -> None:
        """Project queries, keys and values by layers of their own: runtimes take long to cut their joint output."""
        # Rows of one head's queries, keys and values, then of the next head's.
        rows = torch.arange(self.num_heads * (2 * self.key_dim + self.val_dim)).reshape(self.num_heads, -1)
        parts = rows.split([self.key_dim, self.key_dim, self.val_dim], 1)
        self.projections = nn.ModuleList(of_rows(self.qkv, part.flatten()) for part in parts)
        del self.qkv

    def projected(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values ``[B, heads, tokens, d]`` of normalised windows ``[B, tokens, C]``."""
        batch, tokens, _ = x.shape
        if "projections" in self._modules:
            # Sizes, not -1: of any number of images, Core ML's converter takes one that it has to find for an open one.
            sizes = (self.key_dim, self.key_dim, self.val_dim)
            parts = zip(self.projections, sizes, strict=True)
            found = [project(x).view(batch, tokens, self.num_heads, size) for project, size in parts]
        else:
            qkv = self.qkv(x).view(batch, tokens, self.num_heads, -1)
            found = list(qkv.split([self.key_dim, self.key_dim, self.val_dim], 3))
        return [part.transpose(1, 2) for part in found]

    def forward(self, x: Tensor) -> Tensor:
        """Windows ``[B, tokens, C]``, shape unchanged."""
        q, k, v = self.projected(self.norm(x))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.get_attention_biases(x.device))
        return self.proj(mixed.transpose(1, 2).reshape(*x.shape[:2], self.out_dim))

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """The biases of every pair of positions, from the weights as they are now: ``[heads, tokens, tokens]``."""
        indices: Any = self.attention_bias_idxs
        return self.attention_biases[:, indices]


class WindowedBlock(TinyVitBlock):
    """timm's block, cutting its map into windows as SAM's does: in tensors of four dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]``, shape unchanged."""
        height, width = x.shape[1:3]
        windows, padded = partition_windows(x, self.window_size)
        attended = self.attn(windows.flatten(1, 2)).reshape(windows.shape)
        x = x + self.drop_path1(merge_windows(attended, self.window_size, padded, (height, width)))
        # [B, H * W, C]: runtimes keep the convolution's layout for this, and not for a map of four dimensions
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        return (x + self.drop_path2(self.mlp(x))).unflatten(1, (height, width))


class TinyVitEncoder(nn.Module):
    """Images to image embeddings by a TinyViT and SAM's neck."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        self.config = config
        backbone: Any = TinyVit(
            embed_dims=config.embed_dims,
            depths=config.depths,
            num_heads=config.num_heads,
            window_sizes=config.window_sizes,
            drop_path_rate=0.0,
        )
        backbone.head = nn.Identity()
        for number, stage in enumerate(list(backbone.stages)[1:]):
            if number >= config.halvings:
                stage.downsample.conv2.conv.stride = (1, 1)
        for module in backbone.modules():
            if isinstance(module, Attention):
                module.__class__ = FreshBiases
            elif isinstance(module, TinyVitBlock):
                module.__class__ = WindowedBlock
        self.backbone = backbone
        self.neck = make_neck(config.embed_dims[-1], config.out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, S, S]`` to embeddings ``[B, out_channels, g, g]``."""
        return self.neck(self.backbone.forward_features(images))


class TinyVitMapsEncoder(TinyVitEncoder):
    """The same with SAM 2's high-resolution features, projected from the maps of the earlier stages."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__(config)
        # Of each feature, the stage whose map has its cells; the first one where none is as fine.
        self.sources = [max(0, config.halvings - finer) for finer in (2, 1)]
        dims, channels = config.embed_dims, config.out_channels
        self.conv_s0 = nn.Conv2d(dims[self.sources[0]], channels // 8, 1)
        self.conv_s1 = nn.Conv2d(dims[self.sources[1]], channels // 4, 1)

    def forward(self, images: Tensor) -> FeatureMaps:  # type: ignore[override]
        """Normalised images ``[B, 3, S, S]`` to the embedding ``[B, C, g, g]`` and the high-resolution features."""
        x = self.backbone.patch_embed(images)
        stages = []
        for stage in self.backbone.stages:
            x = stage(x)
            stages.append(x)
        found = {EMBEDDING: self.neck(x)}
        heads = ((HIGH_RES[0], self.conv_s0, 4), (HIGH_RES[1], self.conv_s1, 2))
        for (name, head, scale), source in zip(heads, self.sources, strict=True):
            found[name] = sized(head(stages[source]), scale * self.config.grid)
        return FeatureMaps(found)
