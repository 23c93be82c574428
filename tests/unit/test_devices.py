"""Which CUDA devices the processes of runs take, alone and beside each other. No device is needed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import InputError
from experiments.config.groups import EngineConfig
from experiments.runs import torchrun
from experiments.runs.build import build_device


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight CUDA devices, none of which is touched."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def devices(monkeypatch: pytest.MonkeyPatch, number: int | None, processes: int) -> str | None:
    """The variable that names devices, as the processes of a job get it."""
    given: list[dict[str, str]] = []

    def start(command: list[str], env: dict[str, str], **_: Any) -> Any:
        given.append(env)
        return SimpleNamespace(returncode=0, stdout='{"rows": []}')

    monkeypatch.setattr(torchrun.subprocess, "run", start)
    torchrun.run_under_torchrun(SimpleNamespace(processes=processes, format="json"), [], [], number)
    return given[0].get("CUDA_VISIBLE_DEVICES")


@pytest.mark.usefixtures("eight")
def test_jobs_beside_each_other_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [devices(monkeypatch, number, 3) for number in range(3)] == ["0,1,2", "3,4,5", "6,7,0"]
    # One that runs alone, or has too few, is left with all.
    assert devices(monkeypatch, None, 3) is None and devices(monkeypatch, 1, 9) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3,2,1,GPU-a")
    assert devices(monkeypatch, 1, 4) == "3,2,1,GPU-a"
    assert devices(monkeypatch, None, 4) == "7,6,5,4,3,2,1,GPU-a"


@pytest.mark.usefixtures("eight")
def test_processes_that_would_share_a_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_device(EngineConfig(device="cuda:3")) == torch.device("cuda:3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert build_device(EngineConfig(device="auto")) == torch.device("cuda:5")
    with pytest.raises(InputError, match=r"cuda:3: one device for 8 processes; give engine\.device=cuda"):
        build_device(EngineConfig(device="cuda:3"))
    # Of each machine.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert build_device(EngineConfig(device="cuda:3")) == torch.device("cuda:3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    with pytest.raises(InputError, match=r"cuda: 8 CUDA devices for 9 processes; start 8 at most"):
        build_device(EngineConfig(device="auto"))
