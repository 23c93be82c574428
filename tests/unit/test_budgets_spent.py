"""What a run spends a budget by: losses of all images, times and bytes, and the model that it ends with."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressors import ptq
from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.quantize.calibration import Calibration
from compressors.quantize.search import Search
from data.batches import ImageBatches
from students.export.layer_times import LayerTime
from students.files import load_model, save_model
from students.quantized.bit_operations import bits_by_layer
from students.quantized.layers import QuantizedLayer
from students.quantized.plan import make_plan, plan_of, planned_copy
from students.quantized.scheme import Scheme
from tests.unit.tiny import Images, Killed, tiny_sam

METHOD = Ptq(metric="minmax", images=1, prompts=1)


def compress(method: Ptq, folder: Path) -> Any:
    return method.compress(tiny_sam(), Images(), RunContext(0, folder, Engine(folder))).student


def test_losses_are_of_each_layer_alone_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In sequential order too: layers of 8 bits behind those of 3 answer for their own errors alone."""
    method = Ptq(
        3, 3, metric="minmax", images=2, prompts=1, budget=0.5, order="sequential", eight_bit_layers=("mask_decoder.*",)
    )
    found: dict[str, float] = {}

    def spending(model: object, scheme: object, losses: Mapping[str, float], *others: object) -> None:
        found.update(losses)
        raise Killed

    monkeypatch.setattr(ptq, "choose_layers", spending)
    with pytest.raises(Killed):
        compress(method, tmp_path)
    batches = ImageBatches(Images(), 64, 4, 0)
    calibration = Calibration(Search("minmax"), order="parallel", prompts=1, sensitivity=True)
    copied = planned_copy(tiny_sam(), method.scheme())
    lines = calibration.run(copied, [batches(range(i, i + 1)) for i in range(2)], tmp_path / "alone", "key")
    assert found == {line["layer"]: line["expected_loss"] for line in lines} and max(found.values()) > 0


def test_milliseconds_are_spent_on_layers_that_stay_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = make_plan(tiny_sam(), Scheme())
    products = [f"{path}.{name}" for path in planned.products for name in ("scores", "mixing")]
    # A product in float would cost more than all the layers.
    times = {path: LayerTime(1.0, 2.0 + number % 3) for number, path in enumerate(planned.layers)}
    slow = {path: LayerTime(1.0, 1000.0) for path in products}
    monkeypatch.setattr(ptq, "kept_layer_times", lambda *_: times | slow)
    lowest, highest = len(times | slow), len(slow) + sum(time.float32 for time in times.values())
    budget = lowest + 0.4 * (highest - lowest)
    student = compress(replace(METHOD, budget=budget, budget_of="milliseconds"), tmp_path)
    mixed = json.loads((tmp_path / "quantisation.json").read_text())["mixed_precision"]
    assert (mixed["of"], mixed["lowest"], mixed["highest"]) == ("milliseconds", lowest, highest)
    plan = plan_of(student)
    assert plan is not None and plan.products.keys() == planned.products.keys()
    in_float = set(planned.layers) - set(plan.layers)
    assert in_float == set(mixed["chosen"]) == set(plan.scheme.float_layers)
    # The dearest layer costs 3 ms more in float: less than that is left.
    total = sum(time.float32 if path in in_float else time.int8 for path, time in (times | slow).items())
    assert budget - 3 < total <= budget


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    method = replace(METHOD, weight_bits=4, activation_bits=4, budget=0.75, budget_of="bytes", decoder="float")
    student = compress(method, tmp_path)
    save_model(tmp_path / "student.safetensors", student, {})
    layers = [m for m in load_model(tmp_path / "student.safetensors").modules() if isinstance(m, QuantizedLayer)]
    stored, weights = sum(layer.codes.nbytes for layer in layers), sum(math.prod(layer.shape) for layer in layers)
    mixed = json.loads((tmp_path / "quantisation.json").read_text())["mixed_precision"]
    assert (mixed["of"], mixed["highest"]) == ("bytes", weights)
    assert 0.7 * weights < stored <= 0.75 * weights


def test_multiplications_of_transposed_convolutions_by_hand() -> None:
    model = tiny_sam()
    counted = bits_by_layer(model.config, make_plan(model, Scheme(4, 8)))
    # Each of 16 channels of the embedding's 4 x 4 cells meets a kernel of 2 x 2 for each of 4 channels, and each of
    # those, on 8 x 8 cells, one for each of 2.
    assert counted["mask_decoder.output_upscaling.0"] == 16 * 4 * 4 * (2 * 2 * 4) * 4 * 8
    assert counted["mask_decoder.output_upscaling.3"] == 4 * 8 * 8 * (2 * 2 * 2) * 4 * 8
    in_float = bits_by_layer(model.config, make_plan(model, Scheme(decoder="float")))
    assert in_float["mask_decoder.output_upscaling.0"] == 16 * 4 * 4 * (2 * 2 * 4) * 32 * 32
