"""Chains of a sweep that begin with the same run: one job does it, the others wait for it and read it."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from core.errors import InputError
from core.result import ResultRow
from experiments.cli.command_line import main
from experiments.config.schema import RunConfig
from experiments.result_file import FAILED, NAME, write_result
from experiments.runs import job, run
from experiments.runs.began import BEGAN, command_began
from experiments.runs.folder import lock_run_dir


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were run, in order; a run is nothing but its result here, and ``fails`` ends in an error."""
    found: list[str] = []

    def write(parts: Any, config: object) -> list[ResultRow]:
        name = parts.settings.method.name
        found.append(name)
        if name == "fails":
            (parts.folder / "stage.state").write_text("half of it")
            (parts.folder / FAILED).write_text("{}")
            raise RuntimeError("it fails")
        rows = [ResultRow(method=name, run_id=parts.run_id, status="finished")]
        write_result(parts.folder / NAME, rows, {})
        return rows

    content = SimpleNamespace(images=[], indices=[])
    fakes = {
        "build_device": lambda engine: torch.device("cpu"),
        "_checked_method": lambda settings: settings,
        "build_engine": lambda *_: None,
        "contents_of_run": lambda settings: (content, content),
        "run_sha256": lambda *_: "0" * 64,
        "run_id": lambda settings, *_: settings.method.name,
        "settings_without_effect": lambda method: [],
        "check_installed": lambda logger: None,
        "build_teacher": lambda *_: None,
        "promised_parameters": lambda *_: None,
        "require_held_out": lambda *_: None,
        "whatever_is_damaged": lambda settings: settings,
        "take_one_thread": lambda *_: None,
        "resolved": lambda cfg: {},
        "_do": write,
        "_end": lambda *_: None,
        "_fold": lambda *_: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(run, name, fake)
    return found


@dataclass
class Method:
    """Settings of a method of which nothing but the name and the model that it begins with count."""

    name: str
    init: str | None = None


def chain(runs: Path, *names: str, force: bool = False) -> list[str]:
    """Do a chain of methods; returns the methods of its rows."""
    first, *others = map(Method, names)
    later: dict[str, Any] = dict(zip(("then", "lastly"), others, strict=False))
    settings = RunConfig(runs=str(runs), format="json", force=force, method=first, logger=None, **later)
    cfg = DictConfig({"method": {}, "then": {"init": None}, "lastly": {"init": None}})
    return [str(row.method) for row in run.run_chain(settings, cfg)]


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_stage_that_another_process_does_is_waited_for(
    is_finished: bool, done: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[str] = []
    thread = threading.Thread(target=lambda: rows.extend(chain(tmp_path, "first", "second", "third")))
    with lock_run_dir(tmp_path / "first", fresh=False):
        thread.start()
        thread.join(0.4)
        assert thread.is_alive() and not done
        if is_finished:
            write_result(tmp_path / "first" / NAME, [ResultRow(method="first", run_id="first", status="finished")], {})
    thread.join(60)
    assert rows == ["first", "second", "third"]
    assert done == (["second", "third"] if is_finished else rows), "what it left undone is done"
    assert capsys.readouterr().err.count(f"{tmp_path / 'first'}: another process works on this run; waiting") == 1


def test_the_last_stage_is_of_one_job_and_not_waited_for(done: list[str], tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="last: another process works on this run; wait for it, or")
    with lock_run_dir(tmp_path / "last", fresh=False), refused:
        chain(tmp_path, "first", "last")
    assert done == ["first"]


def test_jobs_of_a_command_start_a_shared_stage_over_once(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with monkeypatch.context() as patch:
            # As in the jobs of a sweep, here or in a launcher's processes.
            patch.setenv(BEGAN, str(command_began()))
            for second in ("a", "b"):
                assert chain(tmp_path, "first", second, force=True) == ["first", second]
        assert done == ["first", "a", "b"], "each command starts over what was there before it"
        done.clear()
    chain(tmp_path, "first", "a")
    assert not done


def test_jobs_of_a_command_go_on_where_a_shared_stage_failed(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "fails" / "stage.state"
    state.parent.mkdir()
    (state.parent / "of_earlier.state").write_text("thrown away")
    monkeypatch.setenv(BEGAN, str(command_began()))
    for second in ("a", "b"):
        with pytest.raises(RuntimeError, match="it fails"):
            chain(tmp_path, "fails", second, force=True)
        assert state.exists() and not (state.parent / "of_earlier.state").exists()
        (state.parent / "kept.state").write_text("of the first job")
    assert (state.parent / "kept.state").exists() and done == ["fails", "fails"]


def test_all_jobs_and_their_processes_know_when_the_command_began(monkeypatch: pytest.MonkeyPatch) -> None:
    began = []

    def function_of(name: str) -> Callable[..., list[Any]]:
        def note(settings: object, cfg: object) -> list[Any]:
            # A process of the job, torchrun's, has a job of its own.
            began.extend([command_began(), job.Job(name).began])
            return []

        return note

    monkeypatch.setattr(job, "function_of", function_of)
    for _ in range(2):
        assert main(["cost", "-m", "ratio=0.5,0.77"]) == 0
    assert len(began) == 8 and len({*began[:4]}) == len({*began[4:]}) == 1 and began[0] < began[4]
    assert BEGAN not in os.environ
