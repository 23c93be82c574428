"""Weights of a small SAM as the start of a larger one, or of a SAM 2: other frames and patches, more blocks and width.

What is added begins without effect (blocks and channels whose output is zero), what is resized is interpolated, so the
larger model begins near the smaller one.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.image_encoder import EncoderConfig
from teachers.sam import Sam


def start_from(model: Sam, source: Sam, blocks: Mapping[int, int]) -> None:
    """Fill ``model`` from ``source``, whose decoder has the same shape and whose heads are as wide.

    Args:
        model: with its initial weights, which stay where nothing stands for them.
        blocks: for each of ``model``'s blocks that has one, the block of ``source`` it begins as. The others begin as
            the identity.

    Raises:
        ValueError: the decoders or the widths of heads differ, or ``source`` is wider.
    """
    new, old = model.config.vit, source.config.vit
    head_dim = old.attention_widths[0] // old.num_heads
    if any(width // new.num_heads != head_dim for width in new.attention_widths) or new.embed_dim < old.embed_dim:
        raise ValueError(f"heads must be {head_dim} wide, and the embedding at least {old.embed_dim}")
    ours, theirs = model.state_dict(), source.state_dict()
    rest = {key: value for key, value in theirs.items() if not key.startswith("image_encoder.")}
    if any(ours[key].shape != value.shape for key, value in rest.items()):
        raise ValueError("the prompt encoders or mask decoders have different shapes")
    ours |= rest
    prefix = "image_encoder."
    kernel = F.interpolate(theirs[f"{prefix}patch_embed.proj.weight"], (new.patch_size,) * 2, mode="bilinear")
    # The same grey image gives the same embedding.
    kernel *= (old.patch_size / new.patch_size) ** 2
    ours[f"{prefix}patch_embed.proj.weight"] = _grown(kernel, (new.embed_dim, *kernel.shape[1:]))
    bias = theirs[f"{prefix}patch_embed.proj.bias"]
    ours[f"{prefix}patch_embed.proj.bias"] = _grown(bias, (new.embed_dim,))
    table = theirs[f"{prefix}pos_embed"].permute(0, 3, 1, 2)
    table = F.interpolate(table, (new.grid,) * 2, mode="bicubic").permute(0, 2, 3, 1)
    ours[f"{prefix}pos_embed"] = _grown(table, (1, new.grid, new.grid, new.embed_dim))
    for index in range(new.depth):
        at = f"{prefix}blocks.{index}."
        if index in blocks:
            _fill_block(ours, at, theirs, f"{prefix}blocks.{blocks[index]}.", new, old)
        else:
            for layer in ("attn.proj", "mlp.lin2"):
                for part in ("weight", "bias"):
                    ours[f"{at}{layer}.{part}"] = torch.zeros_like(ours[f"{at}{layer}.{part}"])
    for key in ("neck.0.weight", "neck.1.weight", "neck.1.bias", "neck.2.weight", "neck.3.weight", "neck.3.bias"):
        ours[prefix + key] = _grown(theirs[prefix + key], ours[prefix + key].shape)
    model.load_state_dict(ours)


def _fill_block(
    ours: dict[str, Tensor],
    at: str,
    theirs: Mapping[str, Tensor],
    source: str,
    new: EncoderConfig,
    old: EncoderConfig,
) -> None:
    # The added channels of the stream are zero, which lowers its variance by this share.
    scale = (old.embed_dim / new.embed_dim) ** 0.5
    for norm in ("norm1", "norm2"):
        weight = torch.ones_like(ours[f"{at}{norm}.weight"])
        weight[: old.embed_dim] = theirs[f"{source}{norm}.weight"] * scale
        ours[f"{at}{norm}.weight"] = weight
        ours[f"{at}{norm}.bias"] = _grown(theirs[f"{source}{norm}.bias"], weight.shape)
    for axis in ("h", "w"):
        key = f"attn.rel_pos_{axis}"
        ours[at + key] = _relative(theirs[source + key], len(ours[at + key]))
    width_new, width_old = ours[f"{at}attn.proj.weight"].shape[1], theirs[f"{source}attn.proj.weight"].shape[1]
    # Rows of queries, keys and values: what is added keeps its random weights, and its output is not used yet.
    for part in range(3):
        into, out_of = part * width_new, part * width_old
        rows = theirs[f"{source}attn.qkv.weight"][out_of : out_of + width_old]
        ours[f"{at}attn.qkv.weight"][into : into + width_old] = _grown(rows, (width_old, new.embed_dim))
        ours[f"{at}attn.qkv.bias"][into : into + width_old] = theirs[f"{source}attn.qkv.bias"][
            out_of : out_of + width_old
        ]
    for layer in ("attn.proj", "mlp.lin2"):
        weight = theirs[f"{source}{layer}.weight"]
        ours[f"{at}{layer}.weight"] = _grown(weight, ours[f"{at}{layer}.weight"].shape)
        ours[f"{at}{layer}.bias"] = _grown(theirs[f"{source}{layer}.bias"], ours[f"{at}{layer}.bias"].shape)
    hidden = theirs[f"{source}mlp.lin1.weight"]
    ours[f"{at}mlp.lin1.weight"][: len(hidden)] = _grown(hidden, (len(hidden), new.embed_dim))
    ours[f"{at}mlp.lin1.bias"][: len(hidden)] = theirs[f"{source}mlp.lin1.bias"]


def _grown(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor with zeros added at the end of each dimension."""
    grown = torch.zeros(tuple(shape), dtype=tensor.dtype)
    grown[tuple(slice(length) for length in tensor.shape)] = tensor
    return grown


def _relative(table: Tensor, length: int) -> Tensor:
    """Relative positions for more or fewer offsets: fewer are cut off around the middle, more repeat the outermost."""
    have = len(table)
    if length <= have:
        start = (have - length) // 2
        return table[start : start + length].clone()
    more = (length - have) // 2
    return torch.cat([table[:1].expand(more, -1), table, table[-1:].expand(more, -1)])


def share_decoder(model: Sam, source: Sam) -> None:
    """Fill a SAM 2's prompt encoder and mask decoder from a SAM's: whatever has the same name and shape in both.

    Not the last layer of the IoU head, whose output a SAM 2 puts through a sigmoid.
    """
    ours = model.state_dict()
    shared = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if name.startswith(("prompt_encoder.", "mask_decoder."))
        and not name.startswith("mask_decoder.iou_prediction_head.layers.2.")
        and name in ours
        and ours[name].shape == tensor.shape
    }
    model.load_state_dict(ours | shared)
