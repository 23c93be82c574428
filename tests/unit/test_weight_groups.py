"""Weights in groups: the grid by hand, ONNX Runtime's own rounding, and files that were tampered with."""

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from core.errors import InputError
from students.export.checking import check_onnx
from students.export.folder import export_model
from students.export.manifest import read_manifest
from students.export.parts import UPSAMPLING, decoder_part, example_prompts, prepared
from students.export.runtimes import RUNTIMES
from students.export.segmenter import ExportedSam
from students.export.weight_groups import FEWEST_INPUTS, round_linear_layers, round_weights, write_groups
from teachers.weights import load_sam


def test_a_grid_by_hand() -> None:
    weight = torch.tensor([[8.0, -4.0, 1.0, 0.4, -7.0, 3.4], [0.0, 0.0, 0.0, 0.0, 2.0, -2.0]])
    # Scales -1, 0.875, none and -0.25; the last group has two inputs, and of 2 and -2 the first one is met.
    expected = torch.tensor([[8.0, -4.0, 1.0, 0.0, -7.0, 3.5], [0.0, 0.0, 0.0, 0.0, 2.0, -1.75]])
    assert torch.equal(round_weights(weight, 4, 4), expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_weights_stay(bits: int) -> None:
    weight = torch.randn(7, 100, generator=torch.Generator().manual_seed(0))
    once = round_weights(weight, bits, 32)
    assert torch.equal(round_weights(once, bits, 32), once)
    # Half a step, or a whole one at the end of the grid that the largest value is not at.
    step = weight.abs().max() / 2 ** (bits - 1)
    assert 0 < (once - weight).abs().max() <= step


def test_narrow_layers_stay() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(31, 4), torch.nn.Linear(32, 4))
    before = [layer.weight.clone() for layer in layers]
    round_linear_layers(layers, 4, 32)
    assert [torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True)] == [True, False]


def product(path: Path, weight: torch.Tensor) -> None:
    """A file of one matrix product, as the exporter writes linear layers."""
    matrix = numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), "weight")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", weight.shape[1]), ("y", weight.shape[0]))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")], "g", values[:1], values[1:], [matrix]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def columns(path: Path, inputs: int) -> torch.Tensor:
    """The weight that a file multiplies by, ``[N, K]``."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": np.eye(inputs, dtype=np.float32)})[0]).T


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_files_hold_what_pytorch_rounds_to(bits: int, group_size: int, tmp_path: Path) -> None:
    weight = torch.randn(24, 160, generator=torch.Generator().manual_seed(bits))
    rounded, path = round_weights(weight, bits, group_size), tmp_path / "product.onnx"
    for given in (weight, rounded):
        product(path, given)
        write_groups(path, bits, group_size)
        check_onnx(path)
        # ONNX Runtime's own rounding of the float weight, and that of the rounded one, which changes nothing.
        assert torch.allclose(columns(path, 160), rounded, rtol=0, atol=1e-6)
    assert {node.op_type for node in onnx.load(path).graph.node} == {"MatMulNBits"}


def test_the_root_logger_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    # Imported anew, as in a program that has not written such a file yet.
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False)
    product(tmp_path / "product.onnx", torch.ones(2, 32))
    write_groups(tmp_path / "product.onnx", 4, 32)
    assert (root.handlers, root.level) == ([], logging.WARNING)


def gemm(path: Path, weight: torch.Tensor, bias: torch.Tensor | None, **attributes: float) -> None:
    """A file of one ``Gemm``, as the exporter writes linear layers of inputs in two dimensions; weight ``[N, K]``."""
    parts = [numpy_helper.from_array(weight.numpy(), "weight")]
    parts += [] if bias is None else [numpy_helper.from_array(bias.numpy(), "bias")]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", weight.shape[1]), ("y", weight.shape[0]))
    ]
    node = helper.make_node("Gemm", ["x", *(p.name for p in parts)], ["y"], name="layer", **{"transB": 1} | attributes)
    graph = helper.make_graph([node], "g", values[:1], values[1:], parts)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize("bias", [torch.arange(24.0), None])
def test_layers_of_inputs_in_two_dimensions(bias: torch.Tensor | None, tmp_path: Path) -> None:
    weight, path = torch.randn(24, 160, generator=torch.Generator().manual_seed(0)), tmp_path / "gemm.onnx"
    gemm(path, weight, bias)
    write_groups(path, 4, 32)
    check_onnx(path)
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node] == ["MatMulNBits", "Add"][: 1 if bias is None else 2]
    assert not [tensor.name for tensor in graph.initializer if [*tensor.dims] in ([24, 160], [160, 24])]
    expected = round_weights(weight, 4, 32) + (0 if bias is None else bias[:, None])
    torch.testing.assert_close(columns(path, 160), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inputs, attributes", [(31, {}), (160, {"alpha": 2.0}), (160, {"beta": 0.5})])
def test_other_sums_of_products_stay(inputs: int, attributes: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "gemm.onnx"
    gemm(path, torch.randn(24, inputs), torch.ones(24), **attributes)
    before = columns(path, inputs)
    write_groups(path, 4, 32)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Gemm"]
    assert torch.equal(columns(path, inputs), before)


def test_all_linear_layers_of_a_decoder_are_stored_in_few_bits(pocket_onnx: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "decoder.onnx", prepared(load_sam("sam_pocket"))
    shutil.copy(pocket_onnx / "decoder.onnx", path)
    write_groups(path, 4, 32)
    graph = onnx.load(path).graph
    layers = [layer for layer in model.mask_decoder.modules() if isinstance(layer, torch.nn.Linear)]
    in_groups = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(in_groups) == sum(layer.in_features >= FEWEST_INPUTS for layer in layers)
    # A float weight of two dimensions is of positions, or of the two layers of the upscaling, which stay.
    matrices = [[*tensor.dims] for tensor in graph.initializer if tensor.data_type == 1 and len(tensor.dims) == 2]
    wide = [dims for dims in matrices if min(dims) >= FEWEST_INPUTS]
    upscaling = [layer for layer in model.mask_decoder.output_upscaling if hasattr(layer, "kernel_size")]
    assert sorted(wide) == sorted([layer.in_channels, 4 * layer.out_channels] for layer in upscaling)
    inputs = example_prompts(model, 3, 4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    arrays = {name: part.numpy() for name, part in zip(names, inputs, strict=False)}
    found = session.run(["low_res_masks", "iou_predictions"], {"orig_im_size": np.float32([90, 128])} | arrays)
    round_linear_layers(model, 4, 32)
    with torch.inference_mode():
        expected = decoder_part(model)(*inputs)
    for answer, logits in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(answer), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_rounds_no_inputs(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra export is not installed")
    weight = torch.randn(96, 160, generator=torch.Generator().manual_seed(bits))
    path, inputs = tmp_path / "product.onnx", torch.randn(64, 160, generator=torch.Generator().manual_seed(7))
    product(path, weight)
    write_groups(path, bits, 32)
    (found,) = RUNTIMES["openvino"](path, ["y"], f"w{bits}")({"x": inputs.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found), inputs @ round_weights(weight, bits, 32).T, rtol=1e-4, atol=1e-4
    )


def set_attribute(name: str, value: int) -> Callable[[onnx.ModelProto], None]:
    """What gives a product's attribute another value."""

    def change(model: onnx.ModelProto) -> None:
        (attribute,) = [found for found in model.graph.node[0].attribute if found.name == name]
        attribute.i = value

    return change


