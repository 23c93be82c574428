"""TensorBoard's files: every figure as ``<stage>/<figure>``, the comparison as a table, the masks as a picture."""

import shutil
from pathlib import Path
from typing import Any

from experiments.tables.text_tables import markdown_table
from experiments.tracking.logger import Outcome
from experiments.tracking.stage_logs import CatchUp, Entry, figures

FOLDER = "tensorboard"


class TensorboardFiles:
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

        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
        # A TensorBoard that has read the earlier file drops all of it: the new one says everything again.
        self._writer = SummaryWriter(str(self.folder / FOLDER), purge_step=0)

    def told(self, stage: str, entry: Entry) -> None:
        """One line of a stage's log."""
        for news in self._catch_up.news(stage, entry):
            self._add(stage, news)

    def finished(self, outcome: Outcome) -> None:
        """Add the table and the picture."""
        import numpy as np
        from PIL import Image

        self._rest()
        names, lines = outcome.table()
        cells = [["" if value is None else str(value) for value in line] for line in lines]
        self._writer.add_text("comparison", markdown_table(names, cells))
        with Image.open(outcome.picture) as picture:
            self._writer.add_image("masks", np.asarray(picture.convert("RGB")), dataformats="HWC")
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
