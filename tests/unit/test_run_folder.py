"""The folder of a run: one process at a time, nothing followed out of it, nothing left by who was refused."""

import contextlib
import fcntl
import multiprocessing
import os
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from core.errors import InputError
from experiments.runs.folder import LOCK, lock_run_dir

FORK = multiprocessing.get_context("fork")


def test_the_lock_is_never_opened_through_a_link(tmp_path: Path) -> None:
    folder, precious = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(InputError, match=r"run: cannot be written \(.*links\)"), lock_run_dir(folder, fresh=True):
        pass
    assert not precious.exists() and (folder / LOCK).is_symlink()


def test_starting_over_removes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    folder, precious = tmp_path / "run", tmp_path / "precious"
    (folder / "wandb").mkdir(parents=True)
    precious.mkdir()
    (precious / "thesis").touch()
    (folder / "inner").symlink_to(precious)
    (folder / "wandb" / "latest-run").symlink_to(precious)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    with lock_run_dir(folder, fresh=True):
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert (precious / "thesis").is_file()


def test_a_folder_named_like_a_half_written_file_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / ".export.x1y2.part").mkdir()
    with lock_run_dir(tmp_path, fresh=False):
        pass
    assert (tmp_path / ".export.x1y2.part").is_dir()


def test_a_lock_that_was_taken_away_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is refused takes its new folder away, perhaps between another one's opening and locking."""
    folder, descriptors = tmp_path / "run", []
    flock = fcntl.flock

    def locked_late(descriptor: int, operation: int) -> None:
        descriptors.append(descriptor)
        if len(descriptors) == 1:
            (folder / LOCK).unlink()
            folder.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", locked_late)
    with lock_run_dir(folder, fresh=False):
        assert len(descriptors) == 2 and os.fstat(descriptors[1]).st_ino == (folder / LOCK).stat().st_ino


@pytest.mark.parametrize("is_left", [True, False])
def test_who_waits_enters_when_the_other_process_is_done(
    is_left: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, entered = tmp_path / "run", []

    def wait_and_enter() -> None:
        # What the other process did decides whether the folder is emptied.
        with lock_run_dir(folder, fresh=lambda: not (folder / "result.json").exists(), wait=True):
            entered.append(sorted(path.name for path in folder.iterdir()))

    thread = threading.Thread(target=wait_and_enter)
    with contextlib.suppress(InputError), lock_run_dir(folder, fresh=False):
        thread.start()
        thread.join(0.4)
        assert thread.is_alive() and not entered
        if not is_left:
            # It takes its new folder away.
            raise InputError("refused")
        (folder / "result.json").write_text("of ten hours")
    thread.join(60)
    assert entered == [[LOCK, "result.json"] if is_left else [LOCK]]
    said = capsys.readouterr().err
    assert said == f"{folder}: another process works on this run; waiting for it\n"


def _refused_and_working(folder: Path, barrier: Barrier, inside: Path, number: int) -> None:
    barrier.wait()
    for turn in range(40):
        with contextlib.suppress(InputError), lock_run_dir(folder, fresh=bool(turn % 2)):
            # Exclusive: it fails where another process is inside.
            handle = os.open(inside, os.O_CREAT | os.O_EXCL)
            (folder / f"{number}").write_text(str(turn))
            assert (folder / f"{number}").read_text() == str(turn)
            os.close(handle)
            inside.unlink()
            if turn % 3 == 0:
                raise InputError("refused")


def test_processes_that_come_and_go_are_never_inside_together(tmp_path: Path) -> None:
    barrier, inside = FORK.Barrier(4, timeout=120), tmp_path / "inside"
    arguments = [(tmp_path / "run", barrier, inside, number) for number in range(4)]
    children = [FORK.Process(target=_refused_and_working, args=given) for given in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4 and not inside.exists()


KEPT = {
    "one_step.state": True,
    "calibration.safetensors": True,
    "student.safetensors": True,
    "result.json": True,
    "part-0.jsonl": True,
    "scoring/teacher/part-0.jsonl": True,
    # The same run goes on there.
    "wandb/run_id.txt": True,
    "metrics.csv": False,
    "tensorboard/events": False,
    LOCK: False,
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("content", ["", "something"])
def test_a_refusal_takes_a_new_folder_only_if_nothing_was_computed(name: str, content: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"

    def refused() -> None:
        with pytest.raises(InputError, match="late"), lock_run_dir(folder, fresh=False):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
            raise InputError("late")

    refused()
    assert folder.exists() == bool(content and KEPT[name])
    folder.mkdir(exist_ok=True)
    refused()
    assert (folder / name).read_text() == content, "a folder that was there before"


@pytest.mark.parametrize("error", [InputError("refused"), RuntimeError("failed"), KeyboardInterrupt()])
def test_a_fresh_start_that_comes_to_nothing_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "result.json").write_text("of ten hours")
    (folder / "tensorboard" / "events").write_text("x")
    before = {path.relative_to(folder): path.is_dir() or path.read_text() for path in folder.rglob("*")}

    def started(computed: str) -> None:
        with contextlib.suppress(type(error)), lock_run_dir(folder, fresh=True):
            assert [path.name for path in folder.iterdir()] == [LOCK]
            (folder / "metrics.csv").write_text("stage,step")
            (folder / "one_step.jsonl").write_text(computed)
            raise error

    started("")
    assert {p.relative_to(folder): p.is_dir() or p.read_text() for p in folder.rglob("*") if p.name != LOCK} == before
    # Once something was computed it is that which goes on, and nothing is lost before it ends well.
    for _ in range(2):
        started("a step")
        assert sorted(path.name for path in folder.iterdir()) == [LOCK, "metrics.csv", "one_step.jsonl"]
        assert (folder.parent / ".run.earlier" / "result.json").read_text() == "of ten hours"
    with lock_run_dir(folder, fresh=False):
        pass
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
