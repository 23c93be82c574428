"""What happens when a stage's model is scored while it trains."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim.swa_utils import AveragedModel

from compressors.distill.stage import Stage
from compressors.distill.state import Progress
from compressors.distill.watching import Watcher


def validate(stage: Stage, progress: Progress, average: AveragedModel | None = None) -> float:
    """Score the model (its averaged weights, where there are such), and note the figure in ``progress``.

    Keeps the best weights if the stage asks for it, and lowers the plateau schedule's rate once its patience is over.
    """
    assert stage.validate is not None
    with _as_scored(stage, average):
        figure = stage.validate()
        if progress.best is None or figure > progress.best:
            progress.best, progress.plateau = figure, 0
            if stage.keep_best:
                progress.best_weights = {k: v.detach().cpu().clone() for k, v in stage.model.state_dict().items()}
        else:
            progress.plateau += 1
            if progress.plateau > stage.optimisation.patience:
                progress.plateau, progress.rate = 0, progress.rate * stage.optimisation.factor
    return figure


def scored(stage: Stage[Any], watcher: Watcher | None, average: AveragedModel | None = None) -> Mapping[str, float]:
    """What a watcher finds of the student as it stands (with its averaged weights, where there are such)."""
    assert watcher is not None and stage.whole is not None
    with _as_scored(stage, average):
        return watcher.score(stage.whole())


@contextmanager
def _as_scored(stage: Stage[Any], average: AveragedModel | None) -> Iterator[None]:
    """In eval mode and with the averaged weights; training goes on with its own."""
    stage.model.eval()
    if average is None:
        yield
        return
    live = {name: tensor.detach().clone() for name, tensor in stage.model.state_dict().items()}
    stage.model.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        stage.model.load_state_dict(live)
