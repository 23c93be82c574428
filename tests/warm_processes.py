"""Commands in processes of their own that need not import anything: a whole command at the price of its work.

They are forks of one process, which has imported everything and computes nothing (Python's forkserver, kept until the
tests end). What is tested here is a command; what ``python -m experiments`` adds to it needs a fresh interpreter.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from core.provenance import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass
class Command:
    """A command at work."""

    process: ForkServerProcess
    words: Sequence[str]
    spoken: tempfile.TemporaryDirectory[str]

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def kill(self) -> None:
        """kill -9; only this process."""
        self.process.kill()

    def ended(self, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for its end: status (minus a signal's number) and what it printed.

        Raises:
            TimeoutError: it did not end, and was killed.
        """
        self.process.join(timeout_s)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
        with self.spoken as folder:
            said = [(Path(folder) / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        if status is None:
            raise TimeoutError(f"{self.words} did not end: {said[1][-2000:]}")
        return subprocess.CompletedProcess(list(self.words), status, *said)


def begin(folder: Path, words: Sequence[str], **variables: str) -> Command:
    """Begin a command.

    Args:
        folder: its working directory, made where there is none.
        words: its arguments.
        variables: of its environment, besides those of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spoken = tempfile.TemporaryDirectory()
    for name in ("stdout", "stderr"):
        (Path(spoken.name) / name).touch()
    given = (folder, list(words), {**os.environ, **variables}, Path(spoken.name))
    return Command(started(_work, *given), words, spoken)


def started(work: Callable[..., object], *given: Any) -> ForkServerProcess:
    """A function of a module at work. A fork of this process could not train: autograd has had threads here.

    Args:
        given: its arguments, which are pickled.
    """
    _CONTEXT.set_forkserver_preload(["tests.warm_imports"])
    with _importable():
        process = _CONTEXT.Process(target=_begun, args=(torch.get_num_threads(), work, *given))
        process.start()
    return process


def run(folder: Path, words: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """A command from its beginning to its end; see :func:`begin`."""
    return begin(folder, words, **variables).ended()


def ranks(folder: Path, words: Sequence[str], count: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """A command by several processes that meet as torchrun lets them; what each came to, by its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    begun = [begin(folder, words, **shared, **number) for number in numbers]
    return [command.ended() for command in begun]


def environment() -> dict[str, str]:
    """The environment of a fresh interpreter that finds the project, for what needs one."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """The server, which the first process starts, finds this module and the project."""
    earlier = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if earlier is not None:
            os.environ["PYTHONPATH"] = earlier


def _begun(threads: int, work: Callable[..., object], *given: Any) -> None:
    # As many as before: with another number weights come out another way.
    torch.set_num_threads(threads)
    work(*given)


def _work(folder: Path, words: list[str], environment: dict[str, str], spoken: Path) -> None:
    # A group of its own, as what a shell starts has.
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(spoken / name, os.O_WRONLY | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), write_through=True) for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from experiments.cli.command_line import main

    sys.exit(main(words))
