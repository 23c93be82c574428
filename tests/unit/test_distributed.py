"""What only the first of several processes does, such as reading images to know what they are."""

import datetime
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core import distributed
from core.errors import InputError
from tests.unit.tiny import free_port

FORK = multiprocessing.get_context("fork")


def _meet(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init(torch.device("cpu"))


def _by_two(work: Callable[[int, int, Path], None], folder: Path) -> list[str]:
    """Names of the files that two processes left."""
    port = free_port()
    children = [FORK.Process(target=work, args=(rank, port, folder)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    return sorted(path.name for path in folder.iterdir())


def _together(rank: int, port: int, folder: Path) -> None:
    _meet(rank, port)

    def make() -> list[str]:
        (folder / f"made_by_{rank}").touch()
        return ["a", "b"]

    def refuse() -> None:
        raise InputError("photo.jpg: no such file")

    assert distributed.from_main(make) == ["a", "b"]
    with pytest.raises(InputError, match=r"photo\.jpg: no such file"):
        distributed.from_main(refuse)
    assert distributed.on_main(make) == (None if rank else ["a", "b"])
    with pytest.raises(InputError, match=r"photo\.jpg: no such file"):
        distributed.on_main(refuse)
    (folder / f"ended_{rank}").touch()
    distributed.shut_down()


def test_the_first_process_makes_and_all_know(tmp_path: Path) -> None:
    assert _by_two(_together, tmp_path) == ["ended_0", "ended_1", "made_by_0"]


def _in_error(rank: int, port: int, folder: Path) -> None:
    # What is refused before they meet follows from settings.
    assert distributed.is_shared(f"before {rank}")
    _meet(rank, port)
    assert distributed.is_shared("ratio=5")
    assert not distributed.is_shared(f"image {rank} is damaged")
    distributed.ERROR_WAIT = datetime.timedelta(milliseconds=200)
    if rank:
        assert not distributed.is_shared("the loss is not finite")
    distributed.barrier()
    (folder / f"ended_{rank}").touch()
    distributed.shut_down()


def test_an_error_is_shared_where_every_process_has_it(tmp_path: Path) -> None:
    assert _by_two(_in_error, tmp_path) == ["ended_0", "ended_1"]


def test_a_rank_without_a_number_of_processes_is_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert distributed.is_main()


def test_a_single_process_makes_for_itself() -> None:
    assert distributed.from_main(lambda: 3) == 3
    with pytest.raises(KeyError):
        distributed.from_main(lambda: {}["x"])
