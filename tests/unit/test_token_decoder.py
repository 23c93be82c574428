"""The decoder of exported files: the masks of SAM's own, with linear layers in place of transposed convolutions."""

from pathlib import Path

import pytest
import torch
from torch import nn

from students.export.onnx_files import QUANTISED_OPSET, write_decoder
from students.export.parts import decoder_part, example_prompts, prepared
from students.export.token_decoder import TokenDecoder, as_linear, as_rows
from students.quantized.layers import QuantizedConvolution, QuantizedLayer
from students.quantized.plan import planned_copy, set_quantizing
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from teachers.weights import load_sam
from tests.unit.tiny import tiny_sam


@pytest.mark.parametrize("name", ["sam_pocket", "sam2_pocket"])
def test_it_answers_as_the_decoder_whose_layers_it_takes(name: str) -> None:
    model = prepared(load_sam(name))
    given = example_prompts(model, count=3)
    with torch.no_grad():
        of_maps, of_tokens = (decoder_part(model, on_tokens)(*given) for on_tokens in (False, True))
    for expected, found in zip(of_maps, of_tokens, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_one_mask_for_all_prompts_is_as_many_equal_ones() -> None:
    model = prepared(tiny_sam())
    features, points, labels, masks, has_mask = example_prompts(model)
    part, has_mask = decoder_part(model), torch.ones_like(has_mask)
    with torch.no_grad():
        once = part(features, points, labels, masks[:1], has_mask[:1])
        repeated = part(features, points, labels, masks[:1].expand_as(masks), has_mask)
    for one, other in zip(once, repeated, strict=True):
        torch.testing.assert_close(one, other)


def test_the_decoder_keeps_its_upscaling() -> None:
    decoder = tiny_sam().mask_decoder
    TokenDecoder(decoder)
    assert isinstance(decoder.output_upscaling[0], nn.ConvTranspose2d)


def test_a_transposed_convolution_by_hand() -> None:
    layer = nn.ConvTranspose2d(1, 1, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        layer.bias.fill_(0.5)
        found = as_linear(layer)(torch.tensor([[10.0]]))
    # Upper left, upper right, lower left, lower right.
    assert found.tolist() == [[10.5, 20.5, 30.5, 40.5]]


@pytest.mark.parametrize("packed", [False, True], ids=["in calibration", "packed"])
@pytest.mark.parametrize("shape", [(), (1, 5, 1, 1)], ids=["tensor", "channel"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_one_gives_the_same_values(bits: int, shape: tuple[int, ...], packed: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight, x = (torch.randn(size, generator=generator) for size in ((6, 5, 2, 2), (2, 6, 3, 3)))
    grids = UniformQuantizer(bits, True, shape), UniformQuantizer(bits, False)
    span = weight.abs().amax((0, 2, 3), keepdim=True) if shape else weight.abs().max()
    grids[0].set_range(-span, span)
    grids[1].set_range(x.min(), x.max())
    layer = QuantizedConvolution((6, 5, 2, 2), 5, *grids, stride=[2, 2], padding=[0, 0], groups=1, transposed=True)
    layer.take(weight, torch.randn(5, generator=generator))
    if packed:
        layer.pack()
    with torch.no_grad():
        # [2, 5, 6, 6] as [2, 9, 4, 5]: the pixels of each window together
        expected = layer(x).unflatten(2, (3, 2)).unflatten(4, (3, 2)).permute(0, 2, 4, 3, 5, 1).reshape(2, 9, 4, 5)
        found = as_linear(layer)(x.flatten(2).transpose(1, 2)).reshape(2, 9, 4, 5)
    torch.testing.assert_close(found, expected)


def test_rows_are_the_pixels_of_a_window() -> None:
    weight = torch.arange(24.0).reshape(3, 2, 2, 2)
    # Row 2 * pixel + channel: the second channel of the upper right pixel.
    assert as_rows(weight)[3].tolist() == weight[:, 1, 0, 1].tolist()


def test_files_have_no_transposed_convolution(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    model = planned_copy(tiny_sam(), Scheme())
    set_quantizing(model, True)
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.pack()
    write_decoder(tmp_path / "decoder.onnx", prepared(model), {}, upscale=False, opset=QUANTISED_OPSET)
    graph = onnx.load(tmp_path / "decoder.onnx").graph
    # Some runtimes have no tensors of more.
    assert max(len(value.type.tensor_type.shape.dim) for value in graph.value_info) == 4
    nodes = graph.node
    assert "ConvTranspose" not in {node.op_type for node in nodes}
    made_by = {name: node for node in nodes for name in node.output}

    def behind(name: str) -> str:
        node = made_by[name]
        return behind(node.input[0]) if node.op_type in ("Reshape", "Transpose") else str(node.op_type)

    # What the upscaling is computed from: the products before the first and the second GELU, on codes alone.
    operands = []
    for gelu in [node for node in nodes if node.op_type == "Gelu"][-2:]:
        found = gelu
        while found.op_type not in ("MatMul", "Gemm"):
            found = made_by[next(name for name in found.input if name in made_by)]
        operands += [behind(name) for name in found.input[:2]]
    assert operands == ["DequantizeLinear"] * 4
