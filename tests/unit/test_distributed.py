"""What only the first of several processes does, such as reading images to know what they are."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from core import distributed
from core.errors import InputError
from tests.unit.tiny import free_port

FORK = multiprocessing.get_context("fork")


def _together(rank: int, port: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init(torch.device("cpu"))

    def make() -> list[str]:
        (folder / f"made_by_{rank}").touch()
        return ["a", "b"]

    def refuse() -> None:
        raise InputError("photo.jpg: no such file")

    assert distributed.from_main(make) == ["a", "b"]
    with pytest.raises(InputError, match=r"photo\.jpg: no such file"):
        distributed.from_main(refuse)
    (folder / f"ended_{rank}").touch()
    distributed.shut_down()


def test_the_first_process_makes_and_all_know(tmp_path: Path) -> None:
    port = free_port()
    children = [FORK.Process(target=_together, args=(rank, port, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ended_0", "ended_1", "made_by_0"]


def test_a_single_process_makes_for_itself() -> None:
    assert distributed.from_main(lambda: 3) == 3
    with pytest.raises(KeyError):
        distributed.from_main(lambda: {}["x"])
