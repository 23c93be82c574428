"""Units learn in turn, each on what the settled ones before it give: drawn drops, roundings that are decided."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.quantize import reconstruction
from compressors.quantize.learned import LearnedRounding
from compressors.quantize.reconstruction import Reconstruction, UnitCalls, _Work
from core.protocols import Prompt
from students.quantized.layers import QuantizedLayer
from students.quantized.plan import planned_copy
from students.quantized.quantizers import UniformQuantizer
from students.quantized.scheme import Scheme
from teachers.sam import Sam
from tests.unit.tiny import tiny_sam

FLOAT = ("image_encoder.patch_embed", "image_encoder.blocks.2", "image_encoder.neck", "mask_decoder")
UNITS = ["image_encoder.blocks.0", "image_encoder.blocks.1"]
IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CALLS = [("one", IMAGE, (Prompt.foreground(torch.tensor([[[20.0, 30.0]]])),))]


def planned(activation_bits: int = 32) -> tuple[Sam, Sam]:
    """A model with two units on grids, and the float model with the same modules."""
    model, exact = (planned_copy(tiny_sam(), Scheme(4, activation_bits, float_layers=FLOAT)) for _ in range(2))
    for name, grid in model.named_modules():
        if isinstance(grid, UniformQuantizer):
            holder = model.get_submodule(name.rpartition(".")[0])
            highest = holder.weight.abs().amax() if name.endswith("weight_quantizer") else torch.tensor(3.0)
            grid.set_range((-highest).expand(grid.shape), highest.expand(grid.shape))
    return model, exact


def work(activation_bits: int = 32, steps: int = 10, drop: float = 0.2) -> _Work:
    """With roundings that are drawn, as if they had learned."""
    how = Reconstruction("blocks", "both", steps, lr=0.5, batch=1, drop=drop, seed=0)
    made = _Work(how, *planned(activation_bits), CALLS)
    assert made.units == UNITS
    generator = torch.Generator().manual_seed(1)
    for learner in made.learners:
        for rounding in learner.roundings:
            rounding.logits.data.normal_(generator=generator)
    return made


def settled(made: _Work) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights of the model, and what they were learned to be."""
    pairs = (pair for learner in made.learners for pair in zip(learner._places, learner.learners, strict=True))
    return [(m.weight, learned.settled()) for (m, _), learned in pairs if isinstance(learned, LearnedRounding)]  # type: ignore[misc]


class Kept(_Work):
    """Keeps what a run works on."""

    made: ClassVar[list[_Work]] = []

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.made.append(self)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[_Work]:
    monkeypatch.setattr(reconstruction, "_Work", Kept)
    monkeypatch.setattr(Kept, "made", [])
    return Kept.made


def test_every_unit_ends_with_what_it_learned_whatever_the_precision(runs: list[_Work], tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        engine = Engine(tmp_path / precision, precision=precision)
        Reconstruction("blocks", "both", 2, lr=0.5, batch=1, drop=0.2, seed=0).run(*planned(), CALLS, engine, "key")
        for weight, learned in settled(runs[-1]):
            assert torch.equal(weight, learned)
    # bfloat16 has the precision of 8 bits: what is learned in it differs.
    first, second = ([r.logits for learner in run.learners for r in learner.roundings] for run in runs)
    assert len(first) == 8 and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_unit_learns_on_what_the_settled_unit_before_it_gives() -> None:
    made, (other, _) = work(), planned()
    made.batch(range(10, 11))
    (call,) = made._calls
    # By hand: the first block of another copy, with the rounded weights.
    block, learned = other.image_encoder.blocks[0], iter(made.learners[0].learners)
    for module in block.modules():
        if isinstance(module, QuantizedLayer):
            rounding = next(learned)
            assert isinstance(rounding, LearnedRounding)
            module.weight, module.quantizing = torch.nn.Parameter(rounding.settled()), True
    inputs: list[torch.Tensor] = []
    other.image_encoder.blocks[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        other.encode(IMAGE)
    torch.testing.assert_close(call.quantised[0], inputs[0])
    assert not torch.allclose(call.quantised[0], call.exact[0], rtol=0.01)


def test_errors_count_relative_to_the_variance() -> None:
    made = work()
    made._variances = [torch.tensor(4.0), torch.tensor(0.5)]
    found, exact = (torch.tensor([1.0, 3.0]), torch.tensor([2.0])), (torch.tensor([1.0, 1.0]), torch.tensor([1.0]))
    # (0 + 4) / 2 / 4 + 1 / 0.5
    assert float(made._error(found, exact)) == pytest.approx(0.5 + 2.0)


def test_a_fifth_of_an_input_is_as_the_float_model_has_it() -> None:
    quantised, exact = torch.zeros(100, 100), torch.ones(100, 100)
    mixed = work(drop=0.2)._mixed(quantised, exact, torch.Generator().manual_seed(0))
    assert set(mixed.unique().tolist()) == {0, 1} and float(mixed.mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(work(drop=0.0)._mixed(quantised, exact, torch.Generator()), quantised)


# The first unit's inputs are float: what is drawn there are its activations. The second's weights alone are rounded.
@pytest.mark.parametrize(("turn", "activation_bits"), [(0, 4), (1, 32)])
def test_steps_draw_differently_and_each_step_the_same_again(turn: int, activation_bits: int) -> None:
    made = work(activation_bits)
    batch = made.batch(range(10 * turn, 10 * turn + 1))
    assert torch.equal(batch.calls[0].quantised[0], batch.calls[0].exact[0]) is (turn == 0)
    first, again, second = (float(made.loss(batch, step)["error"].detach()) for step in (0, 0, 1))
    assert first == again != second


def undecided(made: _Work, batch: UnitCalls, step: int) -> float | None:
    terms = made.loss(batch, step)
    return float(terms["undecided"].detach()) if "undecided" in terms else None


def test_roundings_are_free_at_first_and_then_decided_by_a_falling_exponent() -> None:
    made = work(steps=100)
    batch = made.batch(range(1))
    shares = torch.cat([rounding.share().detach().flatten() for rounding in made.learners[0].roundings])
    assert undecided(made, batch, 0) is None and undecided(made, batch, 10) is None
    # AdaRound, eq. 24: from 20 to 2 in the last four fifths of the steps; a hundredth of the mean over the weights.
    for step, exponent in ((20, 20.0), (60, 11.0), (99, 2 + 18 / 80)):
        expected = 0.01 * (1 - (2 * shares - 1).abs() ** exponent).mean()
        assert undecided(made, batch, step) == pytest.approx(float(expected), rel=1e-4), step
