"""What a cut must not change: an encoder without some channels answers as the whole one with those channels masked."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import RunFailed
from core.seeding import generator_for
from teachers.image_encoder import ImageEncoder

TOLERANCE = 1e-3
"""Largest difference of two answers, as a part of the larger one's largest value."""


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


@torch.no_grad()
def masked_original(
    encoder: ImageEncoder, kept: Mapping[str, Tensor], rel_pos: str = "keep", fold: bool = True
) -> ImageEncoder:
    """A copy of the same widths in which channels that are not kept have no effect.

    It is written down from the encoder's own definition and shares nothing with the tracer that finds groups.

    Args:
        encoder, kept, rel_pos, fold: as of :func:`compressors.prune.surgery.prune`.
    """
    # Typed as any: PyTorch knows no attributes of what is in a list of modules.
    masked: Any = deepcopy(encoder).eval()
    device = encoder.pos_embed.device
    config = encoder.config
    stream = kept.get("embedding", torch.arange(config.embed_dim)).to(device)
    for i, block in enumerate(masked.blocks):
        block.norm1, block.norm2 = KeptNorm(block.norm1, stream), KeptNorm(block.norm2, stream)
        width, attention = config.attention_widths[i], block.attn
        heads = kept.get(f"attention.{i}", torch.arange(width)).to(device)
        # Rows of queries, keys and values, one after the other.
        rows = torch.cat([heads + part * width for part in range(3)])
        _silence(attention.qkv, rows)
        if not fold:
            # The softmax scale is that of the width that is left.
            factor = (width / len(heads)) ** 0.5
            attention.qkv.weight[:width] *= factor
            attention.qkv.bias[:width] *= factor
            attention.rel_pos_h /= factor
            attention.rel_pos_w /= factor
        if rel_pos == "reset":
            attention.rel_pos_h.zero_()
            attention.rel_pos_w.zero_()
        hidden = kept.get(f"mlp.{i}", torch.arange(config.mlp_widths[i])).to(device)
        _silence(block.mlp.lin1, hidden)
    gone = torch.ones(config.embed_dim, dtype=torch.bool, device=device).index_fill(0, stream, False)
    masked.neck[0].weight[:, gone] = 0
    cut: ImageEncoder = masked
    return cut


def _silence(layer: nn.Linear, kept: Tensor) -> None:
    """Give 0 for every output that is not kept."""
    gone = torch.ones(layer.out_features, dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
    layer.weight[gone] = 0
    layer.bias[gone] = 0


def check_cut(
    encoder: ImageEncoder,
    cut: ImageEncoder,
    kept: Mapping[str, Tensor],
    rel_pos: str = "keep",
    fold: bool = True,
) -> None:
    """Compare a cut encoder with :func:`masked_original` on one random picture, part by part.

    Args:
        encoder: before the cut.
        cut: after it.
        kept, rel_pos, fold: as of :func:`compressors.prune.surgery.prune`.

    Raises:
        RunFailed: they answer otherwise; the message names the first part that does.
    """
    size, device = encoder.config.image_size, encoder.pos_embed.device
    picture = torch.randn(1, 3, size, size, generator=generator_for(0, "cut")).to(device)
    stream = kept.get("embedding", torch.arange(encoder.config.embed_dim)).to(device)
    masked = masked_original(encoder, kept, rel_pos, fold)
    # Rounding to TF32 would be taken for a difference.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        wanted, found = _answers(masked, picture), _answers(cut, picture)
    for part, answer in wanted.items():
        expected = answer if part == "neck" else answer[..., stream]
        same_shape = expected.shape == found[part].shape
        difference = _difference(expected, found[part]) if same_shape else torch.inf
        # Not a number is a difference too.
        if not difference <= TOLERANCE:
            raise RunFailed(
                f"pruning: {part} of the cut encoder answers otherwise than the original with the same channels masked "
                f"(relative difference {difference:.1e}, at most {TOLERANCE:.0e} is rounding); the cut is wrong there, "
                "and nothing is distilled from it"
            )


def _answers(encoder: Any, picture: Tensor) -> dict[str, Tensor]:
    """What each part gives, in the order of computation: the stream ``[B, g, g, D]``, windows of it, the embedding."""
    found: dict[str, Tensor] = {}

    def note(part: str) -> object:
        def hook(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            found[part] = answer

        return hook

    watched: dict[str, nn.Module] = {"patch_embed": encoder.patch_embed}
    for i, block in enumerate(encoder.blocks):
        watched |= {f"blocks.{i}.attn": block.attn, f"blocks.{i}.mlp": block.mlp}
    handles = [module.register_forward_hook(note(part)) for part, module in watched.items()]  # type: ignore[arg-type]
    try:
        found["neck"] = encoder(picture)
    finally:
        for handle in handles:
            handle.remove()
    # The last, as it is the last to be computed.
    return {**{part: found[part] for part in watched}, "neck": found["neck"]}


def _difference(wanted: Tensor, found: Tensor) -> float:
    return ((wanted - found).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()
