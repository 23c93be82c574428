"""What happens when a stage's model is scored while it trains."""

from torch.optim.swa_utils import AveragedModel

from compressors.distill.stage import Stage
from compressors.distill.state import Progress


def validate(stage: Stage, progress: Progress, average: AveragedModel | None = None) -> float:
    """Score the model (its averaged weights, where there are such), and note the figure in ``progress``.

    Keeps the best weights if the stage asks for it, and lowers the plateau schedule's rate once its patience is over.
    """
    assert stage.validate is not None
    stage.model.eval()
    live = None
    if average is not None:
        live = {name: tensor.detach().clone() for name, tensor in stage.model.state_dict().items()}
        stage.model.load_state_dict(average.module.state_dict())
    figure = stage.validate()
    if progress.best is None or figure > progress.best:
        progress.best, progress.plateau = figure, 0
        if stage.keep_best:
            progress.best_weights = {k: v.detach().cpu().clone() for k, v in stage.model.state_dict().items()}
    else:
        progress.plateau += 1
        if progress.plateau > stage.optimisation.patience:
            progress.plateau, progress.rate = 0, progress.rate * stage.optimisation.factor
    if live is not None:
        stage.model.load_state_dict(live)
    return figure
