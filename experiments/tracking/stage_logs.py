"""What the logs of a run's stages say: the one record of training, from which every logger's is made."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]
"""One line of a log: ``step``, and figures by name."""


def read_log(path: Path) -> list[Entry]:
    """The entries of a stage's log, in order; of a file that is being written, the whole lines."""
    return [entry for entry in log_lines(path) if entry is not None] if path.is_file() else []


def log_lines(path: Path) -> Iterator[Entry | None]:
    """The lines of a stage's log: an entry each, or None of one that is no entry, as half a line that a kill has left.

    Raises:
        OSError: the file cannot be read.
    """
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        yield entry if isinstance(entry, dict) and type(entry.get("step")) is int else None


def stages_in(folder: Path) -> list[str]:
    """The stages of a run that have a log, by name."""
    return sorted(path.stem for path in folder.glob("*.jsonl"))


def figures(entry: Entry) -> Iterator[tuple[str, int | float]]:
    """The numbers of an entry by name, without its step."""
    for name, value in entry.items():
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


class CatchUp:
    """What a logger has not yet got, so that it gets everything once, whatever was killed and continued.

    At a stage's first word its log holds what came before this process too, and nothing that will be repeated.

    Args:
        folder: of the run, with ``<stage>.jsonl``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logged: set[str] = set()

    def news(self, stage: str, entry: Entry) -> list[Entry]:
        """The entries of a stage up to this one that were not given out yet."""
        if stage in self._logged:
            return [entry]
        self._logged.add(stage)
        return read_log(self.folder / f"{stage}.jsonl")

    def rest(self) -> Iterator[tuple[str, Entry]]:
        """The entries of stages that have said nothing: they were finished earlier."""
        for stage in stages_in(self.folder):
            if stage not in self._logged:
                self._logged.add(stage)
                for entry in read_log(self.folder / f"{stage}.jsonl"):
                    yield stage, entry
