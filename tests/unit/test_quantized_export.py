"""A quantised checkpoint as an int8 file: a runtime computes with our codes and grids, for any number of prompts."""

from pathlib import Path

import pytest
import torch

from compressors.context import RunContext
from compressors.distill.engine import Engine
from compressors.ptq import Ptq
from core.protocols import Prompt
from students.export.folder import export_model
from students.export.segmenter import ExportedSam
from tests.unit.tiny import Pictures, tiny_sam

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")


def test_the_file_answers_as_the_quantised_model(tmp_path: Path) -> None:
    method = Ptq(images=2, prompts=2, candidates=8, lowest=0.5, rounds=1)
    model = method.compress(tiny_sam(), Pictures(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    export_model(model, tmp_path / "int8", "onnx", "int8")
    exported = ExportedSam(tmp_path / "int8")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        wanted, found = model.encode(images), exported.encode(images)
        assert float((found - wanted).square().mean() / wanted.square().mean()) < 1e-3
        for count in (1, 3):
            prompt = Prompt(boxes_xyxy=torch.tensor([[4.0, 6.0, 40.0, 50.0]]).repeat(count, 1))
            of_model, of_file = (m.decode(wanted, prompt, (64, 64), multimask=True) for m in (model, exported))
            assert of_file.logits.shape == of_model.logits.shape
            agree = ((of_file.logits > 0) == (of_model.logits > 0)).float().mean()
            assert float(agree) > 0.98


def test_weights_are_stored_as_int8(tmp_path: Path) -> None:
    method = Ptq(images=2, prompts=2, metric="minmax")
    model = method.compress(tiny_sam(), Pictures(), RunContext(0, tmp_path / "run", Engine(tmp_path / "run"))).student
    export_model(model, tmp_path / "int8", "onnx", "int8")
    graph = onnx.load(tmp_path / "int8" / "encoder.onnx").graph
    stored = {tuple(t.dims): t.data_type for t in graph.initializer if len(t.dims) >= 2}
    integers = [dims for dims, kind in stored.items() if kind == onnx.TensorProto.INT8]
    # The query, key and value weight of a block of 24 channels, and its MLP's.
    assert any(set(dims) == {72, 24} for dims in integers) and any(set(dims) == {48, 24} for dims in integers)
    kinds = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
