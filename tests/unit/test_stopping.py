"""A job that is to end saves the state of its last whole step first, and is queued again by submitit."""

import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths

from compressors.distill.engine import Engine, Stage
from tests import warm_processes
from tests.unit.test_engine import Numbers, stage, weights


def signalled(number: int, at: int, times: int = 1) -> Stage[Numbers]:
    """A stage in which this process's handler of a signal is called while the batch of a step is made."""
    run = stage()
    made = run.batch

    def batch(places: range) -> Numbers:
        if places.start // 4 == at:
            handler: Any = signal.getsignal(number)
            for _ in range(times):
                handler(number, None)
        return made(places)

    run.batch = batch
    return run


def train_signalled(folder: Path, number: int, times: int = 1) -> None:
    """What a process that gets a signal does."""
    Engine(folder).fit(signalled(number, 5, times))


def step_of(folder: Path) -> int:
    return int(torch.load(folder / "toy.state", weights_only=True)["progress"]["step"])


@pytest.fixture
def undisturbed(tmp_path: Path) -> list[torch.Tensor]:
    run = stage()
    Engine(tmp_path / "undisturbed").fit(run)
    return weights(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_the_process_once_the_step_is_saved(
    tmp_path: Path, number: signal.Signals, undisturbed: list[torch.Tensor]
) -> None:
    child = warm_processes.started(train_signalled, tmp_path, number)
    child.join(120)
    assert child.exitcode == -number and step_of(tmp_path) == 6
    resumed = stage()
    assert Engine(tmp_path).fit(resumed).step == 12
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), undisturbed, strict=True))


def test_a_signal_in_the_last_validation_is_not_lost(tmp_path: Path) -> None:
    run = stage()

    def validate() -> float:
        handler: Any = signal.getsignal(signal.SIGINT)
        handler(signal.SIGINT, None)
        return 0.0

    run.validate, run.validate_every = validate, 1000
    with pytest.raises(KeyboardInterrupt):
        Engine(tmp_path).fit(run)
    assert step_of(tmp_path) == run.steps


def test_the_same_signal_twice_ends_it_at_once(tmp_path: Path) -> None:
    child = warm_processes.started(train_signalled, tmp_path, signal.SIGTERM, 2)
    child.join(120)
    assert child.exitcode == -signal.SIGTERM and not (tmp_path / "toy.state").exists()


class Queue:
    """In place of Slurm: counts what is queued again."""

    global_rank = 0

    def __init__(self) -> None:
        self.requeued: list[int] = []

    def _requeue(self, countdown: int) -> None:
        self.requeued.append(countdown)


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """The handlers of a preempted job of the launcher, as submitit sets them; given back afterwards."""
    submission = DelayedSubmission(SlurmLauncher(), ["method=slimsam"], "hydra.sweep.dir", 3, "job_3", {})
    submission.set_timeout(timeout_min=600, max_num_timeout=2)
    queue = Queue()
    handler = SignalHandler(queue, JobPaths(tmp_path, job_id="7"), submission)  # type: ignore[arg-type]
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, handler.bypass)
    signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)
    yield queue
    for number, former in earlier.items():
        signal.signal(number, former)


def test_a_preempted_job_is_saved_and_queued_again(
    tmp_path: Path, job: Queue, undisturbed: list[torch.Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Engine(tmp_path).fit(signalled(signal.SIGUSR2, 5))
    assert step_of(tmp_path) == 6 and job.requeued == [2]
    assert "stopping after this step; SIGUSR2 again stops at once" in capfd.readouterr().err
    # What Slurm starts again is the same job.
    (file,) = tmp_path.glob("*submitted.pkl")
    again = pickle.loads(file.read_bytes())
    assert again.args == (["method=slimsam"], "hydra.sweep.dir", 3, "job_3", {})
    resumed = stage()
    Engine(tmp_path).fit(resumed)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), undisturbed, strict=True))


def test_a_signal_that_its_handler_passes_over_only_saves(
    tmp_path: Path, job: Queue, undisturbed: list[torch.Tensor]
) -> None:
    """Slurm's SIGTERM comes with a grace time, in which submitit goes on."""
    run = signalled(signal.SIGTERM, 5)
    assert Engine(tmp_path).fit(run).step == 12 and job.requeued == []
    assert all(torch.equal(a, b) for a, b in zip(weights(run), undisturbed, strict=True))


def test_handlers_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]
    Engine(tmp_path).fit(stage())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)] == before