def rename(model: onnx.ModelProto) -> None:
    """Another operator of the same domain."""
    model.graph.node[0].op_type = "QMoE"


def lose_scales(model: onnx.ModelProto) -> None:
    """The scales are computed, and so of any size."""
    model.graph.node[0].input[2] = "x"


@pytest.mark.parametrize(
    "tamper",
    [
        *(set_attribute("N", 25), set_attribute("K", 1 << 40), set_attribute("K", -160), set_attribute("bits", 2)),
        *(set_attribute("block_size", 16), set_attribute("block_size", 0), rename, lose_scales),
    ],
)
def test_products_that_claim_other_sizes_are_refused(tamper: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    product(path, torch.randn(24, 160))
    write_groups(path, 4, 32)
    model = onnx.load(path)
    tamper(model)
    onnx.save(model, path)
    with pytest.raises(InputError, match="export it again"):
        check_onnx(path)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_whole_model(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime, reason="the extra export is not installed")
    model = load_sam("sam_pocket")
    sizes = {}
    for precision in ("fp32", "w8", "w4"):
        manifest = export_model(model, tmp_path / precision, "onnx", precision, group_size=64)
        assert (
            read_manifest(tmp_path / precision).group_size
            == manifest.group_size
            == (None if precision == "fp32" else 64)
        )
        sizes[precision] = manifest.bytes
        # Compared with the model whose weights are rounded alike.
        assert max(manifest.difference.values()) < 1e-5
    assert sizes["w4"] < sizes["w8"] < 0.45 * sizes["fp32"]
    # The upscaling, which is two convolutions in the model, has float weights.
    graph = onnx.load(tmp_path / "w4" / "decoder.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    added = [node for node in graph.node if {f"{path}.bias" for path in UPSAMPLING} & {*node.input}]
    assert [made_by[next(name for name in node.input if name in made_by)] for node in added] == ["MatMul"] * 2
    image = torch.randn(1, 3, 128, 128)
    expected = ExportedSam(tmp_path / "w4").encode(image)
    assert torch.allclose(ExportedSam(tmp_path / "w4", runtime).encode(image), expected, atol=1e-4)
