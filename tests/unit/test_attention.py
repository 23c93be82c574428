"""Every way of computing attention is the definition, forwards and backwards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import teachers.attention
from teachers.attention import attend_at_once, attend_by_definition, attend_folded, attend_in_parts

WAYS = {"at once": attend_at_once, "folded": attend_folded, "in parts": attend_in_parts}
SIZES = [(4, 4), (3, 7), (6, 5)]


def inputs(height: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [*[(2, 3, height * width, 5)] * 3, (2, 3, height, width, height), (2, 3, height, width, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.fixture(autouse=True)
def parts_that_do_not_divide_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers.attention, "PART", 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_values_and_gradients_are_the_definitions(way: str, size: tuple[int, int]) -> None:
    given = inputs(*size)
    outputs, gradients = [], []
    for attend in (attend_by_definition, WAYS[way]):
        out = attend(*given)
        weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        outputs.append(out)
        gradients.append(torch.autograd.grad((out * weight).sum(), given))
    assert outputs[1].shape == (2, 3, size[0] * size[1], 5)
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(outputs[1], outputs[0], **tolerance)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.slow
def test_gradients_in_parts_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    # Six places: a part and a half.
    monkeypatch.setattr(teachers.attention, "PART", 4)
    assert torch.autograd.gradcheck(attend_in_parts, inputs(2, 3), eps=1e-6, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attend", [attend_by_definition, attend_in_parts])
def test_bfloat16_under_autocast(attend: Callable[..., Tensor]) -> None:
    given = inputs(6, 5, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*given)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().square().sum(), given)
    exact = inputs(6, 5)
    expected = attend_by_definition(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)
    for found, right in zip(gradients, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.double() - right).norm() < 0.05 * right.norm()
