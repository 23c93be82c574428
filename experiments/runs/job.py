"""One job, in this process or in a launcher's: settings become rows, and every error a plain outcome."""

import contextlib
import importlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.closed_pipes import outlive_closed_pipes
from core.errors import InputError, OthersLost, RunFailed
from core.plain_file import home_path
from core.result import Row
from core.storage import reraise_disk
from experiments.config.compose import check_settings, check_student, settings_of, without_hydra
from experiments.config.messages import as_input_error
from experiments.config.targets import allow
from experiments.config.words import typed_words
from experiments.runs.began import BEGAN, command_began

PLACES = {
    "run": "experiments.runs.run.run_chain",
    "evaluate": "experiments.evaluate.evaluate",
    "cost": "experiments.commands.cost.cost",
    "latency": "experiments.commands.latency.latency",
    "convert": "experiments.commands.convert.convert",
    "export": "experiments.commands.export.export",
    "predict": "experiments.commands.predict.predict",
    "everything": "experiments.everything.command.everything",
    "compare": "experiments.reporting.comparison.compare",
    "table": "experiments.reporting.commands.table",
    "leaderboard": "experiments.reporting.commands.leaderboard",
    "doctor": "experiments.cli.doctor.command.doctor",
    "completion": "experiments.cli.completion.command.completion",
}
"""The module and function of each command, which is imported once its settings are known to be right."""


LESS_MEMORY = {
    "run": "give smaller batches (method.batch, evaluation.prompt_batch_size), engine.precision=bfloat16 and "
    "evaluation.precision=bfloat16, or engine.device=cpu",
    "evaluate": "give smaller batches (evaluation.prompt_batch_size, evaluation.image_batch_size), "
    "evaluation.precision=bfloat16, or engine.device=cpu",
    "latency": "give a smaller batch, precision=bfloat16, or engine.device=cpu",
    "predict": "give engine.device=cpu, or a smaller model as checkpoint",
    "everything": "give a smaller generator.points_per_batch, or engine.device=cpu",
    "compare": "give engine.device=cpu",
}
"""What to change where a device has too little memory, by the command that has these settings."""


class PlainRow(dict[str, Any]):
    """A line that is of no class of its own."""

    def to_dict(self) -> dict[str, Any]:
        """The columns by name."""
        return dict(self)


@dataclass(frozen=True)
class Outcome:
    """The rows of one job, or the error that ended it.

    Attributes:
        overrides: what tells the job from others of its sweep, as it would be typed.
        format: how rows are shown.
        runs: the folder of runs.
        preset: the name of the experiment, or ``None`` as a word.
        is_alone: whether the error is not one that all processes of the run have: the others wait for this one, so
            nothing can follow.
    """

    overrides: tuple[str, ...]
    format: str
    runs: Path
    preset: str
    rows: Sequence[Row] = ()
    error: Exception | None = None
    is_alone: bool = False


