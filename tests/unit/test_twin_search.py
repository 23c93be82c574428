"""The search for twin grids: softmax's split among powers of two, and the step of what follows a GELU."""

import pytest
import torch

from compressors.quantize.recording import Recorder
from compressors.quantize.search import Search, begin, search
from students.quantized.layers import QuantizedProduct, make_layer
from students.quantized.quantizers import UniformQuantizer
from students.quantized.simulated_grids import TwinQuantizer


@torch.no_grad()
@pytest.mark.parametrize("power", [0, 1, 5, 12])
def test_the_split_of_softmax_is_the_power_of_two_that_values_lie_below(power: int) -> None:
    """Values on the fine grid of one split, which no other one holds."""
    split, generator = 2.0**-power, torch.Generator().manual_seed(0)
    # 4 bits: steps of an eighth of the split, and in odd numbers, which a split twice as large has not.
    attention = (2 * torch.randint(0, 4, (2, 1, 8, 8), generator=generator) + 1) * split / 8
    # Beside them single values of the coarse grid.
    attention[:, :, 0, 0] = 1.0
    # Of codes alone, which its grid meets exactly.
    values = torch.randint(0, 256, (2, 1, 8, 4), generator=generator).float()
    values[0, 0, :2, 0] = torch.tensor([0.0, 255.0])
    product = QuantizedProduct(TwinQuantizer(4, "softmax"), UniformQuantizer(8, False))
    product.quantizing = False
    recorder = Recorder({"product": product}, 0)
    with recorder.on(0):
        product(attention, values)
    search(product, recorder.traces["product"], Search("mse", 4, 0.5, 1.2, 1))
    assert isinstance(product.left, TwinQuantizer) and float(product.left.scale) == split
    torch.testing.assert_close(product.left(attention), attention)


@torch.no_grad()
def test_the_step_behind_a_gelu_is_a_share_of_the_range() -> None:
    """A few large values among many small ones: the best step covers less than the range."""
    given = {"kind": "twin", "bits": 4, "values": "gelu"}
    weight = {"kind": "uniform", "bits": 8, "symmetric": True, "shape": []}
    layer = make_layer({"kind": "linear", "shape": [1, 2], "bias": None, "weight": weight, "input": given})
    layer.take(torch.ones(1, 2), None)
    layer.quantizing = False
    # All but one are halves up to 3.5, of which there are seven; that one is 5.
    x = torch.cat([torch.arange(1, 8).repeat(32) / 2, torch.tensor([0.0, 5.0])]).reshape(-1, 2)
    recorder = Recorder({"layer": layer}, 0)
    with recorder.on(0):
        layer(x)
    grid, trace = layer.input_quantizer, recorder.traces["layer"]
    assert isinstance(grid, TwinQuantizer)
    begin(layer, trace)
    assert float(grid.scale) == pytest.approx(5 / 8)
    search(layer, trace, Search("mse", 10, 0.2, 1.2, 1))
    # 0.8 of the range, one of the shares 0.2, 0.3 ... 1.2.
    assert float(grid.scale) == pytest.approx(0.5)
