"""Times of single layers in runtimes: which calls are measured, that both files answer, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import InputError
from students.export import layer_times
from students.export.layer_times import LayerTime, kept_layer_times, measure_layer_times
from students.quantized.layers import QuantizedLayer, QuantizedProduct
from students.quantized.plan import planned_copy
from students.quantized.scheme import Scheme
from tests.unit.tiny import tiny_sam


def test_calls_are_those_of_an_image_and_a_box() -> None:
    model = tiny_sam()
    planned = planned_copy(model, Scheme())
    calls = layer_times._calls(planned)
    size, config = model.input_size, model.config.encoder
    assert calls["image_encoder.patch_embed.proj"] == [((1, 3, size, size),)]
    # Two corners and five tokens look at the image once in each block.
    scores = calls["mask_decoder.transformer.layers.0.cross_attn_token_to_image.scores"]
    assert len(scores) == 1 and scores[0][0][2] == 7 and scores[0][1][3] == config.grid**2
    # No mask is given: its branch is not called; and nothing stays changed.
    assert all(part.quantizing is False for part in planned.modules() if hasattr(part, "quantizing"))
    assert {path.partition(".")[0] for path in calls} == {"image_encoder", "mask_decoder"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_files_of_a_layer_run_and_equal_layers_are_measured_once(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in layer_times.RUNTIME_NEEDS[runtime]:
        pytest.importorskip(needed, reason="needs the extra export")
    answers: list[np.ndarray[Any, Any]] = []
    opened = layer_times.RUNTIMES[runtime]

    def opening(path: Path, outputs: Any, precision: str) -> Any:
        run = opened(path, outputs, precision)

        def kept(inputs: Any) -> Any:
            found = run(inputs)
            answers.append(found[0])
            return found

        return kept

    monkeypatch.setitem(layer_times.RUNTIMES, runtime, opening)
    model = tiny_sam()
    kept = "image_encoder.blocks.0.mlp.lin1", "image_encoder.blocks.1.mlp.lin1"
    layers = [path for path, part in model.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    others = tuple(path for path in layers if path.startswith("image_encoder") and path not in kept)
    planned = planned_copy(model, Scheme(float_layers=others, decoder="float", products="float"))
    times = measure_layer_times(planned, runtime, rounds=2)
    assert set(times) == set(kept) and times[kept[0]] == times[kept[1]]
    assert all(time.int8 > 0 and time.float32 > 0 for time in times.values())
    # One kind: two files, each called once and then twice for the time; int8 is near float.
    assert len(answers) == 6
    int8, exact = answers[:2]
    assert int8.shape == exact.shape and 0 < np.abs(int8 - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["linear", "product"])
def test_onnx_runtime_computes_an_int8_layer_in_integers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    files: list[Path] = []
    settings = onnxruntime.SessionOptions

    def kept() -> Any:
        options = settings()
        files.append(tmp_path / f"optimised_{len(files)}.onnx")
        options.optimized_model_filepath = str(files[-1])
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", kept)
    planned = planned_copy(tiny_sam(), Scheme(decoder="float"))
    path = {"linear": "image_encoder.blocks.0.mlp.lin2", "product": "image_encoder.blocks.0.attn.mixing"}[kind]
    calls = {path: layer_times._calls(planned)[path]}
    monkeypatch.setattr(layer_times, "_calls", lambda model: calls)
    measure_layer_times(planned, "onnxruntime", rounds=1)
    int8, float32 = ({node.op_type for node in onnx.load(file).graph.node} for file in files)
    # The product is of codes; in float32 it is the one that the encoder's own file has.
    assert not int8 & {"Gemm", "MatMul", "FusedMatMul", "DequantizeLinear"} and "QuantizeLinear" in int8
    assert any("Integer" in name or name.startswith("QLinear") for name in int8)
    assert "MatMul" in float32 and "Gemm" not in float32


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_kind_of_layer_is_measured(runtime: str) -> None:
    for needed in layer_times.RUNTIME_NEEDS[runtime]:
        pytest.importorskip(needed, reason="needs the extra export")
    planned = planned_copy(tiny_sam(), Scheme())
    times = measure_layer_times(planned, runtime, rounds=1)
    quantised = {path for path, part in planned.named_modules() if isinstance(part, QuantizedLayer | QuantizedProduct)}
    assert quantised - set(times) == {path for path in quantised if path not in layer_times._calls(planned)}
    assert all(isinstance(time, LayerTime) and min(time.int8, time.float32) > 0 for time in times.values())


def test_a_runtime_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layer_times.RUNTIME_NEEDS, "openvino", ("no_such_package",))
    with pytest.raises(InputError, match=r"method\.runtime=openvino needs no_such_package"):
        measure_layer_times(planned_copy(tiny_sam(), Scheme()), "openvino")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of times, written without measuring."""
    times = {path: LayerTime(1.0, 2.0) for path in layer_times._calls(planned_copy(tiny_sam(), Scheme()))}
    monkeypatch.setattr(layer_times, "measure_layer_times", lambda model, runtime: times)
    kept_layer_times(tmp_path / "layer_times.json", "k", planned_copy(tiny_sam(), Scheme()), "openvino")
    return tmp_path / "layer_times.json"


