"""Channels without effect: parts of the masked original that a cut is compared with."""

import torch
from torch import Tensor, nn


class KeptNorm(nn.Module):
    """A layer norm over some of the channels ``[..., D]``; the others come out as zero."""

    def __init__(self, norm: nn.LayerNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        """Shape unchanged."""
        weight, bias = self.norm.weight[self.kept], self.norm.bias[self.kept]
        some = nn.functional.layer_norm(x[..., self.kept], weight.shape, weight, bias, self.norm.eps)
        return torch.zeros_like(x).index_copy(-1, self.kept, some)


def silence(layer: nn.Linear, kept: Tensor) -> None:
    """Give 0 for every output that is not kept."""
    gone = torch.ones(layer.out_features, dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
    layer.weight[gone] = 0
    layer.bias[gone] = 0
