"""How wrong each quantised layer is: against the definition, and as a calibration writes it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import ERRORS, Ptq
from compressors.quantize.layer_errors import decibels, layer_error
from compressors.quantize.recording import LayerTrace, TracedCall, recordable
from students.quantized.layers import QuantizedConvolution, QuantizedLinear, QuantizedProduct
from students.quantized.plan import planned_copy
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from tests.unit.tiny import Images, tiny_sam

METHOD = Ptq(images=2, prompts=2, candidates=5, lowest=0.5, rounds=1)


def written(method: Ptq, folder: Path) -> dict[str, object]:
    method.compress(tiny_sam(), Images(), RunContext(0, folder, Engine(folder)))
    content: dict[str, object] = json.loads((folder / ERRORS).read_text())
    return content


def test_decibels_are_a_ratio_of_energies() -> None:
    expected = torch.tensor([3.0, -4.0])
    assert decibels([(expected, expected + torch.tensor([0.3, 0.4]))]) == pytest.approx(20.0, abs=1e-5)
    # Several records count together, not on average.
    halves = [(expected[:1], expected[:1] + 0.3), (expected[1:], expected[1:] + 0.4)]
    assert decibels(halves) == pytest.approx(20.0, abs=1e-5)
    assert decibels([(expected, -9 * expected)]) == pytest.approx(-20.0)
    assert (
        decibels([(expected, expected)]) is None
        and decibels([(0 * expected, expected)]) is None
        and decibels([]) is None
    )


def test_a_layer_is_judged_with_its_grids_while_it_computes_in_float() -> None:
    layer = QuantizedLinear((1, 2), None, UniformQuantizer(8, True), UniformQuantizer(4, False))
    layer.take(torch.tensor([[1.2, 2.9]]), None)
    layer.quantizing = False
    x = torch.tensor([[1.4, 2.6]])
    # Steps of 1: the weight becomes (1, 3), the input (1, 3), their product 10.
    expected = 1.2 * 1.4 + 2.9 * 2.6
    seen = LayerTrace({(0, 0): TracedCall((x,), torch.tensor([[expected]]))})
    found = layer_error("path", layer, seen)
    assert (found["layer"], found["kind"], found["weight_bits"], found["activation_bits"]) == ("path", "linear", 8, 4)
    assert found["weight_sqnr_db"] == pytest.approx(10 * math.log10((1.2**2 + 2.9**2) / (0.2**2 + 0.1**2)), abs=1e-4)
    assert found["output_sqnr_db"] == pytest.approx(10 * math.log10(expected**2 / (10 - expected) ** 2), abs=1e-4)


def test_convolutions_and_products() -> None:
    geometry = {"stride": [1, 1], "padding": [1, 1], "groups": 1, "transposed": False}
    behind = UniformQuantizer(8, False)
    layer = QuantizedConvolution((1, 1, 1, 1), None, UniformQuantizer(8, True), None, behind, **geometry)  # type: ignore[arg-type]
    layer.take(torch.ones(1, 1, 1, 1), None)
    # A record holds its padding already; the only error is that of the grid behind.
    record = TracedCall((torch.full((1, 1, 2, 2), 2.4),), torch.full((1, 1, 2, 2), 2.4))
    found = layer_error("conv", layer, LayerTrace({(0, 0): record}))
    assert found["kind"] == "convolution" and found["activation_bits"] is None and found["weight_sqnr_db"] is None
    assert found["output_sqnr_db"] == pytest.approx(20 * math.log10(2.4 / 0.4), abs=1e-4)
    product = QuantizedProduct(UniformQuantizer(6, False), UniformQuantizer(6, False))
    a, b = torch.full((1, 1, 2, 3), 1.25), torch.full((1, 1, 3, 2), 2.0)
    found = layer_error("product", product, LayerTrace({(0, 0): TracedCall((a, b), a @ b)}))
    assert (found["kind"], found["weight_bits"], found["weight_sqnr_db"]) == ("product", None, None)
    assert found["activation_bits"] == 6 and found["output_sqnr_db"] == pytest.approx(20 * math.log10(5), abs=1e-4)


def test_a_calibration_writes_every_layer_in_the_order_of_the_network(tmp_path: Path) -> None:
    content = written(METHOD, tmp_path)
    assert (content["images"], content["metric"], content["order"]) == (2, "hessian", "parallel")
    layers: list[dict[str, object]] = content["layers"]  # type: ignore[assignment]
    assert [layer["layer"] for layer in layers] == list(recordable(planned_copy(tiny_sam(), Scheme())))
    assert {layer["kind"] for layer in layers} == {"linear", "convolution", "transposed convolution", "product"}
    assert all(type(layer["output_sqnr_db"]) is float for layer in layers)
    assert all((layer["weight_sqnr_db"] is None) == (layer["kind"] == "product") for layer in layers)
    assert written(METHOD, tmp_path / "again") == content


def test_fewer_bits_are_worse(tmp_path: Path) -> None:
    eight, four = (
        written(replace(METHOD, metric="minmax", weight_bits=bits, activation_bits=bits), tmp_path / str(bits))
        for bits in (8, 4)
    )
    pairs = list(zip(eight["layers"], four["layers"], strict=True))  # type: ignore[call-overload]
    worse = [b["output_sqnr_db"] < a["output_sqnr_db"] for a, b in pairs]
    assert sum(worse) > 0.95 * len(worse)
    assert all(b["weight_sqnr_db"] < a["weight_sqnr_db"] for a, b in pairs if a["weight_bits"])
