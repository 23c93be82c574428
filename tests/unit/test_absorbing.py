"""Weights that take up errors: the equation that is solved, and what becomes of a quantised decoder's attention."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import ERRORS, Ptq
from compressors.quantize.absorbing import RIDGE, Inputs, _absorb, _computed, _Equation
from compressors.quantize.recording import Recorder, recordable
from compressors.quantize.search import Search, begin
from core.checkpoint import weights_sha256
from core.errors import InputError
from students.files import load_model, save_model
from students.quantized.attention import QuantizedCrossAttention
from students.quantized.plan import planned_copy, set_quantizing
from students.quantized.scheme import Scheme
from tests.unit.tiny import Images, tiny_sam

METHOD = Ptq(
    weight_bits=4, activation_bits=4, metric="mse", images=2, prompts=2, candidates=4, lowest=0.3, rounds=1, mac=True
)


def test_one_number_by_hand() -> None:
    equation = _Equation()
    two, three, four = (torch.full((1, 1, 1), value).double() for value in (2.0, 3.0, 4.0))
    equation.add(two, three[None], four[None])
    # 2 D 4 is to be 3: (2 * 2) D (4 * 4) + ridge D = 2 * 3 * 4, the ridge being a hundredth of 64.
    assert float(equation.solved()) == pytest.approx(24 / (64 + 0.64))


def test_the_solution_is_that_of_least_squares_over_all_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    equation, heads = _Equation(), 2
    x, met, residual = (
        torch.randn(*size, generator=generator).double() for size in ((5, 7, 4), (5, heads, 6, 3), (5, heads, 7, 6))
    )
    equation.add(x[:2], residual[:2], met[:2])
    equation.add(x[2:], residual[2:], met[2:])
    found = equation.solved()
    for head in range(heads):
        # vec(X D M') by rows is (X (x) M) vec(D).
        design = torch.cat([torch.kron(x[n], met[n, head]) for n in range(5)])
        ridge = RIDGE * design.square().sum() / design.shape[1]
        system = design.T @ design + ridge * torch.eye(design.shape[1])
        expected = torch.linalg.solve(system, design.T @ residual[:, head].reshape(-1))
        assert torch.allclose(found[head].reshape(-1), expected, rtol=1e-3, atol=1e-5)


def test_nothing_changes_where_there_is_no_error() -> None:
    equation, x, met = _Equation(), torch.randn(2, 5, 4).double(), torch.randn(2, 3, 6, 2).double()
    equation.add(x, torch.zeros(2, 3, 5, 6).double(), met)
    assert torch.equal(equation.solved(), torch.zeros(3, 4, 2).double())


def inputs_of(count: int, seed: int) -> Inputs:
    """Tokens ``[count, 5, 16]`` over those of one image ``[1, 12, 16]``, not centred."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (torch.randn(n, t, 16, generator=generator) for n, t in ((count, 5), (1, 12), (1, 12)))
    return 0.7 + queries, 0.5 + keys, values - 0.3


def attentions(given: list[Inputs]) -> tuple[QuantizedCrossAttention, Any]:
    """One of four bits, of two heads with four channels, whose grids cover what it is given, and the float one."""
    scheme = Scheme(4, 4, float_layers=("image_encoder",))
    attention, original = (
        planned_copy(tiny_sam(), scheme).get_submodule("mask_decoder.transformer.layers.0.cross_attn_token_to_image")
        for _ in range(2)
    )
    assert isinstance(attention, QuantizedCrossAttention)
    recorder = Recorder(recordable(attention), 0)
    for number, inputs in enumerate(given):
        with torch.no_grad(), recorder.on(number):
            attention(*inputs)
    for path, layer in recordable(attention).items():
        begin(layer, recorder.traces[path])
    set_quantizing(attention, True)
    return attention, original


