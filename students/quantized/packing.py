"""Codes of weights as bytes: one each, or two in a byte where four bits are enough."""

import math

import torch
from torch import Tensor


def packed_length(shape: tuple[int, ...], bits: int) -> int:
    """Bytes that the codes of a weight take."""
    count = math.prod(shape)
    return (count + 1) // 2 if bits <= 4 else count


def packed(codes: Tensor, bits: int) -> Tensor:
    """Signed codes of any shape as uint8 ``[packed_length]``."""
    flat = codes.flatten()
    if bits > 4:
        return flat.to(torch.int8).view(torch.uint8)
    nibbles = (flat & 15).to(torch.uint8)
    if len(nibbles) % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpacked(data: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
    """The codes of :func:`packed`, int8, in their shape."""
    if bits > 4:
        return data.view(torch.int8).reshape(shape)
    nibbles = torch.stack([data & 15, data >> 4], 1).flatten()[: math.prod(shape)].to(torch.int8)
    return torch.where(nibbles > 7, nibbles - 16, nibbles).reshape(shape)
