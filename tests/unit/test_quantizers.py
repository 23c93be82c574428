"""Grids against values worked out by hand, and what must hold of every grid."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from students.quantized.quantizers import (
    UniformQuantizer,
    code_range,
    packed,
    packed_length,
    unpacked,
)
from students.quantized.simulated_grids import TwinQuantizer


def covering(bits: int, symmetric: bool, lowest: float, highest: float) -> UniformQuantizer:
    quantizer = UniformQuantizer(bits, symmetric)
    quantizer.set_range(torch.tensor(lowest), torch.tensor(highest))
    return quantizer


def test_symmetric_by_hand() -> None:
    quantizer = covering(8, True, -1.0, 2.55)
    # 2.55 / 127.5
    assert float(quantizer.scale) == pytest.approx(0.02) and int(quantizer.zero_point) == 0
    x = torch.tensor([0.0, 0.01, 0.03, 0.05, 1.0, -1.0, 9.0, -9.0])
    # Ties go to the even code: 0.5, 1.5 and 2.5 steps.
    assert quantizer.codes(x).tolist()[:1] + quantizer.codes(x).tolist()[4:] == [0, 50, -50, 127, -128]
    assert quantizer(x).tolist()[4:] == pytest.approx([1.0, -1.0, 2.54, -2.56])
    exact = UniformQuantizer(8, True)
    assert exact.codes(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_asymmetric_by_hand() -> None:
    quantizer = covering(8, False, -0.51, 2.04)
    assert float(quantizer.scale) == pytest.approx(0.01) and int(quantizer.zero_point) == 51
    x = torch.tensor([-0.51, 0.0, 2.04, -3.0, 3.0, 0.1])
    assert quantizer.codes(x).tolist() == [0, 51, 255, 0, 255, 61]
    assert quantizer(x).tolist() == pytest.approx([-0.51, 0, 2.04, -0.51, 2.04, 0.1], abs=1e-6)


@given(st.integers(2, 8), st.booleans(), st.floats(-100, 100), st.floats(-100, 100))
def test_exact_zero_is_a_value_of_every_grid(bits: int, symmetric: bool, one: float, other: float) -> None:
    quantizer = covering(bits, symmetric, min(one, other), max(one, other))
    low, high = code_range(bits, symmetric)
    assert low <= int(quantizer.zero_point) <= high
    assert float(quantizer(torch.zeros(()))) == 0.0
    assert math.isfinite(float(quantizer.scale)) and float(quantizer.scale) > 0


@given(st.integers(2, 8), st.booleans(), st.integers(0, 1000))
def test_inside_the_range_the_error_is_half_a_step(bits: int, symmetric: bool, seed: int) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed))
    quantizer = covering(bits, symmetric, float(x.min()), float(x.max()))
    error = (quantizer(x) - x).abs().max()
    # A whole step at the ends, where the zero point was rounded.
    assert float(error) <= float(quantizer.scale) * (0.5 if symmetric else 1.0) * (1 + 1e-4)
    assert torch.equal(quantizer.values(quantizer.codes(x)), quantizer(x))
    assert torch.equal(quantizer(quantizer(x)), quantizer(x))


def test_a_scale_for_each_channel() -> None:
    weight = torch.tensor([[1.0, -1.5], [100.0, 50.0]])
    quantizer = UniformQuantizer(8, True, (2, 1))
    quantizer.set_range(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True))
    assert quantizer.axis == 0
    assert quantizer.scale.flatten().tolist() == pytest.approx([1.5 / 127.5, 100 / 127.5])
    assert quantizer.codes(weight)[:, 0].tolist() == [85, 127] and int(quantizer.codes(weight)[1, 1]) == 64


def test_the_gradient_passes_where_nothing_is_clipped() -> None:
    quantizer = covering(4, False, 0.0, 1.5)
    x = torch.tensor([-1.0, 0.33, 1.2, 7.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("grid", [covering(4, False, -0.5, 1.0), TwinQuantizer(4, "gelu"), TwinQuantizer(4, "softmax")])
def test_values_at_both_ends_of_a_grid_have_a_gradient(grid: UniformQuantizer | TwinQuantizer) -> None:
    if isinstance(grid, TwinQuantizer):
        grid.scale.fill_(1 / 7 if grid.of == "gelu" else 0.1)
    ends = {"uniform": [-0.5, 1.0], "gelu": [-0.165, 1.0], "softmax": [0.0, 1.0]}[getattr(grid, "of", "uniform")]
    x = torch.tensor([*ends, 9.0], requires_grad=True)
    grid(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([1, 1, 0])


@given(st.integers(2, 8), st.integers(1, 9), st.integers(1, 9))
def test_codes_survive_packing(bits: int, rows: int, columns: int) -> None:
    low, high = code_range(bits, True)
    codes = torch.randint(low, high + 1, (rows, columns))
    data = packed(codes, bits)
    assert data.dtype == torch.uint8 and len(data) == packed_length((rows, columns), bits)
    assert torch.equal(unpacked(data, (rows, columns), bits).long(), codes)


def test_four_bits_take_half_a_byte() -> None:
    assert packed_length((3, 5), 4) == 8 and packed_length((3, 5), 5) == 15
