"""What is quantised, and how: plain settings."""

from dataclasses import dataclass, field

SINCE = {"identity": "unless default"}
"""Of a field that came once runs were kept: with its default, a run is the one that it was without it."""


@dataclass(frozen=True)
class Scheme:
    """How numbers become codes.

    Attributes:
        weight_bits: of weights, 2 to 8.
        activation_bits: of activations, 2 to 8, or 32: only weights are quantised.
        weights: a scale for each output ``channel``, or one for the ``tensor``.
        activations: ``asymmetric`` or ``symmetric``.
        linear_weights: of linear layers alone: ``same`` as ``weights``, ``channel``, ``tensor``, or ``qkv``: one scale
            a layer, but fused queries, keys and values have one each.
        linear_activations, product_activations: of the inputs of linear layers, and of products, alone: ``same`` as
            ``activations``, ``asymmetric`` or ``symmetric``.
        products: of attention: one scale for each ``head``, one for the ``tensor``, or ``float``.
        convolution_outputs: ``quantized``: with 8 bits a grid also stands behind each convolution (transposed ones
            aside), since runtimes compute it in integers only between two grids; or ``float``.
        twin: the twin grids of TinySAM for softmax and for inputs of linear layers that come from a GELU; no runtime
            knows them.
        softmax_grid: of what softmax gives: ``uniform``, or ``logarithmic`` (AGQ of PTQ4SAM); no runtime knows that.
        gelu_grid: of inputs of linear layers that come from a GELU: ``uniform``, or ``hybrid``: small values on a
            logarithmic grid (HLUQ of AHCPTQ); no runtime knows that.
        channel_groups: so many grids for the inputs of q, k and v and of the first layer of each MLP, each for channels
            of similar ranges (CAG of AHCPTQ); 0 for one grid. No runtime knows that.
        decoder: whether the mask decoder is ``quantized`` or stays ``float``.
        float_layers: beginnings of the paths of layers that stay float; one with a dot at its end is a whole module,
            one that is a layer's whole path is that layer alone.
        eight_bit_layers: patterns of the paths of layers and products that have 8 bits where others have fewer, such as
            ``mask_decoder.*.mixing``: what softmax gives the values of the mask decoder.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    weights: str = "channel"
    activations: str = "asymmetric"
    linear_weights: str = "same"
    linear_activations: str = "same"
    product_activations: str = "same"
    products: str = "tensor"
    convolution_outputs: str = "quantized"
    twin: bool = False
    decoder: str = "quantized"
    float_layers: tuple[str, ...] = ()
    eight_bit_layers: tuple[str, ...] = field(default=(), metadata=SINCE)
    softmax_grid: str = field(default="uniform", metadata=SINCE)
    gelu_grid: str = field(default="uniform", metadata=SINCE)
    channel_groups: int = field(default=0, metadata=SINCE)
