"""Bias correction (Nagel et al. 2019, section 4.2; PTQ4ViT's ``bias_correction``)."""

import torch

from compressors.quantize.recording import LayerTrace
from compressors.quantize.search import computed, quantized
from students.quantized.layers import QuantizedConvolution, QuantizedLayer


@torch.no_grad()
def correct_bias(layer: QuantizedLayer, trace: LayerTrace) -> None:
    """Take from the bias, in place, what quantising the weight adds to each output channel in the mean.

    The mean is over everything that was drawn of the layer's calls, with inputs on their grid; afterwards it is zero. A
    layer without a bias, or without calls, stays as it is.
    """
    records = list(trace.records.values())
    if layer.bias is None or layer.weight is None or not records:
        return
    shift, count = torch.zeros_like(layer.bias), 0
    for record in records:
        x = quantized(layer.input_quantizer, record.inputs[0])
        error = computed(layer, x, layer.weight_quantizer(layer.weight)) - computed(layer, x, layer.weight)
        by_channel = error.movedim(1 if isinstance(layer, QuantizedConvolution) else -1, 0).flatten(1)
        shift += by_channel.sum(1)
        count += by_channel.shape[1]
    layer.bias.sub_(shift / count)
