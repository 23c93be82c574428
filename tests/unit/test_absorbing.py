"""Weights that take up errors: the equation that is solved, and what becomes of a quantised decoder's attention."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import ERRORS, Ptq
from compressors.quantize.absorbing import RIDGE, _Equation
from core.checkpoint import weights_sha256
from core.errors import InputError
from students.files import load_model, save_model
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
