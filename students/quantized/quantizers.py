"""From numbers to few codes and back: uniform grids, the only ones that runtimes compute with.

Every grid has an integer zero point, so that exact zero (and the zero padding of convolutions) is one of its values.
Rounding is half to even. While gradients are recorded, rounding passes them through where nothing was clipped.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


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


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """Lowest and highest code: signed around zero if symmetric, from zero up if not."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def to_codes(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """``clamp(round(x / scale) + zero_point, low, high)``, in the type of ``x``; all parts broadcast."""
    return (torch.round(x / scale) + zero_point).clamp(low, high)


class UniformQuantizer(nn.Module):
    """One grid of evenly spaced values for a tensor, or one for each entry of some of its dimensions.

    Args:
        bits: 2 to 8.
        symmetric: codes are signed and the zero point is 0; otherwise they begin at 0.
        shape: of the scales, which must broadcast against the tensor: ``()`` one for all, ``(O, 1)`` one a row.
        parts: rows share their scale in so many parts; 0 where each has its own.
        repeats: how often the parts follow each other: q, k and v of each head in turn have three, once a head.
    """

    scale: Tensor
    zero_point: Tensor
    kind = "uniform"

    def __init__(
        self, bits: int, symmetric: bool, shape: tuple[int, ...] = (), parts: int = 0, repeats: int = 1
    ) -> None:
        super().__init__()
        if parts and (parts < 0 or repeats < 1 or not shape or shape[0] % (parts * repeats)):
            raise ValueError(f"{shape} scales are not {repeats} times {parts} parts")
        self.parts, self.repeats = parts, repeats
        self.bits, self.symmetric, self.shape = bits, symmetric, tuple(shape)
        self.low, self.high = code_range(bits, symmetric)
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("zero_point", torch.zeros(self.shape, dtype=torch.int32))

    @property
    def axis(self) -> int | None:
        """The dimension with a scale an entry; None where one scale holds for all."""
        varying = [i for i, size in enumerate(self.shape) if size > 1]
        return varying[0] if varying else None

    def spread(self, part: Tensor) -> Tensor:
        """Scales or zero points, so that they broadcast against an activation."""
        return part

    def by_part(self, rows: Tensor) -> Tensor:
        """What belongs to each part of the rows ``[O, ...]``: ``[parts, O / parts, ...]``."""
        cut = rows.reshape(self.repeats, self.parts, -1, *rows.shape[1:])
        return cut.transpose(0, 1).flatten(1, 2)

    def of_parts(self, values: Tensor) -> Tensor:
        """One value a part ``[parts]``, for each row: of the scales' shape."""
        width = self.shape[0] // (self.parts * self.repeats)
        return values[None, :, None].expand(self.repeats, -1, width).reshape(self.shape)

    def set_range(self, lowest: Tensor, highest: Tensor) -> None:
        """Cover values from ``lowest`` to ``highest`` (tensors of the scales' shape), zero always included."""
        lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
        if self.symmetric:
            # Half a step beyond the last code still rounds to it.
            scale = torch.maximum(-lowest, highest) / (self.high + 0.5)
        else:
            scale = (highest - lowest) / (self.high - self.low)
        # A tensor of zeros needs no step; any will do.
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.zeros_like(scale) if self.symmetric else torch.round(-lowest / scale))

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes, int16, of the shape of ``x``."""
        return to_codes(x.float(), self.scale, self.zero_point, self.low, self.high).to(torch.int16)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for, float32."""
        return (codes.float() - self.zero_point) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values of the grid; shape and dtype unchanged."""
        if torch.compiler.is_exporting():
            from students.quantized.operators import quantize_dequantize

            return quantize_dequantize(x, self.scale, self.zero_point, self.low, self.high, self.axis)
        scale, zero = self.spread(self.scale), self.spread(self.zero_point)
        scaled = x.float() / scale
        if not torch.is_grad_enabled():
            # In place, since the search for grids is this and a matrix product, thousands of times.
            return scaled.round_().add_(zero).clamp_(self.low, self.high).sub_(zero).mul_(scale).to(x.dtype)
        return (nearest(scaled, self.low - zero, self.high - zero) * scale).to(x.dtype)

    def description(self) -> dict[str, Any]:
        """What :func:`make_quantizer` needs to make one like it."""
        found = {"kind": self.kind, "bits": self.bits, "symmetric": self.symmetric, "shape": list(self.shape)}
        return found | ({"parts": self.parts, "repeats": self.repeats} if self.parts else {})


def pass_gradient(rounded: Tensor, x: Tensor) -> Tensor:
    """``rounded`` in value, ``x`` in gradient (the straight-through estimator)."""
    return x + (rounded - x).detach() if x.requires_grad else rounded


def nearest(x: Tensor, low: Any, high: Any) -> Tensor:
    """The nearest whole numbers from ``low`` to ``high``, which are numbers or tensors.

    The gradient of ``x`` passes where nothing is clipped. A clamp behind the rounding would stop it at the
    first and last number too: ``torch.clamp`` has no gradient where its input equals a bound, as all inputs near one do
    once they are rounded.
    """
    whole = torch.round(x).clamp(low, high)
    return pass_gradient(whole, x.clamp(low - 0.5, high + 0.5)) if x.requires_grad else whole
