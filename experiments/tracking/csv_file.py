"""``metrics.csv``: every figure of every stage, one a line."""

import csv
import io
import time
from pathlib import Path

from core.checkpoint import write_text
from experiments.tracking.logger import Outcome
from experiments.tracking.stage_logs import Entry, figures, read_log, stages_in

NAME = "metrics.csv"
HEADER = ("stage", "step", "metric", "value")
EVERY_S = 30.0
"""Seconds between two writings while a stage trains."""


class CsvFile:
    """Writes ``metrics.csv`` anew, whole, from the logs of the stages: no line twice, none missing.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stage: str | None = None
        self._written = time.monotonic()

    def begin(self) -> None:
        """Nothing: an earlier file is replaced as soon as there is news."""

    def told(self, stage: str, entry: Entry) -> None:
        """One line of a stage's log; the file is written where a stage begins, and now and then."""
        if stage != self._stage or time.monotonic() - self._written > EVERY_S:
            self._stage = stage
            self._write()

    def finished(self, outcome: Outcome) -> None:
        """The run is done."""
        self._write()

    def failed(self, error: BaseException) -> None:
        """The run has ended otherwise."""
        self._write()

    def _write(self) -> None:
        write_text(self.folder / NAME, metrics_csv(self.folder))
        self._written = time.monotonic()


def metrics_csv(folder: Path) -> str:
    """The figures in the logs of a run's stages as CSV, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for stage in stages_in(folder):
        for entry in read_log(folder / f"{stage}.jsonl"):
            writer.writerows((stage, entry["step"], name, repr(value)) for name, value in figures(entry))
    return text.getvalue()
