"""TinyViT's attention in an export: queries, keys and values by layers of their own, with the same answers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from students.quantized.layers import QuantizedLinear, QuantizedProduct
from students.quantized.quantizers import UniformQuantizer
from students.quantized.timm_attention import QuantizedTinyVitAttention
from students.tiny_vit import FreshBiases, of_rows

HEADS, WIDTH = 3, 8


def attention(value_ratio: int = 1) -> FreshBiases:
    """An attention on windows of 2 x 2 with random weights and biases."""
    torch.manual_seed(0)
    made = FreshBiases(24, WIDTH, HEADS, value_ratio, (2, 2)).requires_grad_(False)
    # timm's train() returns nothing.
    made.eval()
    nn.init.normal_(made.attention_biases)
    return made


def windows() -> Tensor:
    return torch.randn(5, 4, 24, generator=torch.Generator().manual_seed(1))


def prepared(model: FreshBiases) -> FreshBiases:
    copied = copy.deepcopy(model)
    copied.prepare_export()
    return copied


@pytest.mark.parametrize("value_ratio", [1, 2])
def test_a_float_attention_answers_as_before(value_ratio: int) -> None:
    model = attention(value_ratio)
    parts = prepared(model)
    assert not hasattr(parts, "qkv") and [layer.out_features for layer in parts.projections] == [
        HEADS * WIDTH,
        HEADS * WIDTH,
        HEADS * WIDTH * value_ratio,
    ]
    torch.testing.assert_close(parts(windows()), model(windows()))


@pytest.mark.parametrize(
    "grid",
    [{"shape": (72, 1)}, {"shape": ()}, {"shape": (72, 1), "parts": 3, "repeats": HEADS}],
    ids=["channel", "tensor", "qkv"],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_attention_answers_as_before(grid: dict[str, object], bits: int) -> None:
    model = attention()
    weight, given = UniformQuantizer(bits, True, **grid), UniformQuantizer(bits, False)  # type: ignore[arg-type]
    weight.scale.copy_(torch.rand(weight.scale.shape) * 0.02 + 0.01)
    given.set_range(torch.tensor(-3.0), torch.tensor(3.0))
    layer = QuantizedLinear((72, 24), 72, weight, given)
    layer.take(model.qkv.weight, torch.randn(72))
    layer.pack()
    model.qkv = layer  # type: ignore[assignment]
    model.__class__ = QuantizedTinyVitAttention
    grids = [UniformQuantizer(8, False) for _ in range(4)]
    for one in grids:
        one.set_range(torch.tensor(-4.0), torch.tensor(4.0))
    model.scores, model.mixing = QuantizedProduct(*grids[:2]), QuantizedProduct(*grids[2:])
    assert torch.equal(prepared(model)(windows()), model(windows()))


def test_rows_of_a_layer_without_a_bias_come_in_their_order() -> None:
    layer = nn.Linear(4, 6, bias=False)
    part = of_rows(layer, torch.tensor([5, 0]))
    x = torch.randn(3, 4)
    assert part.bias is None
    torch.testing.assert_close(part(x), layer(x)[:, [5, 0]])
