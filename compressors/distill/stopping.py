"""Ctrl-C while a stage trains: the first lets the step end and its state be saved, the second stops at once."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from core import processes


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within the block an interruption waits to be asked for. Yields whether there was one.

    Processes that train together are stopped at once, as one that waits for another's end would wait for ever; so is
    one whose interruptions somebody else handles.
    """
    asked = threading.Event()
    first = threading.current_thread() is threading.main_thread()
    earlier = signal.getsignal(signal.SIGINT) if first else None
    if processes.count() > 1 or earlier is not signal.default_int_handler:
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, earlier)
