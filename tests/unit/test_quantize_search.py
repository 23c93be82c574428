"""The search for grids: what it minimises, on layers small enough to check, and gradients that are not noise."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressors.quantize.calibration import Calibration, answers
from compressors.quantize.objective import best_of, distance, divergence, fisher_loss
from compressors.quantize.recording import Recorder, recordable
from compressors.quantize.search import Search, begin, computed, correct_bias, search
from core.protocols import Prompt
from data.batches import ImageBatches
from students.quantized.layers import QuantizedLayer, QuantizedLinear, make_layer
from students.quantized.plan import planned_copy, set_quantizing
from students.quantized.scheme import Scheme
from students.quantized.simulated_grids import make_quantizer
from teachers.mask_decoder import Decoded
from teachers.sam import Sam
from tests.unit.tiny import Images, tiny_sam

UNIFORM = {"kind": "uniform", "bits": 4, "symmetric": True, "shape": []}


def layer_of(
    module: Any, by_channel: bool = True, bits: int = 4, given: dict[str, Any] | None = None
) -> QuantizedLayer:
    transposed = isinstance(module, nn.ConvTranspose2d)
    shape = [1] * module.weight.ndim
    shape[1 if transposed else 0] = module.weight.shape[1 if transposed else 0]
    description = {
        "kind": "linear" if isinstance(module, nn.Linear) else "convolution",
        "shape": list(module.weight.shape),
        "bias": None if module.bias is None else len(module.bias),
        "weight": {**UNIFORM, "bits": bits, "shape": shape if by_channel else []},
        "input": given,
    }
    if not isinstance(module, nn.Linear):
        geometry = {"stride": list(module.stride), "padding": list(module.padding), "groups": module.groups}
        description |= {**geometry, "transposed": transposed}
    layer = make_layer(description)
    layer.take(module.weight, module.bias)
    layer.quantizing = False
    return layer


def seen_by(layer: QuantizedLayer, x: Tensor, weighted: Tensor | None = None) -> Recorder:
    recorder = Recorder({"layer": layer}, 0)
    with recorder.on(0, gradients=True):
        output = layer(x.requires_grad_())
        (output * (torch.ones_like(output) if weighted is None else weighted)).sum().backward()
    return recorder


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 7, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, 2, 1), (2, 4, 9, 11)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 40, 40)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 2, 2), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_recorded_gives_the_recorded_output_again(name: str) -> None:
    make, shape = LAYERS[name]
    layer = layer_of(make())
    recorder = seen_by(layer, torch.randn(shape))
    (record,) = recorder.traces["layer"].records.values()
    padding = ((0, 0),) if name != "linear" else ()
    again = layer.compute(record.inputs[0], layer.effective_weight(), *padding)  # type: ignore[call-arg]
    torch.testing.assert_close(again, record.output)
    assert record.gradient is not None and record.gradient.shape == record.output.shape


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("metric", ["hessian", "mse", "cosine"])
def test_a_search_is_never_worse_than_the_full_range_by_its_own_measure(name: str, metric: str) -> None:
    make, shape = LAYERS[name]
    layer = layer_of(make(), given={**UNIFORM, "symmetric": False})
    recorder = seen_by(layer, torch.randn(shape), torch.randn(5) if name == "linear" else None)
    (record,) = recorder.traces["layer"].records.values()
    layer.quantizing = True

    def error() -> float:
        assert layer.input_quantizer is not None
        padding = ((0, 0),) if name != "linear" else ()
        found = layer.compute(layer.input_quantizer(record.inputs[0]), layer.effective_weight(), *padding)  # type: ignore[call-arg]
        dims = tuple(range(found.ndim))
        return float(distance(metric, found, record.output, record.gradient, dims))

    begin(layer, recorder.traces["layer"])
    before = error()
    layer.quantizing = False  # as calibration has it
    search(layer, recorder.traces["layer"], Search(metric, 40, 0.2, 1.2, 2, "quantized"))
    layer.quantizing = True
    assert error() <= before * (1 + 1e-5) + 1e-7


def test_the_weight_that_grids_of_activations_are_searched_with() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(6, 3), torch.randn(50, 6)
    multiplied = []

    class Spy(QuantizedLinear):
        def compute(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            multiplied.append(weight.clone())
            return super().compute(x, weight)

    for weights in ("float", "quantized"):
        layer = layer_of(linear, given={**UNIFORM, "bits": 2})
        recorder = seen_by(layer, x.clone())
        layer.__class__ = Spy
        multiplied.clear()
        search(layer, recorder.traces["layer"], Search("mse", 4, 0.5, 1.2, 1, weights))
        exact = layer.weight_quantizer(layer.weight)  # type: ignore[arg-type]
        # The candidates of the input's search come last, six of them.
        assert all(torch.equal(used, linear.weight if weights == "float" else exact) for used in multiplied[-6:])
    assert not torch.equal(exact, linear.weight)


def test_candidates_reach_from_the_lowest_to_the_highest_share() -> None:
    assert Search(candidates=3, lowest=0.5, highest=2.0).shares() == [1.0, 0.5, 1.0, 1.5, 2.0]


def test_per_channel_beats_per_tensor_where_channels_differ() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 8)
    with torch.no_grad():
        linear.weight *= torch.logspace(-3, 1, 8)[:, None]
    x = torch.randn(64, 16)
    errors = []
    for by_channel in (True, False):
        layer = layer_of(linear, by_channel)
        recorder = seen_by(layer, x.clone())
        search(layer, recorder.traces["layer"], Search("mse", 50, 0.2, 1.2, 1))
        layer.quantizing = True
        relative = (layer(x) - linear(x)).square().sum(0) / (linear(x) - linear.bias).square().sum(0)
        errors.append(float(relative.mean().detach()))
    assert errors[0] < 0.02 < 0.3 < errors[1]


@pytest.mark.parametrize("repeats", [1, 2])
def test_queries_keys_and_values_have_a_scale_each(repeats: int) -> None:
    torch.manual_seed(3)
    module = nn.Linear(5, 12)
    # Rows of q, k and v: one after the other, or in turn for each of two heads.
    part_of = torch.arange(12) // (4 // repeats) % 3
    with torch.no_grad():
        module.weight *= torch.tensor([1.0, 5.0, 0.2])[part_of][:, None]
    x = torch.randn(40, 5)
    layer = layer_of(module)
    grid = {**UNIFORM, "shape": [12, 1], "parts": 3, "repeats": repeats}
    layer.weight_quantizer = make_quantizer(grid)  # type: ignore[assignment]
    assert layer.weight_quantizer.description() == grid
    recorder = seen_by(layer, x.clone())
    begin(layer, recorder.traces["layer"])
    largest = torch.stack([module.weight[part_of == part].abs().max() for part in range(3)])
    assert torch.allclose(layer.weight_quantizer.scale[:, 0], largest[part_of] / 7.5)
    how = Search("mse", candidates=30, lowest=0.3, highest=1.1, rounds=1)
    search(layer, recorder.traces["layer"], how)
    for part in range(3):
        # The same as a layer of these rows alone, with one scale.
        rows = nn.Linear(5, 4)
        with torch.no_grad():
            rows.weight.copy_(module.weight[part_of == part])
            rows.bias.copy_(module.bias[part_of == part])
        alone = layer_of(rows, by_channel=False)
        search(alone, seen_by(alone, x.clone()).traces["layer"], how)
        expected = alone.weight_quantizer.scale.expand(4)
        assert torch.allclose(layer.weight_quantizer.scale[part_of == part, 0], expected)


def test_biases_take_up_the_mean_error_of_quantised_weights_by_hand() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.2, 0.0], [0.0, 0.6]]))
        module.bias.copy_(torch.tensor([0.5, -1.0]))
    # Both grids have a step of 1.
    layer = layer_of(module, by_channel=False, given=UNIFORM)
    recorder = seen_by(layer, torch.tensor([[1.3, 2.4], [2.8, -0.3]]))
    correct_bias(layer, recorder.traces["layer"])
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    # Weights become 1 and 1: errors of -0.2 x (1, 3) and 0.4 x (2, 0), in the mean -0.4 and 0.4.
    assert layer.bias is not None
    torch.testing.assert_close(layer.bias.data, torch.tensor([0.9, -1.4]))
    found = layer.compute(x, layer.weight_quantizer(module.weight))
    torch.testing.assert_close(found.mean(0), module(x).mean(0))


@pytest.mark.parametrize("name", LAYERS)
def test_corrected_biases_leave_no_mean_error_of_the_weight(name: str) -> None:
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    layer = layer_of(make())
    recorder = seen_by(layer, torch.randn(shape))
    begin(layer, recorder.traces["layer"])
    (record,) = recorder.traces["layer"].records.values()
    assert layer.weight is not None
    before = computed(layer, record.inputs[0], layer.weight)
    correct_bias(layer, recorder.traces["layer"])
    error = computed(layer, record.inputs[0], layer.weight_quantizer(layer.weight)) - before
    dims = (0, 1) if error.ndim == 3 else (0, 2, 3) if error.ndim == 4 else (0,)
    torch.testing.assert_close(error.mean(dims), torch.zeros_like(layer.bias), atol=1e-5, rtol=0)


def test_calibration_corrects_each_bias_once_by_the_grids_that_it_found(tmp_path: Path) -> None:
    scheme = Scheme(4, 4, float_layers=("mask_decoder", "image_encoder.blocks.2"))
    model, exact = (planned_copy(tiny_sam(), scheme) for _ in range(2))
    images = [ImageBatches(Images(), 64, 4, 0)(range(1))]
    calibration = Calibration(Search("minmax"), prompts=1, bias_correction=True)
    calibration.run(model, images, tmp_path / "state", "key")
    recorder, count = Recorder(recordable(exact), calibration.seed), 0
    with torch.no_grad(), recorder.on(0):
        answers(exact, calibration.calls(exact, images)[0])
    for path, float_layer in recordable(exact).items():
        layer: Any = model.get_submodule(path)
        if not isinstance(float_layer, QuantizedLayer) or float_layer.bias is None:
            continue
        errors = []
        for record in recorder.traces[path].records.values():
            x = layer.input_quantizer(record.inputs[0])
            error = computed(layer, x, layer.weight_quantizer(layer.weight)) - computed(layer, x, layer.weight)
            errors.append(error.movedim(1 if error.ndim == 4 else -1, 0).flatten(1))
        shift = torch.cat(errors, 1).mean(1)
        assert float(shift.abs().max()) > 1e-3, path
        torch.testing.assert_close(layer.bias, float_layer.bias - shift)
        count += 1
    assert count == 9


def test_the_hessian_metric_spends_its_grid_where_the_gradient_is() -> None:
    """Two inputs of very different size through one activation grid; only the small one matters to the loss."""
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 0.5])
    weighted = torch.tensor([1e-4, 1.0])
    steps = {}
    for metric in ("mse", "hessian"):
        layer = layer_of(linear, bits=8, given=UNIFORM)
        recorder = seen_by(layer, x.clone(), weighted)
        search(layer, recorder.traces["layer"], Search(metric, 100, 0.01, 1.2, 1))
        assert layer.input_quantizer is not None
        steps[metric] = float(layer.input_quantizer.scale)
    assert steps["hessian"] < 0.3 * steps["mse"]


def test_best_of_chooses_for_each_entry_and_never_what_is_not_a_number() -> None:
    candidates = [torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [2.0]]), torch.tensor([[3.0], [3.0]])]
    scores = {1.0: [3.0, 1.0], 2.0: [float("nan"), float("nan")], 3.0: [2.0, 5.0]}
    found = best_of(candidates, lambda c: torch.tensor(scores[float(c[0])])[:, None])
    assert found.tolist() == [[3.0], [1.0]]


def test_distances_by_hand() -> None:
    found, expected = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [4.0, 3.0]])
    gradient = torch.tensor([[5.0, 2.0], [0.5, 1.0]])
    assert distance("mse", found, expected, None, (0,)).tolist() == [16, 4]
    assert distance("hessian", found, expected, gradient, (0, 1)).item() == 16 + 4
    assert distance("cosine", found, expected, None, (1,)).tolist() == pytest.approx([1 - 1 / 5**0.5, 1 - 9 / 15])


class TestGradients:
    def calibrated(self, gradient: str) -> dict[str, float]:
        """The root mean square of the output gradient of every layer that has one."""
        model = planned_copy(tiny_sam(), Scheme())
        batches = ImageBatches(Images(), 64, 4, 0)
        calibration = Calibration(Search(), gradient, prompts=2)
        set_quantizing(model, False)
        image = batches(range(1))
        calls = [(image.images, calibration._prompts(model, image, 0))]
        recorder = Recorder(recordable(model), 0)
        calibration._observe(model, calls, recorder, lambda done: None)
        return {
            path: max(float(r.gradient.square().mean().sqrt()) for r in seen.records.values() if r.gradient is not None)
            for path, seen in recorder.traces.items()
            if any(record.gradient is not None for record in seen.records.values())
        }

    def test_the_published_gradient_is_noise_and_the_sound_ones_are_not(self) -> None:
        published = self.calibrated("published")
        for sound in ("fisher", "perturbed"):
            found = self.calibrated(sound)
            assert set(found) == set(published)
            for path, value in found.items():
                assert value > 1e-12 and value > 1e4 * published[path], (sound, path, value, published[path])
            assert sorted(found.values())[len(found) // 2] > 1e4 * max(published.values())

    def test_squared_fisher_gradients_predict_the_divergence(self) -> None:
        """Half the quadratic form with the averaged squared gradient is the divergence, to second order."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, 4, 6, 6, generator=generator)
        iou = torch.rand(1, 4, generator=generator) * 0.8 + 0.1
        step = 0.05 * torch.randn(1, 4, 6, 6, generator=generator)
        squares = torch.zeros_like(logits)
        draws = 400
        for _ in range(draws):
            given = logits.clone().requires_grad_()
            fisher_loss(Decoded(given, iou, torch.zeros(0)), generator).backward()
            assert given.grad is not None
            squares += given.grad.square() / draws
        predicted = 0.5 * (squares * step.square()).sum()
        actual = divergence(Decoded(logits + step, iou, torch.zeros(0)), Decoded(logits, iou, torch.zeros(0)))
        assert float(predicted) == pytest.approx(float(actual), rel=0.1)

    def test_the_divergence_of_one_pixel_by_hand(self) -> None:
        def decoded(mask: float, iou: float) -> Decoded:
            return Decoded(torch.tensor([[[[mask]]]]).logit(), torch.tensor([[iou]]), torch.zeros(0))

        # KL(0.9 || 0.5) and KL(0.5 || 0.9).
        of_most = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
        of_half = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
        assert float(divergence(decoded(0.5, 0.3), decoded(0.9, 0.3))) == pytest.approx(of_most, rel=1e-4)
        assert float(divergence(decoded(0.3, 0.9), decoded(0.3, 0.5))) == pytest.approx(of_half, rel=1e-4)
        assert float(divergence(decoded(0.5, 0.9), decoded(0.9, 0.5))) == pytest.approx(of_most + of_half, rel=1e-4)

    def test_the_divergence_is_zero_only_between_equals(self) -> None:
        one = Decoded(torch.randn(2, 4, 5, 5), torch.rand(2, 4), torch.zeros(0))
        other = Decoded(one.logits + 0.5, one.iou_pred, torch.zeros(0))
        assert float(divergence(one, one)) == pytest.approx(0, abs=1e-5)
        assert float(divergence(other, one)) > 0.05
        worse = Decoded(one.logits, one.iou_pred / 2, torch.zeros(0))
        assert float(divergence(worse, one)) > 0.05


def test_prompts_reach_every_layer_of_the_decoder() -> None:
    model: Sam = planned_copy(tiny_sam(), Scheme())
    set_quantizing(model, False)
    recorder = Recorder(recordable(model), 0)
    with torch.no_grad(), recorder.on(0):
        embedding = model.encode(torch.randn(1, 3, 64, 64))
        model.decode_frame(embedding, Prompt(boxes_xyxy=torch.tensor([[1.0, 2.0, 30.0, 40.0]])))
    assert all(seen.records for seen in recorder.traces.values())
