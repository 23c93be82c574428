"""A reader who has seen enough (``| head -1``) ends no program: what is written afterwards goes nowhere."""

import io
import os
import sys
from typing import Any


class _Pipe(io.FileIO):
    """A descriptor that leads to nowhere from the moment that nobody reads at its other end."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            # The descriptor itself, so that libraries and processes of one's own write there too.
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def outlive_closed_pipes() -> None:
    """Let standard output and standard error be closed by their readers: the program goes on, and keeps its status.

    For programs alone, as it replaces :data:`sys.stdout` and :data:`sys.stderr`; those that are no files stay.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It was closed from the beginning.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            continue
        try:
            raw = _Pipe(stream.fileno(), "w", closefd=False)
        except (OSError, ValueError, AttributeError):
            continue
        stream.flush()
        kept = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering", "write_through")}
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), **kept))
