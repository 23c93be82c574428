"""A run's figures in its own folder: ``metrics.csv``, and TensorBoard's files."""

import csv
import io
import shutil
import time
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from experiments.reporting.text_tables import markdown_table
from experiments.tracking.logger import Logger, Outcome
from experiments.tracking.stage_logs import CatchUp, Entry, figures, read_log, stages_in

METRICS = "metrics.csv"
HEADER = ("stage", "step", "metric", "value")
EVERY_S = 30.0
"""Seconds between two writings of ``metrics.csv`` while a stage trains."""
TENSORBOARD = "tensorboard"


class CsvFile(Logger):
    """Writes ``metrics.csv`` anew, whole, from the logs of the stages: no line twice, none missing.

    An earlier file is replaced as soon as there is news.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stage: str | None = None
        self._written = time.monotonic()

    def log(self, stage: str, entry: Entry) -> None:
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
        write_text(self.folder / METRICS, metrics_csv(self.folder))
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


class TensorboardFiles(Logger):
    """Writes ``tensorboard/`` in a run's folder; of a run that goes on, anew from the logs of its stages.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catch_up = CatchUp(folder)
        self._writer: Any = None

    def begin(self) -> None:
        """Open a new file instead of an earlier one."""
        # Here, so that nobody else waits for it.
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self.folder / TENSORBOARD, ignore_errors=True)
        # A TensorBoard that has read the earlier file drops all of it: the new one says everything again.
        self._writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=0)

    def log(self, stage: str, entry: Entry) -> None:
        """One line of a stage's log."""
        for news in self._catch_up.news(stage, entry):
            self._add(stage, news)

    def finished(self, outcome: Outcome) -> None:
        """Add the table and the image."""
        import numpy as np
        from PIL import Image

        self._rest()
        names, lines = outcome.table()
        cells = [["" if value is None else str(value) for value in line] for line in lines]
        self._writer.add_text("comparison", markdown_table(names, cells))
        with Image.open(outcome.image) as image:
            self._writer.add_image("masks", np.asarray(image.convert("RGB")), dataformats="HWC")
        self._writer.close()

    def failed(self, error: BaseException) -> None:
        """Add the reason."""
        if self._writer is not None:
            self._rest()
            self._writer.add_text("failed", f"{type(error).__name__}: {error}")
            self._writer.close()

    def _rest(self) -> None:
        for stage, entry in self._catch_up.rest():
            self._add(stage, entry)

    def _add(self, stage: str, entry: Entry) -> None:
        for name, value in figures(entry):
            self._writer.add_scalar(f"{stage}/{name}", value, entry["step"])
