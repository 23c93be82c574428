"""A mask decoder whose upscaling computes on tokens: linear layers in place of SAM's transposed convolutions.

The windows of a transposed convolution of 2 x 2 with stride 2 do not overlap, so that it is a linear layer with four
outputs for each input pixel. On tokens these outputs may stay in the order they come in until the logits are computed:
four channels are moved then, where the convolutions' runtimes move 64 and 32 back and forth; and runtimes compute
linear layers in int8, transposed convolutions in float.
"""

import copy
from typing import Any, TypeGuard, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.feature_layout import EMBEDDING, HIGH_RES
from core.feature_maps import maps_of
from students.quantized.layers import QuantizedConvolution, QuantizedLinear
from students.quantized.quantizers import packed
from teachers.image_encoder import LayerNorm2d
from teachers.mask_decoder import Decoded, MaskDecoder

OUTPUTS = 4
"""Pixels that a transposed convolution makes of one."""


class TokenDecoder(nn.Module):
    """The same answers as a mask decoder, SAM's or SAM 2's.

    Args:
        decoder: in evaluation mode; of quantised layers, prepared for export.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        first, norm, self.activation, second, _ = decoder.output_upscaling
        self.norm = cast(LayerNorm2d, norm)
        self.first, self.second = as_linear(first), as_linear(second)
        # All of it but the upscaling, which stays with the decoder that is given.
        self.decoder = copy.copy(decoder)
        self.decoder._modules = {name: part for name, part in decoder._modules.items() if name != "output_upscaling"}

    def forward(self, embedding: Any, position: Tensor, sparse: Tensor, dense: Tensor) -> Decoded:
        """As of :meth:`teachers.mask_decoder.MaskDecoder.forward`, on the embedding (or the maps) of one image.

        Args:
            dense: of ``N`` prompts; runtimes also take one for all of them.
        """
        tokens, image = self._attend(maps_of(embedding)[EMBEDDING] + dense, position, sparse)
        count, grid = image.shape[0], position.shape[-1]
        # [N, g * g, C] to [N, 4 * g * g, C / 4] to [N, 16 * g * g, C / 8]
        x = self.first(image).reshape(count, OUTPUTS * grid**2, -1)
        if len(maps := maps_of(embedding)) > 1:
            x = x + middle_tokens(maps[HIGH_RES[1]], grid)
        x = self.second(self.activation(self.norm.on_tokens(x))).reshape(count, OUTPUTS**2 * grid**2, -1)
        if len(maps) > 1:
            x = x + fine_tokens(maps[HIGH_RES[0]], grid)
        logits = self.decoder.classifiers(tokens) @ self.activation(x).transpose(1, 2)
        # [N * 4, g * g, 4, 4], the first layer's outputs before the second's, to [N * 4, 16, g, g] the other way round:
        # each in its turn becomes pixels, and no tensor of a SAM has more than four dimensions, as some runtimes want.
        logits = logits.reshape(-1, grid**2, OUTPUTS, OUTPUTS).permute(0, 3, 2, 1).reshape(-1, OUTPUTS**2, grid, grid)
        logits = F.pixel_shuffle(F.pixel_shuffle(logits, 2), 2)
        return self.decoder.answers(tokens, logits.reshape(count, -1, 4 * grid, 4 * grid))

    def _attend(self, source: Tensor, position: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """As of :meth:`teachers.mask_decoder.MaskDecoder.attend`, of embeddings to which a mask's was added."""
        output_tokens, count = self.decoder.output_tokens(), sparse.shape[0]
        tokens = torch.cat([output_tokens.expand(count, -1, -1), sparse], 1)
        image, image_pe = (x.flatten(2).transpose(1, 2) for x in (source, position))
        # An image for each prompt, once it has its order: what one mask for all prompts gives is transposed once.
        image = image + sparse.new_zeros(count, 1, 1)
        tokens, image = self.decoder.transformer.on_tokens(image, image_pe, tokens)
        return tokens[:, : output_tokens.shape[0]], image


def middle_tokens(x: Tensor, grid: int) -> Tensor:
    """What SAM 2 adds after the first layer, ``[1, C / 4, 2g, 2g]``, in its order ``[1, 4 * g * g, C / 4]``."""
    return x.unflatten(2, (grid, 2)).unflatten(4, (grid, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


def fine_tokens(x: Tensor, grid: int) -> Tensor:
    """What SAM 2 adds after the second layer, ``[1, C / 8, 4g, 4g]``, in its order ``[1, 16 * g * g, C / 8]``."""
    return x.unflatten(2, (grid, 2, 2)).unflatten(5, (grid, 2, 2)).permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(1, 6)


@overload
def as_linear(layer: QuantizedConvolution) -> QuantizedLinear: ...


@overload
def as_linear(layer: nn.Module) -> nn.Linear | QuantizedLinear: ...


def as_linear(layer: nn.Module) -> nn.Linear | QuantizedLinear:
    """A transposed convolution without overlap as a linear layer, ``[..., in]`` to ``[..., 4 * out]``.

    Its outputs are the upper left, upper right, lower left and lower right pixel, each of all channels.

    Args:
        layer: an ``nn.ConvTranspose2d``, or a :class:`QuantizedConvolution` of one, with its codes or in calibration.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        weight = as_rows(layer.weight)
        linear = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach().repeat(OUTPUTS), requires_grad=False)
        return linear.train(layer.training)
    assert isinstance(layer, QuantizedConvolution) and layer.transposed
    grid = copy.deepcopy(layer.weight_quantizer)
    if grid.axis is not None:
        # [1, out, 1, 1], a scale for each output channel
        grid.shape = (OUTPUTS * grid.scale.numel(), 1)
        grid.scale, grid.zero_point = (
            part.flatten().repeat(OUTPUTS)[:, None] for part in (grid.scale, grid.zero_point)
        )
    inputs, outputs = layer.shape[:2]
    biases = None if layer.bias is None else OUTPUTS * outputs
    quantized = QuantizedLinear(
        (OUTPUTS * outputs, inputs), biases, grid, layer.input_quantizer, layer.output_quantizer
    )
    quantized.quantizing = layer.quantizing
    if layer.weight is not None:
        quantized.take(as_rows(layer.weight), None)
    else:
        quantized.codes = packed(as_rows(layer.weight_codes()), grid.bits)
        quantized.prepare_export()
    if layer.bias is not None:
        quantized.bias = nn.Parameter(layer.bias.detach().repeat(OUTPUTS), requires_grad=False)
    return quantized.train(layer.training)


def is_upsampling(layer: nn.Module) -> TypeGuard[QuantizedConvolution]:
    """Whether :func:`as_linear` takes a quantised layer: a transposed convolution whose windows do not overlap."""
    return isinstance(layer, QuantizedConvolution) and layer.transposed and layer.shape[2:] == layer.stride == (2, 2)


def as_rows(weight: Tensor) -> Tensor:
    """The weight of a transposed convolution ``[in, out, 2, 2]`` as a linear layer's ``[4 * out, in]``."""
    return weight.detach().permute(2, 3, 1, 0).reshape(-1, weight.shape[0]).contiguous()
