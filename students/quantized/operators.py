"""Quantisation as two operators, so that an exported graph names it instead of spelling out its arithmetic.

Importing this file registers ``sampress::quantize_dequantize`` (of activations) and ``sampress::dequantize`` (of
weights, whose codes are stored). Quantised layers call them while they are exported. ONNX files hold QuantizeLinear and
DequantizeLinear for them (:mod:`students.export.onnx_files`); PyTorch's own files hold the arithmetic
(:data:`DECOMPOSITIONS`), since they must load where this project is not installed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("sampress::quantize_dequantize", mutates_args=())
def quantize_dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int | None = None
) -> Tensor:
    """The nearest values of a grid, rounding half to even.

    ``q = clamp(round(x / scale) + zero_point, low, high)``, then ``(q - zero_point) * scale``.

    Args:
        x: activations of any shape and floating dtype.
        scale: float32: one element; ``[n]`` along ``axis``; or of a shape that broadcasts against ``x``.
        zero_point: integer codes of exact zero, of the shape of ``scale``.
        low, high: lowest and highest code.
        axis: of ``x``, where ``scale`` has one dimension; otherwise the shape of ``scale`` says it.

    Returns:
        Shape and dtype of ``x``.
    """
    return quantized_and_back(x, scale, zero_point, low, high, axis)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int | None = None) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("sampress::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    """What stored codes stand for: ``(codes - zero_point) * scale``.

    Args:
        codes: int8, of a weight's shape.
        scale, zero_point, axis: as of :func:`quantize_dequantize`.

    Returns:
        float32 of the same shape.
    """
    return values_of(codes, scale, zero_point, axis)


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


def quantized_and_back(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int | None = None
) -> Tensor:
    """The arithmetic of :func:`quantize_dequantize` in PyTorch's own operators."""
    scale, zero_point = (along(part, x.dim(), axis) for part in (scale, zero_point))
    codes = (torch.round(x.float() / scale) + zero_point).clamp(low, high)
    return ((codes - zero_point) * scale).to(x.dtype)


def values_of(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    """The arithmetic of :func:`dequantize` in PyTorch's own operators."""
    scale, zero_point = (along(part, codes.dim(), axis) for part in (scale, zero_point))
    return (codes.float() - zero_point) * scale


def along(part: Tensor, rank: int, axis: int | None) -> Tensor:
    """A scale or zero point, shaped so that it broadcasts against a tensor of ``rank`` dimensions."""
    if part.numel() == 1:
        return part.reshape(())
    if part.dim() > 1:
        return part
    shape = [1] * rank
    shape[axis_of(tuple(part.shape), rank, axis) or 0] = -1
    return part.reshape(shape)


def axis_of(shape: tuple[int, ...], rank: int, axis: int | None) -> int | None:
    """Along which dimension of a tensor of ``rank`` dimensions scales of a shape vary; None where there is but one.

    Raises:
        ValueError: they vary along several, or it is not said along which.
    """
    varying = [place for place, size in enumerate(shape) if size != 1]
    if not varying:
        return None
    if len(varying) > 1:
        raise ValueError(f"scales of shape {shape} vary along several dimensions; runtimes take one")
    if len(shape) > 1:
        # Shapes broadcast from the right.
        return rank - len(shape) + varying[0]
    if axis is None:
        raise ValueError(f"{shape[0]} scales need an axis")
    return axis % rank


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.sampress.quantize_dequantize.default: quantized_and_back,
    torch.ops.sampress.dequantize.default: values_of,
}
"""What takes the operators' place in a program that must load without this project."""
