"""Signals that end a run wait until the step is done and its state saved."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from core import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, the end of a job, and what Slurm is set to send before it preempts one (submitit: ``SIGUSR2``)."""


class Stopping:
    """Notes a signal; :meth:`deliver` gives it to whoever would have had it."""

    def __init__(self) -> None:
        self._earlier: dict[int, Any] = {}
        self._noted: int | None = None

    def __bool__(self) -> bool:
        """Whether there was a signal."""
        return self._noted is not None

    def deliver(self) -> None:
        """What the signal does without this module: it interrupts, ends the process, or has a handler requeue the job.

        A handler that returns lets the training go on.
        """
        number, self._noted = self._noted, None
        if number is None:
            return
        earlier = self._earlier[number]
        if callable(earlier):
            earlier(number, None)
            return
        signal.signal(number, earlier)
        signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._noted = self._noted == number, number
        if again:
            self.deliver()
            return
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(f"\nstopping after this step; {name} again stops at once", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for a block.

        Not in processes that train together: one that waits for another's end would wait for ever. Nor a signal that
        is ignored, or Ctrl-C where somebody else handles it.
        """
        listens = threading.current_thread() is threading.main_thread() and distributed.count() == 1
        for number in SIGNALS if listens else ():
            earlier = signal.getsignal(number)
            foreign = number == signal.SIGINT and earlier is not signal.default_int_handler
            if not foreign and earlier not in (signal.SIG_IGN, None):
                self._earlier[number] = earlier
                signal.signal(number, self._note)
        try:
            yield
        finally:
            for taken, handler in self._earlier.items():
                signal.signal(taken, handler)
