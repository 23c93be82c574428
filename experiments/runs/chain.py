"""Methods one after the other: ``method=slimsam ratio=0.77 then=ptq``. Each stage is a run with rows of its own."""

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core import processes
from core.result import ResultRow
from experiments.config.schema import RunConfig
from experiments.config.words import literal
from experiments.runs.build import build_method
from experiments.runs.run import STUDENT, run


def run_chain(settings: RunConfig, cfg: DictConfig) -> list[ResultRow]:
    """Do the run, and then the next one on its student. A stage that is finished is read, not done again.

    The second stage's name and rows carry the chain (``slimsam+ptq``): a student's file says what made it.
    """
    if settings.then is not None:
        # What is wrong with the second method is reported before the first one trains.
        build_method(settings.then)
    first = cfg.copy()
    first.then = None
    rows = run(replace(settings, then=None), first)
    if settings.then is None:
        return rows
    # Of several processes the first alone has rows and writes the student; the others wait until it is there.
    init = str(Path(settings.runs) / processes.from_first(lambda: str(rows[-1].run_id)) / STUDENT)
    second = first.copy()
    OmegaConf.set_struct(second, False)
    second.method = cfg.then
    second.method.init = literal(init)
    return [*rows, *run(replace(settings, then=None, method=replace(settings.then, init=init)), second)]
