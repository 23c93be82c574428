"""SAM's prompt encoder: points, boxes and earlier masks to embeddings (Segment Anything, appendix A)."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from teachers.image_encoder import LayerNorm2d


class RandomPositionEncoding(nn.Module):
    """Random Fourier features of positions in [0, 1] (Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def encode(self, positions: Tensor) -> Tensor:
        """Positions ``[..., 2]`` (x, y in [0, 1]) to float32 ``[..., channels]``."""
        angles = 2 * math.pi * ((2 * positions.float() - 1) @ self.positional_encoding_gaussian_matrix.float())
        return torch.cat([angles.sin(), angles.cos()], -1)

    def forward(self, grid: int) -> Tensor:
        """The encoding of every cell centre of a grid: ``[channels, grid, grid]``."""
        centres = (torch.arange(grid, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / grid
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return self.encode(torch.stack([columns, rows], -1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Prompts in the model's frame to sparse and dense embeddings.

    Args:
        channels: width of the embeddings, that of the image embedding.
        grid: side of the image embedding.
        frame: side of the square input in pixels.
        mask_channels: hidden channels of the mask branch (16 in SAM).
        pads_boxes: whether a box is followed by a "not a point" too, as in SAM 2.
    """

    def __init__(self, channels: int, grid: int, frame: int, mask_channels: int = 16, pads_boxes: bool = False) -> None:
        super().__init__()
        self.grid, self.frame, self.pads_boxes = grid, frame, pads_boxes
        self.pe_layer = RandomPositionEncoding(channels)
        # Background point, foreground point, top-left corner, bottom-right corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def dense_position(self) -> Tensor:
        """Position encoding of the image embedding: ``[1, C, g, g]``."""
        return self.pe_layer(self.grid)[None]

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed ``N`` prompts given in the model's frame.

        Args:
            points: xy ``[N, P, 2]`` and labels ``[N, P]`` (1, 0, -1 padding).
            boxes: xyxy ``[N, 4]``.
            masks: logits ``[N, 1, 4g, 4g]``.

        Returns:
            Sparse embeddings ``[N, K, C]``, and dense embeddings ``[N, C, g, g]``, or ``[1, C, g, g]`` without masks.
        """
        sparse = []
        if points is not None:
            sparse.append(self._points(*points, pad=boxes is None))
        if boxes is not None:
            sparse.append(self._boxes(boxes))
            if self.pads_boxes:
                sparse.append(self.not_a_point_embed.weight.expand(len(boxes), 1, -1))
        count = next(len(part) for part in (*sparse, masks) if part is not None)
        dim = self.no_mask_embed.weight.shape[1]
        if masks is not None:
            dense = self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))
        else:
            dense = self.no_mask_embed.weight.reshape(1, dim, 1, 1).expand(1, dim, self.grid, self.grid)
        empty = self.no_mask_embed.weight.new_zeros(count, 0, dim)
        return torch.cat([empty, *(part.to(empty.dtype) for part in sparse)], 1), dense

    def _points(self, xy: Tensor, labels: Tensor, pad: bool) -> Tensor:
        # SAM addresses pixel centres, and pads with a "not a point" when there is no box.
        xy = xy.float() + 0.5
        if pad:
            xy = torch.cat([xy, xy.new_zeros(len(xy), 1, 2)], 1)
            labels = torch.cat([labels, -torch.ones_like(labels[:, :1])], 1)
        encoded = self.pe_layer.encode(xy / self.frame)
        # [3, C], addressed by label + 1: not a point, background, foreground
        kinds = torch.cat([self.not_a_point_embed.weight, *self._kinds()[:2]])
        position = encoded.masked_fill((labels == -1)[..., None], 0.0)
        return position + kinds[labels.long() + 1]

    def _boxes(self, boxes: Tensor) -> Tensor:
        corners = self.pe_layer.encode((boxes.float() + 0.5).reshape(-1, 2, 2) / self.frame)
        return corners + torch.cat(self._kinds()[2:])

    def _kinds(self) -> list[Tensor]:
        # One [1, C] for each kind of point.
        return [cast(nn.Embedding, embedding).weight for embedding in self.point_embeddings]
