"""OpenVINO computes exported files in bfloat16, but for where points lie."""

import pytest

pytest.importorskip("openvino", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from core.errors import InputError
from core.geometry import boxes_to_frame
from data.images import to_frame
from data.shapes import Shapes
from evaluation.mask_measures import pairwise_iou
from experiments.cli.command_line import main
from students.export import runtimes
from students.export.segmenter import ExportedSam
from teachers.weights import load_sam

needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="the processor has no bfloat16 instructions",
)


def test_angles_of_points_are_a_model_of_their_own(pocket_onnx: Path) -> None:
    model = openvino.Core().read_model(str(pocket_onnx / "decoder.onnx"))
    apart = runtimes._angles_apart(model)
    names = {name for parameter in model.get_parameters() for name in parameter.output(0).get_names()}
    assert "angles_of_points" in names and [value.get_any_name() for value in apart.inputs] == ["point_coords"]
    points = torch.tensor([[[0.0, 0.0], [127.3, 5.9]], [[64.4, 64.6], [12.25, 100.0]]])
    request = openvino.Core().compile_model(apart, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    request.infer({"point_coords": points.numpy()})
    # sin and cos of 2 pi (2 (p + 0.5) / S - 1) G, the matrix G being of random frequencies
    frequencies = load_sam("sam_pocket").prompt_encoder.state_dict()["pe_layer.positional_encoding_gaussian_matrix"]
    angles = 2 * torch.pi * ((2 * (points.double() + 0.5) / 128 - 1) @ frequencies.double())
    expected = torch.cat([angles.sin(), angles.cos()], -1).float()
    torch.testing.assert_close(torch.from_numpy(request.get_output_tensor(0).data), expected, rtol=0, atol=1e-4)


def test_an_encoder_has_no_angles(pocket_onnx: Path) -> None:
    model = openvino.Core().read_model(str(pocket_onnx / "encoder.onnx"))
    assert runtimes._angles_apart(model) is None
    assert [value.get_any_name() for value in model.inputs] == ["image"]


def test_another_model_s_points_are_refused() -> None:
    given = openvino.opset13.parameter([2, 2], np.float32)
    given.output(0).set_names({"point_coords"})
    with pytest.raises(RuntimeError, match="its points become sines 0 times, one is known"):
        runtimes._angles_apart(openvino.Model([openvino.opset13.relu(given).output(0)], [given], "other"))


@needs_bfloat16
def test_masks_are_the_models(pocket_onnx: Path) -> None:
    exact, rounded = ExportedSam(pocket_onnx, "openvino"), ExportedSam(pocket_onnx, "openvino_bf16")
    data = Shapes("validation", 3)
    for index in range(3):
        sample = data.sample(index)
        image, size_hw = to_frame(sample.image, 128)[None], sample.image.shape[:2]
        boxes = boxes_to_frame(torch.from_numpy(sample.boxes_xyxy), size_hw, 128)
        coords, labels = boxes.reshape(-1, 2, 2), torch.tensor([[2.0, 3.0]]).expand(len(boxes), -1)
        embedding = rounded.encode(image)
        logits, _ = exact.decode_frame(exact.encode(image), coords, labels)
        found, _ = rounded.decode_frame(embedding, coords, labels)
        difference = float((found - logits).norm() / logits.norm())
        # Bfloat16 has 8 bits: near, and not equal.
        assert 1e-4 < difference < 0.05
        assert float(pairwise_iou(found[:, 0] > 0, logits[:, 0] > 0).min()) > 0.9


@needs_bfloat16
def test_angles_alone_stay_in_float32(pocket_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[tuple[str, str]] = []
    compile_model = openvino.Core.compile_model

    def compiled(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        hints.append((model.get_friendly_name(), settings["INFERENCE_PRECISION_HINT"]))
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    ExportedSam(pocket_onnx, "openvino_bf16")
    (encoder, first), (angles, second), (decoder, third) = hints
    assert angles == "angles_of_points" and angles not in (encoder, decoder)
    assert (first, second, third) == ("bf16", "f32", "bf16")


def test_a_processor_without_instructions_is_refused(pocket_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(InputError, match=r"runtime=openvino_bf16: this processor has no bfloat16 .*runtime=openvino$"):
        ExportedSam(pocket_onnx, "openvino_bf16")


@needs_bfloat16
def test_rows_say_what_was_computed_in(pocket_onnx: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["evaluation.images=2", "evaluation.latency_runs=1", "format=json"]
    assert main(["evaluate", f"checkpoint={pocket_onnx}", "runtime=openvino_bf16", *words]) == 0
    row = json.loads(capfd.readouterr().out)["rows"][0]
    assert (row["variant"], row["precision"]) == ("openvino_bf16 fp32 (onnx)", "bfloat16")
