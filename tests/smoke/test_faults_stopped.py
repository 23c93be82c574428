"""Stopped by a reader that dies, by a process that is gone: one line each, and the rerun ends the same."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from compressors.distill.engine import Engine
from compressors.method import RunContext
from compressors.scratch import Scratch
from core import distributed
from core.checkpoint import weights_sha256
from core.errors import InputError, RunFailed
from data.embeddings import DiskEmbeddings
from evaluation.protocols import PROTOCOLS
from evaluation.records import PartialRecords
from evaluation.scorer import Scorer
from tests.unit.tiny import Images, LabelledImages, tiny_sam

METHOD = Scratch(0.5, steps=3, batch=2)


def compress(folder: Path, data: Any = None, workers: int = 0) -> str:
    """Six steps: the student's hash."""
    context = RunContext(0, folder, Engine(folder, workers=workers))
    return weights_sha256(METHOD.compress(tiny_sam(), Images() if data is None else data, context).student)


class Unreadable(Images):
    """Images of which one is broken until somebody mends it."""

    broken = True

    def image(self, index: int) -> NDArray[np.uint8]:
        if index == 3 and self.broken:
            raise InputError(f"{self.image_name(index)}: cannot be read; fetch it again")
        return super().image(index)


def test_what_a_thread_of_the_engine_meets_comes_with_the_name_of_the_image(tmp_path: Path) -> None:
    data = Unreadable()
    with pytest.raises(InputError, match="image-3: cannot be read"):
        compress(tmp_path / "broken", data, workers=2)
    data.broken = False
    assert compress(tmp_path / "broken", data, workers=2) == compress(tmp_path / "undisturbed")


class Deadly(LabelledImages):
    """Images of which one ends the process that reads it, once."""

    def __init__(self, marker: Path) -> None:
        super().__init__(8)
        self.marker = marker

    def sample(self, index: int) -> Any:
        if index == 5 and get_worker_info() is not None and not self.marker.exists():
            self.marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(index)


@pytest.mark.slow
def test_a_reading_process_that_dies_is_reported_and_the_rerun_goes_on(tmp_path: Path) -> None:
    protocols = [PROTOCOLS["box_single@1"]]

    def scored(data: LabelledImages, folder: Path, workers: int) -> Any:
        scorer = Scorer(tiny_sam(), protocols, workers=workers)
        return scorer.score(data, range(8), partial=PartialRecords(folder, "k")).records

    expected = scored(LabelledImages(8), tmp_path / "undisturbed", 0)
    data = Deadly(tmp_path / "died")
    with pytest.raises(RunFailed) as reported:
        scored(data, tmp_path / "disturbed", 2)
    assert str(reported.value).startswith("a process that reads images died (DataLoader worker (pid")
    assert str(reported.value).endswith("give a smaller evaluation.workers") and "\n" not in str(reported.value)
    assert scored(data, tmp_path / "disturbed", 2) == expected


def test_a_process_that_is_gone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:36510")

    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    for name in ("barrier", "all_reduce", "all_gather"):
        monkeypatch.setattr(torch.distributed, name, gone)
    works: list[Callable[[], object]] = [
        *(
            distributed.barrier,
            lambda: distributed.average([torch.zeros(2)]),
            lambda: distributed.stacked(torch.zeros(2)),
        )
    ]
    for work in works:
        with pytest.raises(RunFailed, match="process 1 of 2: another process of this run ended or no longer answers"):
            work()


def keep_records(folder: Path, first: int) -> None:
    """Keep two hundred records, from one on; every key is kept by two processes."""
    cache = DiskEmbeddings(folder, 4, 4)
    for number in range(200):
        value = (first + number) % 200
        cache.put(value.to_bytes(32, "big"), torch.full((4, 4, 4), float(value)), torch.ones(4, 4, dtype=torch.bool))


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=keep_records, args=(tmp_path, first)) for first in (0, 100)]
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        # Read while they write: what is found is whole.
        reading = DiskEmbeddings(tmp_path, 4, 4)
        for value in range(0, 200, 20):
            record = reading.get(value.to_bytes(32, "big"))
            assert record is None or (record[0] == value).all()
    for child in children:
        child.join()
        assert child.exitcode == 0
    cache = DiskEmbeddings(tmp_path, 4, 4)
    assert len(cache) == 200
    for value in range(200):
        record = cache.get(value.to_bytes(32, "big"))
        assert record is not None and (record[0] == value).all()
    assert cache.damaged == 0
