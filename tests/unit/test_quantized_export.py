"""A quantised checkpoint as an int8 file: a runtime computes with our codes and grids, for any number of prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from core.protocols import Prompt
from data.shapes import Shapes
from students.export.folder import export_model
from students.export.manifest import read_manifest
from students.export.onnx_files import QUANTISED_OPSET, write_encoder
from students.export.parts import prepared
from students.export.segmenter import ExportedSam
from students.kinds import build_model
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from teachers.weights import load_sam
from tests.unit.tiny import CONFIG, Images, TinyStudent, tiny_sam

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
onnx = pytest.importorskip("onnx", reason="the extra export is not installed")


def test_the_file_answers_as_the_quantised_model(tmp_path: Path) -> None:
    # Grids of fewer bits are clipped ones of eight: two on one tensor must not lose their bounds.
    method = Ptq(
        weight_bits=6, activation_bits=6, images=2, prompts=2, candidates=8, lowest=0.5, rounds=1, metric="mse"
    )
    model = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    export_model(model, tmp_path / "int8", "onnx", "int8")
    exported = ExportedSam(tmp_path / "int8")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, found = model.encode(images), exported.encode(images)
        assert float((found - expected).square().mean() / expected.square().mean()) < 1e-3
        for count in (1, 3):
            prompt = Prompt(boxes_xyxy=torch.tensor([[4.0, 6.0, 40.0, 50.0]]).repeat(count, 1))
            of_model, of_file = (m.decode(expected, prompt, (64, 64), multimask=True) for m in (model, exported))
            assert of_file.logits.shape == of_model.logits.shape
            agree = ((of_file.logits > 0) == (of_model.logits > 0)).float().mean()
            assert float(agree) > 0.98


@pytest.fixture(scope="module")
def pocket_files(pocket_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pocket teacher in float and quantised, as folders of ONNX files."""
    folder = tmp_path_factory.mktemp("pocket")
    context = RunContext(0, folder / "run", Engine(folder / "run"))
    student = Ptq(metric="minmax", images=2, prompts=2).compress(load_sam("sam_pocket"), Shapes(count=2), context)
    export_model(student.student, folder / "int8", "onnx", "int8")
    return {"fp32": pocket_onnx, "int8": folder / "int8"}


def test_weights_are_stored_as_int8(pocket_files: dict[str, Path]) -> None:
    graph = onnx.load(pocket_files["int8"] / "encoder.onnx").graph
    stored = {tuple(t.dims): t.data_type for t in graph.initializer if len(t.dims) >= 2}
    integers = [set(dims) for dims, kind in stored.items() if kind == onnx.TensorProto.INT8]
    block = load_sam("sam_pocket").image_encoder.blocks[0]
    assert set(block.attn.qkv.weight.shape) in integers and set(block.mlp.lin1.weight.shape) in integers
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_an_int8_encoder_is_at_most_three_tenths_of_the_float_one(pocket_files: dict[str, Path]) -> None:
    of_float, of_codes = (read_manifest(pocket_files[name]).encoder.bytes for name in ("fp32", "int8"))
    assert of_codes <= 0.30 * of_float


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize("part", ["encoder.onnx", "decoder.onnx"])
def test_a_file_holds_no_notes_of_the_machine_it_was_made_on(
    pocket_files: dict[str, Path], name: str, part: str
) -> None:
    content = (pocket_files[name] / part).read_bytes()
    assert b"stack_trace" not in content and str(Path(__file__).parents[2]).encode() not in content


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


def test_symmetric_grids_have_no_zero_point(tmp_path: Path) -> None:
    """As TensorRT wants them: signed codes, zero at zero."""
    method = Ptq(images=2, prompts=2, metric="minmax", activations="symmetric")
    model = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    write_encoder(tmp_path / "encoder.onnx", prepared(model), {}, QUANTISED_OPSET)
    graph = onnx.load(tmp_path / "encoder.onnx").graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros and all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_attention_of_a_large_map_goes_head_by_head_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from students.quantized import attention

    copied = planned_copy(tiny_sam(), Scheme())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        at_once = copied.encode(images)
        monkeypatch.setattr(attention, "SMALL_MAP", 0)
        assert torch.allclose(copied.encode(images), at_once, atol=1e-5)
