"""What becomes of some operators in ONNX, so that runtimes find the patterns they have kernels for.

This project's two quantisation operators become QuantizeLinear and DequantizeLinear. GELU, which ONNX has from opset 20
on only, is spelt in the order that ONNX Runtime recognises before that; PyTorch's own runs as five passes over memory.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from students.quantized.operators import axis_of

GELU_SINCE = 20
"""The opset that brought GELU as one operator."""
INT8, UINT8 = (-128, 127), (0, 255)
"""Lowest and highest code of the two types that ONNX keeps codes in."""


def translations(opset: int) -> dict[Any, Callable[..., Any]]:
    """The table ``custom_translation_table`` of :func:`torch.onnx.export`, for a version of ONNX's operators."""
    return {
        torch.ops.sampress.quantize_dequantize.default: _quantize_dequantize,
        torch.ops.sampress.dequantize.default: _dequantize,
        torch.ops.aten.gelu.default: _gelu if opset >= GELU_SINCE else _gelu_spelt,
    }


def _gelu(x: Any, approximate: str = "none") -> Any:
    from onnxscript import opset20 as op

    return op.Gelu(x, approximate=approximate)


def _gelu_spelt(x: Any, approximate: str = "none") -> Any:
    from onnxscript import opset18 as op

    half, one = _constant(op, 0.5), _constant(op, 1.0)
    if approximate == "tanh":
        cubed = op.Mul(_constant(op, 0.044715), op.Mul(x, op.Mul(x, x)))
        inner = op.Tanh(op.Mul(_constant(op, math.sqrt(2 / math.pi)), op.Add(x, cubed)))
    else:
        inner = op.Erf(op.Div(x, _constant(op, math.sqrt(2))))
    return op.Mul(op.Mul(x, op.Add(inner, one)), half)


def _quantize_dequantize(
    x: Any, scale: Any, zero_point: Any, low: int, high: int, axis: int | None = None
) -> Any:  # graph values, not tensors
    from onnx import TensorProto
    from onnxscript import opset18 as op

    lowest, highest = INT8 if low < 0 else UINT8
    if not lowest <= low <= high <= highest:
        raise ValueError(f"codes from {low} to {high} fit neither int8 nor uint8")
    rank = len(x.shape)
    varying = axis_of(tuple(scale.shape), rank, axis)
    if (low, high) != (lowest, highest):
        # QuantizeLinear fills its type; values beyond a narrower grid are cut before it.
        shape = _constant(op, [1] * rank if varying is None else [-1 if i == varying else 1 for i in range(rank)])
        around = op.Reshape(scale, shape), op.Cast(op.Reshape(zero_point, shape), to=TensorProto.FLOAT)
        least, most = (op.Mul(op.Sub(_constant(op, float(code)), around[1]), around[0]) for code in (low, high))
        x = op.Min(op.Max(x, least), most)
    scale, zero_point = _flat(op, scale, varying), _flat(op, zero_point, varying)
    zero_point = op.Cast(zero_point, to=TensorProto.INT8 if low < 0 else TensorProto.UINT8)
    # The attribute means nothing where there is one scale, but has to be within the rank.
    along = 0 if varying is None else varying
    codes = op.QuantizeLinear(x, scale, zero_point, axis=along)
    return op.DequantizeLinear(codes, scale, zero_point, axis=along)


def _dequantize(codes: Any, scale: Any, zero_point: Any, axis: int | None = None) -> Any:
    from onnxscript import opset18 as op

    varying = axis_of(tuple(scale.shape), len(codes.shape), axis)
    scale, zero_point = _flat(op, scale, varying), _flat(op, zero_point, varying)
    zero_point = op.CastLike(zero_point, codes)
    return op.DequantizeLinear(codes, scale, zero_point, axis=0 if varying is None else varying)


def _flat(op: Any, part: Any, varying: int | None) -> Any:
    """A scale as ONNX wants it: a scalar, or one dimension."""
    return op.Reshape(part, _constant(op, [] if varying is None else [-1]))


def _constant(op: Any, value: Any) -> Any:
    import numpy as np
    from onnx import numpy_helper

    array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
    return op.Constant(value=numpy_helper.from_array(array))
