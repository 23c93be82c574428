"""Commands in forks of one process that has imported everything: whole runs at the price of their work alone.

The process itself computes nothing, or its threads would be missing in the forks.
"""

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Their threads do not live through a fork, or importing them twice is refused.
_LEFT_OUT = ("onnxruntime", "openvino", "transformers", "tensorboard", "wandb", "pytest", "_pytest")
_IMPORTED = "imported.json"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; minus the signal's number where one ended it.
        said: its standard error.
        printed: its standard output.
        seconds: how long it took.
    """

    status: int
    said: str
    printed: str
    seconds: float

    @property
    def was_killed(self) -> bool:
        """Whether kill -9 ended it."""
        return self.status == -signal.SIGKILL


@dataclass
class Forked:
    """A command at work."""

    process: int
    folder: Path
    began: float

    def ended(self) -> Ended:
        """Wait for its end."""
        _, status = os.waitpid(self.process, 0)
        seconds = time.monotonic() - self.began
        said, printed = (Path(self.folder / name).read_text(errors="replace") for name in ("stderr", "stdout"))
        return Ended(os.waitstatus_to_exitcode(status), said, printed, seconds)


def begin(folder: Path, words: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Forked:
    """Fork a process that does a command.

    Args:
        folder: its working directory, where ``stdout`` and ``stderr`` are written too.
        words: its arguments.
        prepare: called in the fork, before the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    process = os.fork()
    if process:
        # Both set it, as either may be first.
        with contextlib.suppress(OSError):
            os.setpgid(process, process)
        return Forked(process, folder, began)
    status = 70
    try:
        # A group of its own, as what a shell starts has.
        os.setpgid(0, 0)
        os.chdir(folder)
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w", closefd=False)), _stream(2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _called(words, prepare)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def _called(words: Sequence[str], prepare: Callable[[], None]) -> int:
    import torch

    from experiments.cli.command_line import main

    torch.set_num_threads(1)
    prepare()
    return main(list(words))


def _stream(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), write_through=True)


def run(folder: Path, words: Sequence[str], prepare: Callable[[], None] = lambda: None) -> Ended:
    """A command from its beginning to its end; see :func:`begin`."""
    return begin(folder, words, prepare).ended()


def import_what(folder: Path, words: Sequence[str]) -> Ended:
    """Do a command in a fork, and import here what it imported: later forks need not."""

    def note() -> None:
        original = os._exit

        def noting(status: int) -> None:
            (folder / _IMPORTED).write_text(json.dumps(sorted(sys.modules)))
            original(status)

        os._exit = noting  # type: ignore[assignment]

    ended = run(folder, words, note)
    for name in json.loads((folder / _IMPORTED).read_text()):
        if name.partition(".")[0] not in _LEFT_OUT and name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return ended


def kill_after(child: Forked, seconds: float) -> None:
    """Kill a command, with all that it started, so long after it began; one that has ended by then is let be."""
    while time.monotonic() - child.began < seconds:
        # Looked up without taking its status away.
        if os.waitid(os.P_PID, child.process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process, signal.SIGKILL)
