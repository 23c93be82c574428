"""Cutting channels out of an image encoder, keeping what the cut need not change; and checking that it did."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from compressors.prune.groups import dependency_graph, find_groups, from_traceable, pruning_function, to_traceable
from compressors.prune.hiera import check_hiera_cut, prune_hiera
from compressors.prune.masking import KeptNorm, silence
from core.errors import RunFailed
from core.seeding import generator_for
from teachers.hiera import HieraEncoder
from teachers.image_encoder import ImageEncoder


def prune(encoder: Any, kept: Mapping[str, Tensor], rel_pos: str = "keep", fold: bool = True) -> Any:
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
    if isinstance(encoder, HieraEncoder):
        return prune_hiera(encoder, kept, fold)
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


TOLERANCE = 1e-3
"""Largest difference of two answers, as a part of the larger one's largest value."""


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
        silence(attention.qkv, rows)
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
        silence(block.mlp.lin1, hidden)
    gone = torch.ones(config.embed_dim, dtype=torch.bool, device=device).index_fill(0, stream, False)
    masked.neck[0].weight[:, gone] = 0
    cut: ImageEncoder = masked
    return cut


def check_cut(
    encoder: Any,
    cut: Any,
    kept: Mapping[str, Tensor],
    rel_pos: str = "keep",
    fold: bool = True,
) -> None:
    """Compare a cut encoder with :func:`masked_original` on one random image, part by part.

    Args:
        encoder: before the cut.
        cut: after it.
        kept, rel_pos, fold: as of :func:`compressors.prune.surgery.prune`.

    Raises:
        RunFailed: they answer otherwise; the message names the first part that does.
    """
    if isinstance(encoder, HieraEncoder):
        check_hiera_cut(encoder, cut, kept, fold, TOLERANCE)
        return
    size, device = encoder.config.image_size, encoder.pos_embed.device
    image = torch.randn(1, 3, size, size, generator=generator_for(0, "cut")).to(device)
    stream = kept.get("embedding", torch.arange(encoder.config.embed_dim)).to(device)
    masked = masked_original(encoder, kept, rel_pos, fold)
    # Rounding to TF32 would be taken for a difference.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        references, found = _answers(masked, image), _answers(cut, image)
    for part, answer in references.items():
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


def _answers(encoder: Any, image: Tensor) -> dict[str, Tensor]:
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
        found["neck"] = encoder(image)
    finally:
        for handle in handles:
            handle.remove()
    # The last, as it is the last to be computed.
    return {**{part: found[part] for part in watched}, "neck": found["neck"]}


def _difference(expected: Tensor, found: Tensor) -> float:
    return ((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
