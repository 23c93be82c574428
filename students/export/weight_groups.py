"""Weights alone in 8 or 4 bits: a scale for each group of a linear layer's inputs, as ``MatMulNBits`` computes them.

What is computed stays float32, and so does everything but the weights of linear layers. ONNX Runtime has the operator,
and OpenVINO reads it.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students.export.parts import UPSAMPLING

BITS = {"w8": 8, "w4": 4}
"""Bits of a weight, by the name of the precision."""
GROUP_SIZES = (32, 64, 128)
"""Inputs that share a scale; what both runtimes have."""
FEWEST_INPUTS = 32
"""Layers with fewer stay as they are: nothing would be saved, and the positions of prompts are such a product."""
DOMAIN, OPERATOR = "com.microsoft", "MatMulNBits"


def round_weights(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """A linear layer's weight ``[N, K]``, each group of its inputs on a grid of its own; same shape and dtype.

    The value of largest magnitude takes the lowest code, as in ONNX Runtime's own rounding, which therefore changes
    nothing more: codes run from ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``.

    Args:
        bits: 8 or 4.
        group_size: inputs that share a scale; the last group of an output may have fewer.
    """
    outputs, inputs = weight.shape
    lowest = -(2 ** (bits - 1))
    # [N, G, group_size]
    groups = F.pad(weight, (0, -inputs % group_size)).view(outputs, -1, group_size)
    peak = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = peak / lowest
    codes = (groups / torch.where(scale == 0, 1, scale)).round().clamp(lowest, -lowest - 1)
    return (codes * scale).flatten(1)[:, :inputs]


@torch.no_grad()
def round_linear_layers(model: nn.Module, bits: int, group_size: int) -> None:
    """:func:`round_weights` of all linear layers of at least :data:`FEWEST_INPUTS`, in place."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.in_features >= FEWEST_INPUTS:
            layer.weight.copy_(round_weights(layer.weight, bits, group_size))


def write_groups(path: Path, bits: int, group_size: int) -> None:
    """Store the rounded weights of an ONNX file's linear layers as codes and scales.

    They are matrix products there, or ``Gemm`` where what they are given has two dimensions, as tokens of the mask
    decoder's hypernetworks and of its head of predicted IoUs have. Those of the decoder's upscaling, convolutions in
    the model, stay float: they are few, and every pixel of a mask is made by them. What lay beside the file for its
    size has room in it then: the largest SAM takes 0.7 GB in 8 bits.
    """
    import onnx

    with _root_logger_kept():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(path)
    _part_biases(model.graph)
    small = {tensor.name for tensor in model.graph.initializer if tensor.dims and tensor.dims[0] < FEWEST_INPUTS}
    biases = {f"{path}.bias" for path in UPSAMPLING}
    upscaled = {name for node in model.graph.node if biases & {*node.input} for name in node.input}
    left_out = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and (node.input[1] in small or node.output[0] in upscaled)
    ]
    logger = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
    level = logger.level
    # It tells of every node that it leaves alone.
    logger.setLevel(logging.WARNING)
    try:
        quantizer = MatMulNBitsQuantizer(
            model, bits=bits, block_size=group_size, is_symmetric=True, nodes_to_exclude=left_out
        )
        quantizer.process()
    finally:
        logger.setLevel(level)
    for beside in path.parent.glob(f"{path.name}.*"):
        beside.unlink()
    onnx.save(quantizer.model.model, path)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Put the root logger back as it was: ONNX Runtime's quantiser sets one up for the whole program when imported."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _part_biases(graph: Any) -> None:
    """Every linear layer that is a ``Gemm`` as a product and a sum, in place: there is no ``Gemm`` of groups."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes, transposed = [], dict[str, str]()
    for node in graph.node:
        if not _is_linear_layer(node, weights):
            nodes.append(node)
            continue
        given, weight, *bias = node.input
        if weight not in transposed:
            transposed[weight] = f"{weight}_transposed"
            # [N, K] to [K, N]
            columns = np.ascontiguousarray(numpy_helper.to_array(weights[weight]).T)
            graph.initializer.append(numpy_helper.from_array(columns, transposed[weight]))
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [given, transposed[weight]], [product], name=f"{node.name}_product"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], node.output, name=node.name))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for name in transposed.keys() - read:
        graph.initializer.remove(weights[name])


def _is_linear_layer(node: Any, weights: dict[str, Any]) -> bool:
    """Whether a node is a ``Gemm`` as the exporter writes a linear layer of at least :data:`FEWEST_INPUTS`."""
    if node.op_type != "Gemm" or node.input[1] not in weights:
        return False
    from onnx import helper

    standard = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    found = standard | {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    wide = weights[node.input[1]].dims[1] >= FEWEST_INPUTS
    return wide and found == standard | {"transB": 1}
