"""The log of a stage: one JSON object a line."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core import processes
from core.checkpoint import replacing
from core.storage import storing


class StageLog:
    """Appends entries that have a ``step``; lines past the step a run resumes from are of a run that was cut off.

    Args:
        path: the file, ``<stage>.jsonl``.
        step: the step the stage continues from; 0 begins a new log.
        tell: is given every entry too, in the process that writes.
    """

    def __init__(self, path: Path, step: int, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self.tell = path, tell if processes.is_first() else None
        if not processes.is_first():
            return
        if path.is_symlink():
            # What it leads to is nobody's log; a line would be written there.
            path.unlink()
        lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
        # A kill can leave half a line at the end.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def __enter__(self) -> Callable[[Mapping[str, Any]], None]:
        # Of several processes only the first writes.
        target = self.path if processes.is_first() else os.devnull
        self.stream = open(target, "a", buffering=1, encoding="utf-8")
        return self._write

    def _write(self, entry: Mapping[str, Any]) -> None:
        with storing(self.path):
            self.stream.write(f"{json.dumps(entry)}\n")
        if self.tell:
            self.tell(entry)

    def __exit__(self, *_: object) -> None:
        # What a full disk did not take was told where it was written.
        with contextlib.suppress(OSError):
            self.stream.close()
