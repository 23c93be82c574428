"""Groups of channels that merge while they learn (CAG): by hand, resumed, and as the file and the plan have them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.ptq import Ptq
from compressors.quantize.learned import LearnedGroups
from compressors.quantize.reconstruction import Reconstruction
from core.errors import InputError
from students.files import load_model, save_model
from students.quantized.plan import plan_of
from students.quantized.simulated_grids import ChannelGroupQuantizer
from teachers.sam import Sam
from tests.unit.stopped_learning import weights_and_steps
from tests.unit.tiny import Images, tiny_sam

METHOD = Ptq(
    4,
    4,
    metric="minmax",
    images=2,
    prompts=1,
    reconstruct="blocks",
    steps=4,
    batch=2,
    decoder="float",
    channel_groups=2,
    first_channel_groups=8,
)


def of_eight_channels() -> ChannelGroupQuantizer:
    """Channels of the ranges 0 to 15, 15, 30, 30, 285, 285, 315 and 315 in four groups, in this order."""
    grid = ChannelGroupQuantizer(4, False, channels=8, groups=4)
    highest = torch.tensor([15.0, 15.0, 30.0, 30.0, 285.0, 285.0, 315.0, 315.0])
    grid.set_range(torch.zeros(8), highest)
    assert grid.scale[grid.group].tolist() == [1, 1, 2, 2, 19, 19, 21, 21]
    return grid


def test_groups_halve_in_equal_parts_of_the_learning() -> None:
    learned = LearnedGroups(of_eight_channels(), 1)
    counts = []
    for step in range(9):
        learned.merge(step / 9)
        counts.append(int(learned.count))
    assert counts == [4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert LearnedGroups(of_eight_channels(), 3).counts == [4, 3]
    assert LearnedGroups(of_eight_channels(), 4).counts == [4], "those that there are"


def test_a_merged_group_has_the_mean_range_of_its_channels() -> None:
    grid = of_eight_channels()
    learned, x = LearnedGroups(grid, 2), torch.full((1, 8), 3.0)
    assert torch.equal(learned(x), grid(x)), "nothing has merged, and nothing has learned"
    learned.merge(0.5)
    # Steps 1 and 2 merge, and 19 and 21: 1.5 and 20.
    assert learned(x).tolist() == [[3, 3, 3, 3, 0, 0, 0, 0]]
    assert learned(torch.full((1, 8), 300.0))[0].tolist() == [22.5] * 4 + [300] * 4
    # What one of the first groups has learned is its part of the mean: step 2 to 4.
    with torch.no_grad():
        learned.step[grid.group[2]] = 10 * torch.tensor(2.0).log()
    assert float(learned(torch.full((1, 8), 300.0)).detach()[0, 0]) == pytest.approx(37.5)
    for _ in range(2):
        learned.settle()
        assert len(grid.scale) == 2 and grid.scale[grid.group].tolist() == pytest.approx([2.5] * 4 + [20] * 4)
    assert torch.equal(grid(x), learned(x).detach()) and grid.description()["groups"] == 2


def test_zero_points_merge_with_their_ranges() -> None:
    grid = ChannelGroupQuantizer(4, False, channels=2, groups=2)
    # -5 to 10 by steps of 1, and -20 to 10 by steps of 2: zero is at code 5 and 10.
    grid.set_range(torch.tensor([-5.0, -20.0]), torch.tensor([10.0, 10.0]))
    learned = LearnedGroups(grid, 1)
    learned.merge(0.9)
    learned.settle()
    # The mean range is -12.5 to 10: 15 steps of 1.5, and zero at code 8.33.
    assert grid.scale.tolist() == [1.5] and grid.zero_point.tolist() == [8] and grid.zero_point.dtype == torch.int32


def test_all_channels_of_a_group_learn_its_step() -> None:
    learned = LearnedGroups(of_eight_channels(), 1)
    learned.merge(0.9)
    # The mean step is 10.75; the first channel's value is clipped, which moves the step by the last code, 15.
    learned(torch.tensor([[1000.0, 0, 0, 0, 0, 0, 0, 0]])).sum().backward()
    first = learned._first
    # Two of eight channels have each of the steps 1, 2, 19 and 21, learned as logarithms at a tenth of the rate.
    expected = torch.tensor([1.0, 2.0, 19.0, 21.0]) * 15 * (2 / 8) / 10
    assert learned.step.grad is not None and torch.allclose(learned.step.grad[first[::2]], expected)


def test_the_model_its_plan_and_its_file_have_the_last_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = Reconstruction.run, set[int]()

    def noting(self: Reconstruction, model: Sam, *others: Any) -> Any:
        first.update(len(part.scale) for part in model.modules() if isinstance(part, ChannelGroupQuantizer))
        return run(self, model, *others)

    monkeypatch.setattr(Reconstruction, "run", noting)
    context = RunContext(0, tmp_path, Engine(tmp_path))
    student = METHOD.compress(tiny_sam(), Images(), context).student
    grids = [module for module in student.modules() if isinstance(module, ChannelGroupQuantizer)]
    assert grids and {len(grid.scale) for grid in grids} == {2}
    assert first == {8}, "when learning begins"
    plan = plan_of(student)
    assert plan is not None and plan.scheme.channel_groups == 2
    assert {layer["input"].get("groups", 2) for layer in plan.layers.values()} == {2}
    save_model(tmp_path / "student.safetensors", student, {})
    again = load_model(tmp_path / "student.safetensors")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again.encode(image), student.encode(image))


def test_merging_that_was_stopped_ends_with_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _ = weights_and_steps(METHOD, tmp_path / "a", monkeypatch)
    # Once between two merges, and once behind the last one.
    resumed, steps = weights_and_steps(METHOD, tmp_path / "b", monkeypatch, stops=(2, 7))
    assert resumed == undisturbed and steps.count(2) == steps.count(7) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channel_groups": 0}, "method.first_channel_groups=8 merge into fewer, of which method.channel_groups=0 is"),
        ({"channel_groups": 8}, "give one above 0 and below"),
        ({"reconstruct": "none"}, "merge while their ranges learn; give method.reconstruct=blocks or layers"),
        ({"learn": "rounding"}, "and method.learn=both or scales"),
        ({"first_channel_groups": -1}, "method.first_channel_groups=-1 must be at least 0"),
    ],
)
def test_refused_settings(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(METHOD, **changes)  # type: ignore[arg-type]
