"""Fixtures of every test."""

import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workers import pytest_sessionfinish, pytest_testnodedown

__all__ = ["pytest_sessionfinish", "pytest_testnodedown"]


# What is imported and collected stays: the collector of garbage need not look through it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on it collects, and leaves alone what is there."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Packages complain of what is left at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def clean_torch_state() -> Iterator[None]:
    """Each test starts from seed 0 and float32, and cannot leave another default dtype behind."""
    # Here, since the process that only distributes the tests does not need it.
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session")
def pocket_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam_pocket`` as float32 ONNX files, written by the command; once for all workers of pytest-xdist."""
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    from experiments.cli.command_line import main

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "pocket_onnx"
    with open(shared / "pocket_onnx.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert folder.is_dir() or main(["export", "checkpoint=sam_pocket", f"out={folder}"]) == 0
    return folder


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line from the empty folder ``place``: status, standard output, standard error."""
    # Here, so that other tests do not wait for it.
    from experiments.cli.command_line import main

    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(words)
        output = capfd.readouterr()
        return status, output.out, output.err

    return run
