"""A quantised checkpoint as an int8 file: a runtime computes with our codes and grids, for any number of prompts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from core.errors import InputError
from core.protocols import Prompt
from data.shapes import Shapes
from experiments.model_columns import cost_columns
from students.export.folder import export_model
from students.export.onnx_files import QUANTISED_OPSET, write_encoder
from students.export.parts import prepared
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from students.quantized.layers import QuantizedLayer
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from teachers.sam import Sam
from teachers.weights import load_sam
from tests.unit.tiny import CONFIG, Images, TinyStudent, tiny_sam

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
onnx = pytest.importorskip("onnx", reason="the extra export is not installed")


@pytest.mark.slow
def test_grids_of_fewer_bits_answer_as_the_quantised_model_too(tmp_path: Path) -> None:
    # Grids of fewer bits are clipped ones of eight: two on one tensor must not lose their bounds.
    method = Ptq(
        weight_bits=6, activation_bits=6, images=2, prompts=2, candidates=8, lowest=0.5, rounds=1, metric="mse"
    )
    model = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    export_model(model, tmp_path / "int8", "onnx", "int8")
    exported = ExportedSam(tmp_path / "int8")
    assert_alike(exported, model)
    # Its rows say the bits of the codes, which the precision of the file does not.
    columns = cost_columns(exported)
    assert (columns["weight_bits"], columns["activation_bits"], columns["simulated"]) == (6, 6, "fewer than 8 bits")
    assert columns == {**cost_columns(model), "size_bytes": exported.manifest.bytes}


def assert_alike(exported: ExportedSam, model: Sam) -> None:
    """The embedding and the masks, for any number of prompts."""
    size = model.input_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, found = model.encode(images), exported.encode(images)
        assert float((found - expected).square().mean() / expected.square().mean()) < 1e-3
        for count in (1, 3):
            prompt = Prompt(boxes_xyxy=torch.tensor([[4.0, 6.0, 40.0, 50.0]]).repeat(count, 1))
            of_model, of_file = (m.decode(expected, prompt, (size, size), multimask=True) for m in (model, exported))
            assert of_file.logits.shape == of_model.logits.shape
            agree = ((of_file.logits > 0) == (of_model.logits > 0)).float().mean()
            assert float(agree) > 0.98


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sam]:
    """The int8 file of the pocket teacher's encoder, and its model."""
    folder = tmp_path_factory.mktemp("quantised")
    context = RunContext(0, folder / "run", Engine(folder / "run"))
    method = Ptq(metric="minmax", images=2, prompts=2)
    model = method.compress(load_sam("sam_pocket"), Shapes(count=2), context).student
    write_encoder(folder / "encoder.onnx", prepared(model), {}, QUANTISED_OPSET)
    return folder / "encoder.onnx", model


@pytest.mark.slow
def test_the_file_answers_as_the_quantised_model(quantised: tuple[Path, Sam]) -> None:
    file, model = quantised
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            expected = model.encode(images)
        (found,) = session.run(None, {"image": images.numpy()})
        assert np.square(found - expected.numpy()).mean() < 1e-3 * expected.square().mean()


@pytest.mark.slow
def test_weights_are_stored_as_int8(quantised: tuple[Path, Sam]) -> None:
    graph = onnx.load(quantised[0]).graph
    stored = {tuple(t.dims): t.data_type for t in graph.initializer if len(t.dims) >= 2}
    integers = [set(dims) for dims, kind in stored.items() if kind == onnx.TensorProto.INT8]
    block = load_sam("sam_pocket").image_encoder.blocks[0]
    assert set(block.attn.qkv.weight.shape) in integers and set(block.mlp.lin1.weight.shape) in integers
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.slow
def test_an_int8_encoder_is_at_most_three_tenths_of_the_float_one(
    quantised: tuple[Path, Sam], pocket_onnx: Path
) -> None:
    assert quantised[0].stat().st_size <= 0.30 * (pocket_onnx / "encoder.onnx").stat().st_size


@pytest.mark.slow
def test_a_file_holds_no_notes_of_the_machine_it_was_made_on(quantised: tuple[Path, Sam]) -> None:
    content = quantised[0].read_bytes()
    assert b"stack_trace" not in content and str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.slow
def test_onnxruntime_computes_convolutions_and_products_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    begun = build_model(TinyStudent().shape(CONFIG)).eval().requires_grad_(False)
    context = RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))
    model = Ptq(metric="minmax", images=2, prompts=2).compress(begun, Images(), context).student
    write_encoder(tmp_path / "encoder.onnx", prepared(model), {}, QUANTISED_OPSET)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(tmp_path / "encoder.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "QLinearConv" in kinds and "Conv" not in kinds
    assert "QLinearMatMul" in kinds and "Gemm" not in kinds


@pytest.mark.slow
def test_symmetric_grids_have_no_zero_point(tmp_path: Path) -> None:
    """As TensorRT wants them: signed codes, zero at zero."""
    method = Ptq(images=2, prompts=2, metric="minmax", activations="symmetric")
    model = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    write_encoder(tmp_path / "encoder.onnx", prepared(model), {}, QUANTISED_OPSET)
    graph = onnx.load(tmp_path / "encoder.onnx").graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros and all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_pytorchs_own_files_hold_each_code_once_and_no_notes_of_the_machine(tmp_path: Path) -> None:
    method = Ptq(metric="minmax", images=2, prompts=2)
    model = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    export_model(model, tmp_path / "out", "torch", "int8")
    assert_alike(ExportedSam(tmp_path / "out"), model)
    for file, layers in (("encoder.pt2", model.image_encoder), ("decoder.pt2", model.mask_decoder)):
        content = (tmp_path / "out" / file).read_bytes()
        assert b"stack_trace" not in content and str(Path(__file__).parents[2]).encode() not in content
        program = torch.export.load(tmp_path / "out" / file)
        stored = [x for x in (*program.state_dict.values(), *program.constants.values()) if not x.is_floating_point()]
        codes = [part.shape for part in layers.modules() if isinstance(part, QuantizedLayer)]
        integers = sum(x.numel() for x in stored if x.dtype in (torch.int8, torch.uint8))
        assert codes and integers == sum(math.prod(shape) for shape in codes)


def test_attention_of_a_large_map_goes_head_by_head_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from students.quantized import attention

    copied = planned_copy(tiny_sam(), Scheme())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        at_once = copied.encode(images)
        monkeypatch.setattr(attention, "SMALL_MAP", 0)
        assert torch.allclose(copied.encode(images), at_once, atol=1e-5)


@pytest.mark.parametrize(
    "change, unknown",
    [
        ({"twin": True}, "twin grids"),
        ({"softmax_grid": "logarithmic", "channel_groups": 2}, "grids of channel groups, logarithmic softmax"),
        ({"products": "head"}, "scales of heads"),
    ],
)
def test_what_no_runtime_computes_with_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], unknown: str
) -> None:
    model = planned_copy(tiny_sam(), Scheme(**change))
    with pytest.raises(InputError, match=f"tiny: no runtime computes with its {unknown}; to export it, quantise with"):
        export_model(model, tmp_path / "out", "onnx", "int8")
    assert not (tmp_path / "out").exists()
