"""Linear layers, convolutions and matrix products with quantised operands.

While a model is calibrated each layer keeps its weight as it was and can be set to compute in float. Packing replaces
the weight by its codes: that is what files hold, and what runtimes compute with.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from students.quantized.quantizers import UniformQuantizer, packed, packed_length, unpacked
from students.quantized.simulated_grids import Quantizer, make_quantizer

QUANTISABLE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def is_quantisable(module: nn.Module) -> bool:
    """Whether a layer computes as quantised ones do.

    Some of timm do not: they pad by the size of what they are given, or standardise their weights at each call. Such a
    layer stays float.
    """
    if not isinstance(module, QUANTISABLE):
        return False
    plain = any(type(module).forward is kind.forward for kind in QUANTISABLE)
    if isinstance(module, nn.Linear):
        return plain
    as_numbers = module.padding_mode == "zeros" and module.padding != "same"
    return plain and as_numbers and all(step == 1 for step in module.dilation)


class QuantizedLayer(nn.Module):
    """A layer with a weight, computed from quantised weight and (unless only weights are quantised) input.

    Args:
        shape: of the weight.
        bias: whether there is one; it stays float.
        weight_quantizer, input_quantizer, output_quantizer: their grids; None where an input or output stays float.
    """

    codes: Tensor
    integers: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: int | None,
        weight_quantizer: UniformQuantizer,
        input_quantizer: Quantizer | None,
        output_quantizer: UniformQuantizer | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.weight: nn.Parameter | None = None
        self.bias = None if bias is None else nn.Parameter(torch.zeros(bias), requires_grad=False)
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer
        self.output_quantizer = output_quantizer
        self.quantizing = True
        self.register_buffer("codes", torch.zeros(packed_length(self.shape, weight_quantizer.bits), dtype=torch.uint8))
        self.register_buffer("integers", None, persistent=False)

    def take(self, weight: Tensor, bias: Tensor | None) -> None:
        """Begin calibration with a float layer's weight and bias; codes are made by :meth:`pack`."""
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        if self.bias is not None and bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def pack(self) -> None:
        """Replace the float weight by its codes, once the weight's grid is found."""
        assert self.weight is not None
        codes = self.weight_quantizer.codes(self.weight)
        self.codes = packed(codes, self.weight_quantizer.bits)
        self.weight = None

    def prepare_export(self) -> None:
        """Hold the codes as integers of the weight's shape alone: runtimes do not unpack bytes."""
        self.integers = self.weight_codes()
        self.codes = self.codes.new_empty(0)

    def weight_codes(self) -> Tensor:
        """The packed weight's codes, integers of its shape."""
        stored = self.integers
        return unpacked(self.codes, self.shape, self.weight_quantizer.bits) if stored is None else stored

    def effective_weight(self) -> Tensor:
        """The weight that is computed with, float32."""
        if self.weight is not None:
            return self.weight_quantizer(self.weight) if self.quantizing else self.weight
        quantizer = self.weight_quantizer
        if torch.compiler.is_exporting():
            from students.quantized.operators import dequantize

            return dequantize(self.weight_codes(), quantizer.scale, quantizer.zero_point, quantizer.axis)
        return quantizer.values(self.weight_codes())

    def forward(self, x: Tensor) -> Tensor:
        """As the float layer, on quantised operands."""
        if self.quantizing and self.input_quantizer is not None:
            x = self.input_quantizer(x)
        output = self.compute(x, self.effective_weight())
        return output if not self.quantizing or self.output_quantizer is None else self.output_quantizer(output)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's arithmetic on given operands."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """What :func:`make_layer` needs to make one like it."""
        return {
            "kind": KIND_OF[type(self)],
            "shape": list(self.shape),
            "bias": None if self.bias is None else len(self.bias),
            "weight": self.weight_quantizer.description(),
            "input": None if self.input_quantizer is None else self.input_quantizer.description(),
            "output": None if self.output_quantizer is None else self.output_quantizer.description(),
            **self.geometry(),
        }

    def geometry(self) -> dict[str, Any]:
        """Settings of the layer's arithmetic."""
        return {}