def test_times_are_kept_for_runs_of_the_same_key(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = planned_copy(tiny_sam(), Scheme())
    others = {"image_encoder.neck.0": LayerTime(3.0, 4.0)}
    monkeypatch.setattr(layer_times, "measure_layer_times", lambda model, runtime: others)
    found = kept_layer_times(kept, "k", planned, "openvino")
    assert found.keys() == layer_times._calls(planned).keys() and set(found.values()) == {LayerTime(1.0, 2.0)}
    assert kept_layer_times(kept, "another", planned, "openvino") == others
    assert json.loads(kept.read_text())["milliseconds"] == {"image_encoder.neck.0": [3.0, 4.0]}


def test_times_of_files_that_are_made_otherwise_are_not_gone_by(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(kept.read_text())
    # As it was kept before files had an open dimension.
    del stored["files"]
    kept.write_text(json.dumps(stored))
    others = {"image_encoder.neck.0": LayerTime(3.0, 4.0)}
    monkeypatch.setattr(layer_times, "measure_layer_times", lambda model, runtime: others)
    assert kept_layer_times(kept, "k", planned_copy(tiny_sam(), Scheme()), "openvino") == others
    assert json.loads(kept.read_text())["files"] == layer_times.FILES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read"),
        ("[]", "keeps no times of layers"),
        ("{}", "keeps no times of layers"),
        ('{"key": 7}', "keeps no times of layers"),
        ('{"key": "k", "files": 2}', "milliseconds is 'None', no times by layer"),
        ('{"key": "k", "files": 2, "milliseconds": [1, 2]}', r"milliseconds is '\[1, 2\]', no times by layer"),
        ('{"key": "k", "files": 2, "milliseconds": {}}', "times are not of the model's layers, as for 'image_encoder"),
    ],
)
def test_a_damaged_file_of_times_is_refused(kept: Path, content: str, words: str) -> None:
    kept.write_text(content)
    with pytest.raises(InputError, match=rf"layer_times\.json: {words}.*; remove it; layers are timed again"):
        kept_layer_times(kept, "k", planned_copy(tiny_sam(), Scheme()), "openvino")


@pytest.mark.parametrize(
    "pair", [1, [1], [1, "2"], [True, 2], [0, 1], [1, -2], [float("nan"), 1], [1, float("inf")], [1, 10**400]]
)
def test_times_that_are_none_are_refused(kept: Path, pair: object) -> None:
    stored = json.loads(kept.read_text())
    stored["milliseconds"]["image_encoder.neck.0"] = pair
    kept.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"image_encoder\.neck\.0 takes .*, no milliseconds of int8 and float32"):
        kept_layer_times(kept, "k", planned_copy(tiny_sam(), Scheme()), "openvino")