@dataclass
class Job:
    """What is called with the settings of each job, here or in a launcher's process.

    Attributes:
        command: the word of the command.
        packages: what ``_target_`` may name besides this project's own.
        flags: options of the command line that a process of its own needs too.
        typed: the arguments as they were typed, without the command's word; they are recorded.
        process: the process that was started by the user.
        began: when the command began, as of :func:`experiments.runs.began.command_began`.
    """

    command: str
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    process: int = field(default_factory=os.getpid)
    began: int = field(default_factory=command_began)

    def __call__(self, cfg: DictConfig) -> Outcome:
        """Do the job. A sweep goes on with its other jobs, unless one of several processes fails alone."""
        away = os.getpid() != self.process
        if away:
            self._arrive()
        # What results say of their command is read from here (core.provenance).
        sys.argv[1:] = self.typed
        about = HydraConfig.get()
        preset = str(about.runtime.choices.get("experiment"))
        task = task_overrides(self.command)
        shared = (tuple(task), *_place(cfg), preset)
        try:
            with environment({BEGAN: str(self.began)}):
                outcome = Outcome(*shared, rows=self._rows(cfg))
        except OmegaConfBaseException as error:
            # What was typed stands for something that there is not.
            outcome = Outcome(*shared, error=as_input_error(error, task, None))
        except Exception as error:
            is_alone = not _is_shared(error, task)
            if away and not isinstance(error, InputError | RunFailed):
                traceback.print_exc(file=sys.stderr)
            if isinstance(error, InputError | RunFailed):
                # Its frames would hold on to models and their memory while the sweep goes on.
                error.__traceback__ = error.__context__ = error.__cause__ = None
            outcome = Outcome(*shared, error=_sendable(error) if away else error, is_alone=is_alone)
        return outcome

    def _rows(self, cfg: DictConfig) -> list[Row]:
        task = task_overrides(self.command)
        check_student(cfg, task)
        settings = settings_of(cfg)
        check_settings(settings)
        # Here, so that what is given wrong is refused without waiting for PyTorch.
        from core.memory import reraise_oom
        from core.threads import threads_taken
        from data.kept import FOLDER, keeping
        from experiments.runs.torchrun import run_under_torchrun, wants_torchrun

        if wants_torchrun(settings):
            beside = int(HydraConfig.get().job.num) if os.getpid() != self.process else None
            return list(run_under_torchrun(settings, task, self.flags, beside))
        fix = LESS_MEMORY.get(self.command, "end other programs, or take a machine with more")
        runs = _place(cfg)[1]
        with reraise_oom(self.command, fix), reraise_disk(runs), threads_taken(), keeping(runs / FOLDER):
            return list(function_of(self.command)(settings, cfg))

    def _arrive(self) -> None:
        """Set up a launcher's process."""
        # Bars of several processes would overwrite each other.
        os.environ["TTY_COMPATIBLE"] = "0"
        outlive_closed_pipes()
        allow(self.packages)
        import torch

        if torch.cuda.is_available():
            # Jobs of one process beside each other on one machine take its devices in turn.
            torch.cuda.set_device(int(HydraConfig.get().job.num) % torch.cuda.device_count())


def function_of(command: str) -> Callable[[Any, DictConfig], Sequence[Row]]:
    """What a command calls with its settings."""
    module, _, name = PLACES[command].rpartition(".")
    function: Callable[[Any, DictConfig], Sequence[Row]] = getattr(importlib.import_module(module), name)
    return function


def run_job(job: Job, settings: DictConfig) -> Outcome:
    """One job in this process, with the variables of the environment that Hydra's settings give it."""
    with environment({str(key): str(value) for key, value in settings.hydra.job.env_set.items()}):
        return job(without_hydra(settings))


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A block in which the environment has these variables too."""
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


def _place(cfg: DictConfig) -> tuple[str, Path]:
    """How rows are shown, and the folder of runs. Where they refer to nothing, an error lists all settings."""
    try:
        return str(cfg.format), home_path(cfg.runs)
    except OmegaConfBaseException:
        return "table", Path("runs")


def task_overrides(command: str) -> list[str]:
    """The settings of the job as they would be typed: what they refer to is not looked up."""
    words: list[str] = OmegaConf.to_container(HydraConfig.get().overrides.task)  # type: ignore[assignment]
    return typed_words(command, words)


def _is_shared(error: Exception, task: Sequence[str]) -> bool:
    """Whether all processes of the run have an error in the same job."""
    if "core.distributed" not in sys.modules:
        # They have not met, and PyTorch takes seconds.
        return True
    from core import distributed

    return not isinstance(error, OthersLost) and distributed.is_shared(f"{task} {type(error).__name__}: {error}")


def _sendable(error: Exception) -> Exception:
    """The error itself, or its text where it cannot travel between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunFailed(f"{type(error).__name__}: {error}")
    return error
