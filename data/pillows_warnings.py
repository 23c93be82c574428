"""Pillow's warnings, ignored while pictures are read, by one thread or by several."""

import os
import threading
import warnings


class _Ignored:
    """A block in which Pillow's warnings are ignored, as they are in other threads as long as any is inside.

    Python's filters of warnings belong to all threads. Were each thread to put back those that it found, a thread that
    leaves would take the filter from those still inside, and the last would put it back for good.
    """

    def __init__(self) -> None:
        self._begin()
        # A fork has one thread, and no other to open a lock that one held.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._found.__exit__(None, None, None)


WITHOUT_PILLOWS_WARNINGS = _Ignored()
