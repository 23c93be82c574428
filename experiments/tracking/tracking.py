"""The loggers of one run together: the student is scored while it trains, and each logger learns how the run ended."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from compressors.distill.stage import Callback
from core import distributed
from core.protocols import Segmenter, device_of
from evaluation.metrics import mean_iou
from evaluation.protocols import BOX_POINT
from evaluation.scorer import Scorer
from experiments.scoring import EvaluationSet
from experiments.tracking.logger import Logger, Outcome, RunMetadata
from experiments.tracking.settings import CsvLogger, TensorboardLogger, WandbLogger
from experiments.tracking.stage_logs import Entry


@dataclass(frozen=True)
class Tracking:
    """What one run's loggers do; with none of them, nothing.

    Attributes:
        loggers: that get every line.
        evaluation_set: the held-out images on which the student is scored while it trains; None: it is not.
        scores: how many times a stage; 0 never.
    """

    loggers: Sequence[Logger] = ()
    evaluation_set: EvaluationSet | None = None
    scores: int = 0

    @property
    def callback(self) -> Callback | None:
        """For the training loop; None where the student is not scored meanwhile."""
        return None if self.evaluation_set is None else self

    def scores_at(self, step: int, steps: int) -> bool:
        """Whether the student is scored after a step: at equal parts of the stage, and at its end."""
        return any(step == -(-part * steps // self.scores) for part in range(1, self.scores + 1))

    def score(self, model: Segmenter) -> dict[str, float]:
        """``miou`` with boxes and ``miou_point`` with one point, in float32 and without a bar.

        Empty where the images have no objects.
        """
        evaluation_set = self.evaluation_set
        assert evaluation_set is not None
        scorer = Scorer(model, BOX_POINT, prompt_batch_size=evaluation_set.batch)
        # The first process alone scores; the others wait.
        scored = scorer.score(evaluation_set.data, evaluation_set.indices, alone=True)
        device = device_of(model)
        if device.type == "cuda":
            # Whoever trains has read its own peak before; what scoring needs is none of it.
            torch.cuda.reset_peak_memory_stats(device)
        metrics = {
            name: mean_iou(scored.instances(protocol.name))
            for name, protocol in zip(("miou", "miou_point"), BOX_POINT, strict=True)
        }
        return {name: found["miou"].value for name, found in metrics.items() if found}

    def log(self, stage: str, entry: Entry) -> None:
        """Pass on one line of a stage's log."""
        for logger in self.loggers:
            logger.log(stage, entry)

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
def tracked(settings: Any, folder: Path, evaluation_set: EvaluationSet, metadata: RunMetadata) -> Iterator[Tracking]:
    """The loggers that settings ask for, from the beginning of a run to its end.

    Args:
        settings: one of :data:`experiments.tracking.settings.LOGGERS`.
        folder: of the run.
        evaluation_set: what the student is scored on while it trains, the first images of it.
        metadata: of the run, for Weights & Biases.
    """
    if not isinstance(settings, CsvLogger):
        yield Tracking()
        return
    loggers = _loggers(settings, folder, metadata) if distributed.is_main() else []
    shown = replace(evaluation_set, indices=evaluation_set.indices[: settings.images], precision="float32")
    tracking = Tracking(loggers, shown, settings.scores)
    try:
        for logger in loggers:
            logger.begin()
        yield tracking
    except BaseException as error:
        tracking.failed(error)
        raise


def _loggers(settings: CsvLogger, folder: Path, metadata: RunMetadata) -> list[Logger]:
    from experiments.tracking.local_files import CsvFile, TensorboardFiles

    loggers: list[Logger] = [CsvFile(folder)]
    if isinstance(settings, TensorboardLogger):
        loggers.append(TensorboardFiles(folder))
    if isinstance(settings, WandbLogger) and settings.mode != "disabled":
        from experiments.tracking.wandb_run import WandbRun

        loggers.append(WandbRun(settings, folder, metadata))
    return loggers