class QuantizedLinear(QuantizedLayer):
    """``[..., in]`` to ``[..., out]``."""

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        return F.linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def of_rows(self, rows: Tensor) -> "QuantizedLinear":
        """A packed layer with some of its outputs alone, in the order of ``rows`` ``[n]``; it shares its grids."""
        grid = copy.deepcopy(self.weight_quantizer)
        if grid.axis is not None:
            # Which rows share a scale is for the search, and is over.
            grid.parts, grid.shape = 0, (len(rows), 1)
            grid.scale, grid.zero_point = grid.scale[rows], grid.zero_point[rows]
        shape, bias = (len(rows), *self.shape[1:]), None if self.bias is None else len(rows)
        part = QuantizedLinear(shape, bias, grid, self.input_quantizer, self.output_quantizer)
        part.codes = packed(self.weight_codes()[rows], grid.bits)
        if self.bias is not None:
            part.bias = nn.Parameter(self.bias[rows], requires_grad=False)
        return part.train(self.training)


class QuantizedConvolution(QuantizedLayer):
    """A two-dimensional convolution ``[B, in, H, W]`` to ``[B, out, H', W']``, transposed or not."""

    def __init__(self, *args: Any, stride: list[int], padding: list[int], groups: int, transposed: bool) -> None:
        super().__init__(*args)
        self.stride, self.padding, self.groups, self.transposed = tuple(stride), tuple(padding), groups, transposed

    def compute(self, x: Tensor, weight: Tensor, padding: tuple[int, ...] | None = None) -> Tensor:
        """The convolution; ``padding`` replaces the layer's own."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        padding = self.padding if padding is None else padding
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, weight.to(x.dtype), bias, self.stride, padding, groups=self.groups)

    def geometry(self) -> dict[str, Any]:
        """Stride, padding, groups."""
        sizes = {"stride": list(self.stride), "padding": list(self.padding)}
        return {**sizes, "groups": self.groups, "transposed": self.transposed}


class QuantizedProduct(nn.Module):
    """A product of two activations, such as queries with keys.

    Args:
        left, right: grids of the operands.
    """

    def __init__(self, left: Quantizer, right: Quantizer) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.quantizing = True

    @property
    def by_head(self) -> bool:
        """Whether an operand has a scale for each head."""
        return any(isinstance(grid, UniformQuantizer) and grid.axis is not None for grid in (self.left, self.right))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``a @ b`` on quantised operands."""
        return self.left(a) @ self.right(b) if self.quantizing else a @ b

    def description(self) -> dict[str, Any]:
        """What :func:`make_product` needs to make one like it."""
        return {"left": self.left.description(), "right": self.right.description()}


KIND_OF = {QuantizedLinear: "linear", QuantizedConvolution: "convolution"}


def make_layer(description: dict[str, Any]) -> QuantizedLayer:
    """A layer by its description; weights and grids still have to be taken or loaded.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    kind = next(kind for kind, name in KIND_OF.items() if name == description["kind"])
    weight = make_quantizer(description["weight"])
    behind = None if description.get("output") is None else make_quantizer(description["output"])
    if type(weight) is not UniformQuantizer or type(behind) not in (UniformQuantizer, type(None)):
        raise ValueError("weights and outputs need uniform grids")
    given = None if description["input"] is None else make_quantizer(description["input"])
    geometry = {key: description[key] for key in ("stride", "padding", "groups", "transposed") if key in description}
    return kind(tuple(map(int, description["shape"])), description["bias"], weight, given, behind, **geometry)


def make_product(description: dict[str, Any]) -> QuantizedProduct:
    """A product by its description."""
    return QuantizedProduct(make_quantizer(description["left"]), make_quantizer(description["right"]))
