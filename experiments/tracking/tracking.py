"""The loggers of one run together: who looks on while a student trains, and who hears how it ended."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressors.distill.watching import Watcher
from core import processes
from core.protocols import Segmenter
from experiments.scoring import Held
from experiments.tracking.csv_file import CsvFile
from experiments.tracking.curve import Curve
from experiments.tracking.logger import Logger, Outcome
from experiments.tracking.settings import CsvLogger, TensorboardLogger, WandbLogger
from experiments.tracking.stage_logs import Entry
from experiments.tracking.wandb_about import RunAbout


@dataclass(frozen=True)
class Tracking:
    """What one run's loggers do; with none of them, nothing.

    Attributes:
        loggers: who is told.
        curve: scores the student while it trains.
    """

    loggers: Sequence[Logger]
    curve: Curve | None

    @property
    def watcher(self) -> Watcher | None:
        """For the training loop; None where nobody looks on."""
        return None if self.curve is None else self

    def scores_at(self, step: int, steps: int) -> bool:
        """Whether the student is scored after a step."""
        return self.curve is not None and self.curve.scores_at(step, steps)

    def score(self, model: Segmenter) -> dict[str, float]:
        """Its figures."""
        assert self.curve is not None
        return self.curve.score(model)

    def told(self, stage: str, entry: Entry) -> None:
        """Pass on one line of a stage's log."""
        for logger in self.loggers:
            logger.told(stage, entry)

    def finished(self, outcome: Outcome) -> None:
        """Pass on how the run ended."""
        for logger in self.loggers:
            logger.finished(outcome)

    def failed(self, error: BaseException) -> None:
        """Pass on by what the run ended; what goes wrong with that does not hide it."""
        for logger in self.loggers:
            try:
                logger.failed(error)
            except Exception as further:
                print(f"warning: {type(logger).__name__}: {type(further).__name__}: {further}", file=sys.stderr)


@contextlib.contextmanager
def tracked(settings: Any, folder: Path, held: Held, about: RunAbout) -> Iterator[Tracking]:
    """The loggers that settings ask for, from the beginning of a run to its end.

    Args:
        settings: one of :data:`experiments.tracking.settings.LOGGERS`.
        folder: of the run.
        held: what the student is scored on while it trains, the first pictures of it.
        about: the run, for Weights & Biases.
    """
    if not isinstance(settings, CsvLogger):
        yield Tracking((), None)
        return
    loggers = _loggers(settings, folder, about) if processes.is_first() else []
    tracking = Tracking(loggers, Curve(held, settings.scores, settings.pictures))
    try:
        for logger in loggers:
            logger.begin()
        yield tracking
    except BaseException as error:
        tracking.failed(error)
        raise


def _loggers(settings: CsvLogger, folder: Path, about: RunAbout) -> list[Logger]:
    loggers: list[Logger] = [CsvFile(folder)]
    if isinstance(settings, TensorboardLogger):
        from experiments.tracking.tensorboard_files import TensorboardFiles

        loggers.append(TensorboardFiles(folder))
    if isinstance(settings, WandbLogger) and settings.mode != "disabled":
        from experiments.tracking.wandb_run import WandbRun

        loggers.append(WandbRun(settings, folder, about))
    return loggers