def products(attention: QuantizedCrossAttention, inputs: Inputs, name: str, change: Tensor) -> Tensor:
    """Centred logits, or what values mix to, once ``change`` ``[heads, 17, 4]`` is added to one projection."""
    q, k, v = attention.heads(*inputs)
    operands = {
        "q": attention.scores.left(q / 2) if attention.scores.quantizing else q / 2,
        "k": attention.scores.right(k) if attention.scores.quantizing else k,
        "v": attention.mixing.right(v) if attention.mixing.quantizing else v,
    }
    weights = (operands["q"] @ operands["k"].transpose(-1, -2)).softmax(-1)
    weights = attention.mixing.left(weights) if attention.mixing.quantizing else weights
    layer: Any = getattr(attention, f"{name}_proj")
    x = layer.input_quantizer(inputs["qkv".index(name)])
    # Four channels a head: queries are divided by two.
    moved = (torch.cat([x, torch.ones_like(x[..., :1])], -1).double()[:, None] @ change) / (2 if name == "q" else 1)
    q, k, v = (operand.double() + (moved if key == name else 0) for key, operand in operands.items())
    if name == "v":
        return weights.double() @ v
    logits = q @ k.transpose(-1, -2)
    return logits - logits.mean(-1, keepdim=True)


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_projection_changes_by_least_squares_over_what_its_attention_computes(name: str) -> None:
    given = [inputs_of(3, 0), inputs_of(2, 1), inputs_of(4, 2)]
    attention, original = attentions(given)
    none = torch.zeros(2, 17, 4).double()
    layer: Any = getattr(attention, f"{name}_proj")
    before = torch.cat([layer.weight, layer.bias[:, None]], 1)
    residuals, designs = [], []
    with torch.no_grad():
        for inputs in given:
            # By head: [prompts * rows * columns] and [prompts * rows * columns, 17 * 4].
            error = products(original, inputs, name, none) - products(attention, inputs, name, none)
            residuals.append(error.transpose(0, 1).flatten(1))
            design = jacobian(lambda change, inputs=inputs: products(attention, inputs, name, change), none)
            designs.append(
                torch.stack([design[:, head, ..., head, :, :].flatten(-2).flatten(0, -2) for head in (0, 1)])
            )
        exact = [_computed(original, inputs) for inputs in given]
        _absorb(attention, name, given, exact, Search("minmax"))
    residual, design = torch.cat(residuals, 1), torch.cat(designs, 1)
    system = design.transpose(1, 2) @ design
    ridge = RIDGE * system.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(17 * 4)
    expected = torch.linalg.solve(system + ridge, (design.transpose(1, 2) @ residual[..., None])[..., 0])
    # From [heads, 17 * 4] to [8, 17].
    expected = expected.unflatten(1, (17, 4)).transpose(1, 2).flatten(0, 1).float()
    found = torch.cat([layer.weight, layer.bias[:, None]], 1) - before
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
    assert float(expected[:, :-1].abs().max()) > 0.01
    grid = copy.deepcopy(layer.weight_quantizer)
    grid.set_range(layer.weight.amin(1, keepdim=True), layer.weight.amax(1, keepdim=True))
    assert torch.equal(layer.weight_quantizer.scale, grid.scale), "a grid of the changed weight"


def test_logits_count_without_what_all_keys_of_a_row_share() -> None:
    given = inputs_of(3, 0)
    attention, _ = attentions([given])
    with torch.no_grad():
        found, none = _computed(attention, given), torch.zeros(2, 17, 4).double()
        torch.testing.assert_close(found["logits"].double(), products(attention, given, "q", none), rtol=0, atol=1e-5)
        torch.testing.assert_close(found["mixed"].double(), products(attention, given, "v", none), rtol=0, atol=1e-5)


def compressed(method: Ptq, folder: Path) -> tuple[Any, dict[str, Any]]:
    student = method.compress(tiny_sam(), Images(), RunContext(0, folder, Engine(folder))).student
    return student, json.loads((folder / ERRORS).read_text())


def test_products_of_the_decoder_are_nearer_to_the_float_ones(tmp_path: Path) -> None:
    student, about = compressed(METHOD, tmp_path / "a")
    lines = about["absorbed"]
    assert [line["layer"].rpartition(".")[2] for line in lines] == [
        *("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token") * 2,
        "final_attn_token_to_image",
    ]
    for product, least in (("logits", 0.0), ("mixed", -1.0)):
        # Logits that are nearer may still move what is mixed, a little; in the mean both gain.
        gains = [line["after_db"][product] - line["before_db"][product] for line in lines]
        assert min(gains) >= least and sum(gains) / len(gains) > 0.3, gains
    # Repeatable, an ordinary file, and another model than without.
    again, _ = compressed(METHOD, tmp_path / "b")
    without, plain = compressed(replace(METHOD, mac=False), tmp_path / "c")
    assert weights_sha256(student) == weights_sha256(again) != weights_sha256(without) and "absorbed" not in plain
    for name in "qkv":
        pairs = (
            (model.get_submodule(f"{line['layer']}.{name}_proj") for model in (student, without)) for line in lines
        )
        assert any(not torch.equal(one.codes, other.codes) for one, other in pairs), name
    save_model(tmp_path / "student.safetensors", student)
    assert weights_sha256(load_model(tmp_path / "student.safetensors")) == weights_sha256(student)


def test_too_few_prompts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compressed(METHOD, tmp_path / "some")
    assert "method.mac" not in capsys.readouterr().err
    compressed(replace(METHOD, images=1, prompts=1), tmp_path / "few")
    # A point (with its padding) and a box have seven tokens each.
    said = "method.mac: mask_decoder.transformer.layers.0.self_attn.q_proj has 17 weights an output and only 14 vectors"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"decoder": "float"}, {"products": "float"}])
def test_it_needs_products_on_grids(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"method\.mac=true is for products of the mask decoder's attention"):
        replace(METHOD, **change)
