"""Layers that get more bits under a budget: by hand, by their costs in a model, and from end to end."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.ptq_settings import PtqSettings
from compressors.quantize import mixed_precision
from compressors.quantize.layer_errors import expected_loss
from compressors.quantize.mixed_precision import choose_float_layers, choose_layers
from compressors.quantize.objective import fisher_loss
from compressors.quantize.recording import LayerTrace, TracedCall
from core.errors import InputError
from students.export.layer_times import LayerTime
from students.files import load_model, save_model
from students.quantized.bit_operations import bits_by_layer, count_bit_operations
from students.quantized.plan import make_plan, plan_of, planned_copy
from students.quantized.scheme import Scheme
from teachers.mask_decoder import Decoded
from tests.unit.tiny import Images, tiny_sam

FOUR = Scheme(weight_bits=4, activation_bits=4)


def fixed(monkeypatch: pytest.MonkeyPatch, few: dict[str, int]) -> None:
    """Bit-operations of layers, four times as many in eight bits."""

    def counted(config: object, plan: object) -> dict[str, int]:
        return few if plan == "few" else {path: 4 * bits for path, bits in few.items()}

    monkeypatch.setattr(mixed_precision, "bits_by_layer", counted)
    monkeypatch.setattr(
        mixed_precision, "make_plan", lambda model, scheme: "eight" if scheme.weight_bits == 8 else "few"
    )


def test_layers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each layer costs three times its bit-operations more; gains for each: 1, 1/30, 1/3, 0.
    fixed(monkeypatch, {"a": 1, "b": 10, "c": 3, "d": 2})
    losses = {"a": 3.0, "b": 1.0, "c": 3.0, "d": 0.0}
    # 64 in all with eight bits, 16 without. A budget of 34 has room for a (3) and c (9), not for b (30), but for d (6).
    found = choose_layers(tiny_sam(), FOUR, losses, 34 / 64)
    assert (found.lowest, found.highest, found.expected_loss) == (16, 64, 7.0)
    assert [(one.layer, one.spent, one.expected_loss) for one in found.front] == [
        ("a", 19, 4.0),
        ("c", 28, 1.0),
        ("b", 58, 0.0),
        ("d", 64, 0.0),
    ]
    assert found.chosen == ("a", "c", "d")
    assert choose_layers(tiny_sam(), FOUR, losses, 1.0).chosen == ("a", "c", "b", "d")
    assert choose_layers(tiny_sam(), FOUR, losses, 16 / 64).chosen == ()
    with pytest.raises(InputError, match=r"method\.budget=0\.2: without .* has 0\.250 of the bit-operations"):
        choose_layers(tiny_sam(), FOUR, losses, 0.2)


def test_layers_of_several_widths_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bit-operations with 4, 6 and 8 bits: 16, 36 and 64 times the layer's size.
    sizes = {"a": 1, "b": 1}
    monkeypatch.setattr(mixed_precision, "make_plan", lambda model, scheme: scheme.weight_bits)
    monkeypatch.setattr(
        mixed_precision, "bits_by_layer", lambda config, bits: {path: n * bits**2 for path, n in sizes.items()}
    )
    losses, six = {"a": 10.0, "b": 9.0}, {"a": 1.0, "b": 2.0}
    # 32 of 128 without an upgrade; a sixth bit costs 20 more, an eighth 48.
    for spent, bits in (
        (51, {}),
        (52, {"a": 6}),
        (72, {"a": 6, "b": 6}),
        (80, {"a": 6, "b": 6}),
        (128, {"a": 8, "b": 8}),
    ):
        found = choose_layers(tiny_sam(), FOUR, losses, spent / 128, levels={6: six, 8: {}})
        assert found.bits == bits and set(found.chosen) == set(bits)
    # 100 has room for eight bits of one: b then loses 2 less.
    assert choose_layers(tiny_sam(), FOUR, losses, 100 / 128, levels={6: six, 8: {}}).bits == {"a": 6, "b": 8}
    assert [(one.layer, one.bits, one.spent, one.expected_loss) for one in found.front] == [
        ("a", 6, 52, 10.0),
        ("b", 6, 72, 3.0),
        ("b", 8, 100, 1.0),
        ("a", 8, 128, 0.0),
    ]


def test_a_model_has_the_widths_that_were_chosen(tmp_path: Path) -> None:
    method = Ptq(2, 2, metric="minmax", images=1, prompts=1, budget=0.75, levels=(4, 8), decoder="float")
    student = method.compress(tiny_sam(), Images(), RunContext(0, tmp_path, Engine(tmp_path))).student
    mixed = json.loads((tmp_path / "quantisation.json").read_text())["mixed_precision"]
    plan = plan_of(student)
    assert plan is not None and student.name.endswith("-mixed") and {*mixed["bits"].values()} == {4, 8}
    parts = {**plan.layers, **{f"{path}.{n}": pair[n] for path, pair in plan.products.items() for n in pair}}
    for path, part in parts.items():
        grids = [part[name] for name in ("weight", "input", "left", "right") if part.get(name)]
        assert {grid["bits"] for grid in grids} == {mixed["bits"].get(path, 2)}
    total = count_bit_operations(student.config, plan).total
    assert mixed["lowest"] < total <= 0.75 * mixed["highest"]
    # A layer loses less by four bits than by two, and what it loses by eight is measured too.
    first, *_, last = mixed["front"]
    assert first["bits"] == 4 and last["bits"] == 8 and 0 < last["expected_loss"] < 0.01 * mixed["expected_loss"]
    save_model(tmp_path / "student.safetensors", student, {})
    again = plan_of(load_model(tmp_path / "student.safetensors"))
    assert again is not None and again.to_dict() == plan.to_dict()


def test_a_budget_is_kept_and_more_buys_more() -> None:
    model = tiny_sam()
    plan = make_plan(model, FOUR)
    paths = [*plan.layers, *(f"{path}.{name}" for path in plan.products for name in ("scores", "mixing"))]
    losses = {path: float(number % 7 + 1) for number, path in enumerate(paths)}
    eight = sum(bits_by_layer(model.config, make_plan(model, Scheme())).values())
    expected = []
    for budget in (0.5, 0.7, 1.0):
        found = choose_layers(model, FOUR, losses, budget)
        upgraded = dataclasses.replace(FOUR, eight_bit_layers=found.chosen)
        total = count_bit_operations(model.config, make_plan(model, upgraded)).total
        assert found.lowest <= total <= budget * eight
        expected.append(sum(losses[path] for path in paths if path not in found.chosen))
    assert expected == sorted(expected, reverse=True) and expected[0] > expected[-1]
    # Layers of the prompt's mask, and no other, are not counted for a box.
    counted = bits_by_layer(model.config, plan)
    assert set(paths) - set(found.chosen) == {path for path in paths if path not in counted}


def test_a_budget_of_bytes_is_of_stored_codes_and_products_are_free() -> None:
    model = tiny_sam()
    plan = make_plan(model, FOUR)
    products = [f"{path}.{name}" for path in plan.products for name in ("scores", "mixing")]
    losses = {path: 1.0 for path in (*plan.layers, *products)}
    found = choose_layers(model, FOUR, losses, 0.75, "bytes")
    weights = {path: math.prod(layer["shape"]) for path, layer in plan.layers.items()}
    assert (found.lowest, found.highest) == (sum((n + 1) // 2 for n in weights.values()), sum(weights.values()))
    assert set(products) <= set(found.chosen) and found.front[0].spent == found.lowest
    spent = found.lowest + sum(weights[path] // 2 for path in found.chosen if path in weights)
    assert 0.7 * found.highest < spent <= 0.75 * found.highest
    # All lose alike: small weights gain most for their bytes, and go before large ones.
    taken = [weights[path] for path in found.chosen if path in weights]
    assert taken == sorted(taken) and max(taken) < max(weights.values())
    with pytest.raises(InputError, match=r"budget=0\.4: without .* has 0\.5.. of the bytes"):
        choose_layers(model, FOUR, losses, 0.4, "bytes")


def test_layers_that_stay_float_by_hand() -> None:
    times = {
        "a": LayerTime(1, 3),
        "b": LayerTime(2, 3),
        "c": LayerTime(2, 1.5),
        "d": LayerTime(1, 5),
        "p": LayerTime(1, 9),
    }
    # The product p has no loss: it may not stay float. For each millisecond a gains 2, b 3, d 1; c is faster in float.
    # Beside c there is room for 2.5 ms: a gains more than b, which is first for each millisecond.
    losses = {"a": 4.0, "b": 3.0, "c": 0.1, "d": 4.0}
    found = choose_float_layers(times, losses, 9.0, "onnxruntime")
    assert (found.lowest, found.highest, found.of, found.runtime) == (7.0, 13.5, "milliseconds", "onnxruntime")
    assert [(one.layer, one.spent, round(one.expected_loss, 6)) for one in found.front] == [
        ("c", 6.5, 11.0),
        ("b", 7.5, 8.0),
        ("a", 9.5, 4.0),
        ("d", 13.5, 0.0),
    ]
    assert found.chosen == ("c", "a") and found.bits == {}
    assert choose_float_layers(times, losses, 6.5, "openvino").chosen == ("c",)
    assert choose_float_layers(times, losses, 13.4, "openvino").chosen == ("c", "a", "d")
    with pytest.raises(
        InputError, match=r"budget=6\.0: the layers take 6\.5 ms at least in openvino .* 13\.5 in float"
    ):
        choose_float_layers(times, losses, 6.0, "openvino")
    with pytest.raises(InputError, match=r"budget=13\.5: every layer may stay float, .* 13\.5 ms .* give less"):
        choose_float_layers(times, losses, 13.5, "openvino")
    with pytest.raises(InputError, match="none is faster in 8 bits, so leave it out"):
        choose_float_layers({"c": LayerTime(2, 1.5)}, {"c": 0.1}, 9.0, "openvino")


def test_the_expected_loss_by_hand() -> None:
    copied = planned_copy(tiny_sam(), FOUR)
    layer = copied.get_submodule("image_encoder.blocks.0.mlp.lin1")
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    layer.weight_quantizer.set_range(torch.zeros(layer.shape[0], 1), torch.ones(layer.shape[0], 1))
    layer.input_quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    inputs, output = torch.zeros(2, layer.shape[1]), torch.ones(2, layer.shape[0])
    # It answers 0 in place of 1 wherever it is looked at; the gradient is 3; a sixth of the output was drawn.
    record = TracedCall((inputs,), output, torch.full_like(output, 3.0), size=6 * output.numel())
    unseen = TracedCall((inputs,), output, None, size=output.numel())
    assert expected_loss(layer, LayerTrace({(0, 0): record, (0, 1): unseen})) == pytest.approx(
        0.5 * 9 * 6 * output.numel()
    )


def test_the_fisher_information_is_the_losses_curvature() -> None:
    # Of a pixel with logit z the information is p (1 - p), which is what the divergence bends by there. Pixels weigh so
    # that the squares of a mask add up to the mean.
    logits = torch.full((1, 1, 256, 256), 0.7, requires_grad=True)
    answer = Decoded(logits, torch.full((1, 1), 0.5), torch.zeros(1, 2, 4))
    (gradient,) = torch.autograd.grad(fisher_loss(answer, torch.Generator().manual_seed(0)), logits)
    probability = torch.tensor(0.7).sigmoid().item()
    assert float(gradient.square().sum()) == pytest.approx(probability * (1 - probability), rel=0.02)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"budget": 0.0, "weight_bits": 4}, "budget=0.0 is a share"),
        ({"budget": 1.5, "weight_bits": 4}, "budget=1.5 is a share"),
        ({"budget": 0.5}, r"give the others fewer, as method\.weight_bits=4 method\.activation_bits=4$"),
        ({"budget": 0.5, "weight_bits": 6, "budget_of": "bytes"}, "codes of 6 bits take a byte each, as those of 8 do"),
        ({"budget": 0.5, "weight_bits": 4, "gradient": "perturbed"}, "not by perturbed"),
        ({"budget": 0.5, "weight_bits": 4, "levels": (6,)}, "rising order up to 8, such as method.levels=\\[8\\]"),
        ({"budget": 0.5, "weight_bits": 4, "levels": (4, 8)}, "numbers of bits above 4"),
        ({"budget": 0.5, "weight_bits": 4, "levels": ()}, "numbers of bits above 4"),
        ({"budget": 0.5, "weight_bits": 2, "levels": (6, 4, 8)}, "in rising order"),
        ({"budget": 0.5, "weight_bits": 4, "levels": (6, 8), "budget_of": "bytes"}, "codes of 5 to 7 bits take a byte"),
        ({"budget": 9.0, "budget_of": "milliseconds", "levels": (6, 8)}, "layers have 8 bits or are float"),
        ({"budget": 0.0, "budget_of": "milliseconds"}, "budget=0.0 is of milliseconds"),
        ({"budget": math.inf, "budget_of": "milliseconds"}, "budget=inf is of milliseconds; give a finite number"),
        ({"budget": 5.0, "budget_of": "milliseconds", "weight_bits": 4}, "weight_bits=8 method.activation_bits=8"),
    ],
)
def test_what_a_budget_needs(settings: dict[str, float | str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PtqSettings(**settings)  # type: ignore[arg-type]
