"""Operands in turn: a layer's grids as a search by hand finds them, and heads as each would be searched alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from compressors.quantize.recording import LayerTrace, Recorder
from compressors.quantize.search import Search, search
from students.quantized.layers import QuantizedLayer, QuantizedProduct, make_layer
from students.quantized.quantizers import UniformQuantizer


def best_range(grid: UniformQuantizer, x: Tensor, answer: Callable[[], Tensor], expected: Tensor, how: Search) -> None:
    """Let a grid cover the share of a tensor's range with which the answer is nearest."""
    errors = []
    for share in how.shares():
        grid.set_range(share * x.amin(), share * x.amax())
        errors.append(float((answer() - expected).square().sum()))
    share = how.shares()[errors.index(min(errors))]
    grid.set_range(share * x.amin(), share * x.amax())


def by_hand(x: Tensor, weight: Tensor, how: Search) -> list[float]:
    """The steps of input, weight and output of a linear layer of 3 bits, with a weight on its grid (PTQ4ViT)."""
    given, rows, behind = (UniformQuantizer(3, symmetric=True) for _ in range(3))
    expected = linear(x, weight)
    given.set_range(x.amin(), x.amax())
    for _ in range(how.rounds):
        best_range(rows, weight, lambda: linear(given(x), rows(weight)), expected, how)
        best_range(given, x, lambda: linear(given(x), rows(weight)), expected, how)
    output = linear(given(x), rows(weight))
    best_range(behind, expected, lambda: behind(output), expected, how)
    return [float(grid.scale) for grid in (given, rows, behind)]


def traced(layer: QuantizedLayer | QuantizedProduct, *inputs: Tensor) -> LayerTrace:
    recorder = Recorder({"layer": layer}, 0)
    with recorder.on(0):
        layer(*inputs)
    return recorder.traces["layer"]


@torch.no_grad()
def test_rounds_and_the_grid_behind_a_layer_by_hand() -> None:
    generator = torch.Generator().manual_seed(6)
    x, weight = torch.randn(64, 6, generator=generator) ** 3, torch.randn(5, 6, generator=generator)
    grid = {"kind": "uniform", "bits": 3, "symmetric": True, "shape": []}
    found = {}
    for rounds in (1, 2):
        layer = make_layer(
            {"kind": "linear", "shape": [5, 6], "bias": None, "weight": grid, "input": grid, "output": grid}
        )
        layer.take(weight, None)
        layer.quantizing = False
        how = Search("mse", 30, 0.05, 1.1, rounds, "quantized")
        search(layer, traced(layer, x), how)
        grids = layer.input_quantizer, layer.weight_quantizer, layer.output_quantizer
        found[rounds] = [float(grid.scale) for grid in grids if isinstance(grid, UniformQuantizer)]
        assert found[rounds] == pytest.approx(by_hand(x, weight, how))
    # The second round finds others, and the grid behind the layer does not cover the full range.
    assert all(one != other for one, other in zip(*found.values(), strict=True))
    assert found[2][2] < 0.9 * float(linear(x, weight).abs().max()) / 3.5


def product_of(heads: int) -> QuantizedProduct:
    """With a scale for each head, in float as calibration has it."""
    shape = (heads, 1, 1) if heads > 1 else ()
    product = QuantizedProduct(UniformQuantizer(4, False, shape), UniformQuantizer(4, True, shape))
    product.quantizing = False
    return product


@torch.no_grad()
def test_each_head_has_the_grids_that_it_would_have_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    size = torch.tensor([1.0, 10.0, 0.1])[:, None, None]
    # The tails of the second and the third are longer: their best shares of the range differ too.
    power = torch.tensor([1.0, 3.0, 5.0])[:, None, None]
    left, right = (
        size * x.sign() * x.abs() ** power for x in torch.randn(2, 2, 3, 16, 16, generator=generator).unbind()
    )
    product, how = product_of(3), Search("mse", 20, 0.2, 1.1, 2)
    search(product, traced(product, left, right), how)
    shares = set[float]()
    for head in range(3):
        alone = product_of(1)
        one = slice(head, head + 1)
        search(alone, traced(alone, left[:, one], right[:, one]), how)
        for grid, expected in ((product.left, alone.left), (product.right, alone.right)):
            assert isinstance(grid, UniformQuantizer) and isinstance(expected, UniformQuantizer)
            torch.testing.assert_close(grid.scale[head, 0, 0], expected.scale)
            assert grid.zero_point[head, 0, 0] == expected.zero_point
        assert isinstance(alone.right, UniformQuantizer)
        shares.add(round(float(alone.right.scale / right[:, head].abs().max()), 6))
    assert len(shares) == 3
