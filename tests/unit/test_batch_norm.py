"""Batch normalisation over two processes: a layer, and whole methods, end where one process does."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from compressors.distill.batch_norm import has_batch_norm, synchronised
from compressors.distill.engine import Engine, parts_of_step
from compressors.distill.optimizer import OptimizerConfig
from compressors.method import RunContext
from compressors.mobilesam import MobileSam
from compressors.tinysam import TinySam
from core import distributed
from core.errors import InputError
from students.student import Student
from tests import warm_processes
from tests.unit.test_engine import stage
from tests.unit.tiny import CONFIG, LabelledImages, TinyStudent, free_port, tiny_sam

OPTIMISATION = OptimizerConfig(lr=0.05, clip=1.0)
# Through the decoder of a teacher of random weights come small gradients.
FAST = replace(OPTIMISATION, lr=2.0)
METHODS = {
    "mobilesam": MobileSam(TinyStudent(), steps=2, batch=4, optimisation=OPTIMISATION),
    "accumulated": MobileSam(
        TinyStudent(), steps=1, batch=2, optimisation=replace(OPTIMISATION, accumulate=2, ema=0.5)
    ),
    "root": MobileSam(TinyStudent(), steps=1, batch=4, loss="root", optimisation=OPTIMISATION),
    "coupled": MobileSam(TinyStudent(), steps=1, batch=4, distillation="coupled", decoder_steps=1, optimisation=FAST),
    "cnn": MobileSam(Student("timm", "test_resnet"), steps=1, batch=4, optimisation=OPTIMISATION),
    "vit": MobileSam(
        Student("timm", "test_vit"),
        steps=1,
        batch=2,
        distillation="coupled",
        optimisation=replace(FAST, accumulate=2),
    ),
    "tinysam": TinySam(TinyStudent(), steps=2, batch=4, prompts=2, optimisation=OPTIMISATION),
}


def as_one_of_two(work: Callable[[Path], None], folder: Path, rank: int, port: int) -> None:
    """What each of them does."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init(torch.device("cpu"))
    work(folder)
    distributed.shut_down()


def in_two_processes(work: Callable[[Path], None], folder: Path) -> None:
    """Do some work in each of two processes that have met."""
    port = free_port()
    children = [warm_processes.started(as_one_of_two, work, folder, rank, port) for rank in range(2)]
    for one in children:
        one.join(240)
    assert [one.exitcode for one in children] == [0, 0]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), BatchNormAct2d(6), nn.Flatten(2))
    model = nn.Sequential(*parts, nn.BatchNorm1d(6, momentum=None, affine=False), nn.BatchNorm1d(6))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def passed(mine: slice, autocast: bool) -> dict[str, Tensor]:
    """What two passes of the model leave: outputs and gradients for some of the images, and its state."""
    model, found = make_model(), {}
    # Far from zero: sums of squares alone would lose the variance.
    images = (torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 30)[mine].requires_grad_()
    names = list(model.state_dict())
    with synchronised(model):
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found["out"] = model(images)
            (found["out"].float() * torch.linspace(0, 1, found["out"].shape[-1])).square().mean().backward()
        assert list(model.state_dict()) == names
        model.eval()
        found["scored"] = model(images)
    assert "forward" not in vars(model[1])
    found["images"] = images.grad if images.grad is not None else torch.empty(0)
    gradients = {f"of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    distributed.average(gradients.values())
    return {name: tensor.detach() for name, tensor in (found | gradients | model.state_dict()).items()}


def layers_and_methods(folder: Path) -> None:
    rank = distributed.rank()
    half = slice(2 * rank, 2 * rank + 2)
    students = {name: made(method, folder / name) for name, method in METHODS.items()}
    layers = {autocast: passed(half, autocast) for autocast in (False, True)}
    with contextlib.suppress(InputError):
        parts_of_step(replace(stage(), batch_size=3), 0)
        raise AssertionError("three images cannot be shared by two")
    torch.save((students, layers), folder / f"{rank}.pt")


def made(method: MobileSam | TinySam, folder: Path) -> dict[str, Tensor]:
    """By plain descent: Adam makes much of gradients that are zero but for rounding, as of biases before a norm."""

    def descent(settings: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], settings.lr)

    with patch("compressors.distill.engine.build_optimizer", descent):
        compressed = method.compress(tiny_sam(), LabelledImages(), RunContext(0, folder, Engine(folder)))
    return compressed.student.state_dict()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two processes came to: weights of students by method, and what layers did."""
    folder = tmp_path_factory.mktemp("both")
    in_two_processes(layers_and_methods, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_layers_compute_what_pytorchs_do_alone(both: list[Any], autocast: bool) -> None:
    alone = passed(slice(None), autocast)
    first, second = (layers[autocast] for _, layers in both)
    tolerance = {"rtol": 0.1, "atol": 0.1} if autocast else {"rtol": 1e-4, "atol": 2e-5}
    for name, expected in alone.items():
        if name in ("out", "scored"):
            found = torch.cat([first[name], second[name]])
        elif name == "images":
            # Each process's loss is a mean over its own half.
            found = torch.cat([first[name], second[name]]) / 2
        else:
            found = first[name]
            assert torch.equal(found, second[name]), name
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, **tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_end_where_one_does(both: list[Any], name: str, tmp_path: Path) -> None:
    expected = made(METHODS[name], tmp_path)
    first, second = (students[name] for students, _ in both)
    for key, tensor in expected.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    begun = METHODS[name].student.make(CONFIG, 0).named_parameters()
    assert max((expected[f"image_encoder.{key}"] - weight).abs().max() for key, weight in begun) > 1e-3


def test_what_is_a_batch_is_shared_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    of = replace(stage(), batch_size=4, optimisation=OptimizerConfig(accumulate=2))
    assert not has_batch_norm(of.model) and list(parts_of_step(of, 1)) == [range(12, 16)]
    assert list(parts_of_step(replace(of, whole_batches=True), 1)) == [range(10, 12), range(14, 16)]
    normalised = replace(of, model=make_model())
    assert list(parts_of_step(normalised, 1)) == [range(10, 12), range(14, 16)]
    with pytest.raises(InputError, match=r"^3 images a batch, which must be seen as a whole, cannot be shared by 2"):
        parts_of_step(replace(normalised, batch_size=3), 0)
