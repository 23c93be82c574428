"""How wrong each layer is on its grids, and what the task loss is expected to lose by it."""

import math
from typing import Any

from torch import Tensor

from compressors.quantize.recording import LayerTrace, TracedCall
from compressors.quantize.search import computed, quantized
from students.quantized.layers import QuantizedConvolution, QuantizedLayer, QuantizedProduct
from students.quantized.simulated_grids import Quantizer


def layer_error(path: str, layer: QuantizedLayer | QuantizedProduct, trace: LayerTrace) -> dict[str, Any]:
    """One line of ``quantisation.json``, of a layer whose grids are found and whose weight is not packed yet.

    Ratios are in decibels: ``10 log10(sum of squares of the float values / sum of squared errors)``, over everything
    that was drawn of the layer's calls. They are None where there is no error, no signal, or (of a weight) no weight.

    Args:
        path: of the layer in its model.
        trace: what the search used. In sequential order its inputs come from layers that are quantised already, so the
            output's error holds theirs too.

    Returns:
        ``layer``, ``kind`` (``linear``, ``convolution``, ``transposed convolution`` or ``product``), ``weight_bits``,
        ``activation_bits`` (None: float), ``weight_sqnr_db``, ``output_sqnr_db``.
    """
    records = list(trace.records.values())
    outputs = [(record.output, _answer(layer, record)) for record in records]
    line: dict[str, Any] = {"layer": path, "kind": _kind(layer), "weight_bits": None, "activation_bits": None}
    weight_sqnr = None
    if isinstance(layer, QuantizedLayer):
        line |= {"weight_bits": layer.weight_quantizer.bits, "activation_bits": _bits(layer.input_quantizer)}
        if layer.weight is not None:
            weight_sqnr = decibels([(layer.weight, layer.weight_quantizer(layer.weight))])
    else:
        line["activation_bits"] = _bits(layer.left)
    return line | {"weight_sqnr_db": weight_sqnr, "output_sqnr_db": decibels(outputs)}


def expected_loss(layer: QuantizedLayer | QuantizedProduct, trace: LayerTrace) -> float:
    """What the task loss is expected to lose by a layer's grids, all calls together: half the squared error, weighed by
    the squared gradient (the diagonal of the Fisher information where that is of :func:`fisher_loss`).

    Of each call a part was drawn; its mean stands for the whole output.
    """
    found = 0.0
    for record in trace.records.values():
        if record.gradient is not None:
            weighed = (_answer(layer, record) - record.output) * record.gradient
            found += float(weighed.double().square().mean()) * record.size
    return found / 2


def decibels(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    """Signal to quantisation noise of pairs ``(float, quantised)`` together; None without signal or without noise."""
    signal = sum(float(expected.double().square().sum()) for expected, _ in pairs)
    noise = sum(float((found.double() - expected.double()).square().sum()) for expected, found in pairs)
    ratio = signal / noise if noise > 0 else 0.0
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else None


def _answer(layer: QuantizedLayer | QuantizedProduct, record: TracedCall) -> Tensor:
    """The layer's output with its grids, whether or not it quantises at the moment."""
    if isinstance(layer, QuantizedProduct):
        left, right = record.inputs
        return layer.left(left) @ layer.right(right)
    assert layer.weight is not None
    output = computed(layer, quantized(layer.input_quantizer, record.inputs[0]), layer.weight_quantizer(layer.weight))
    return quantized(layer.output_quantizer, output)


def _kind(layer: QuantizedLayer | QuantizedProduct) -> str:
    if isinstance(layer, QuantizedProduct):
        return "product"
    if isinstance(layer, QuantizedConvolution):
        return "transposed convolution" if layer.transposed else "convolution"
    return "linear"


def _bits(quantizer: Quantizer | None) -> int | None:
    return None if quantizer is None else quantizer.bits
