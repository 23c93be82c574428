"""Sweeps as they are typed: options that only some methods have, runs that fail, a kill, and every launcher."""

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.command_line import main
from tests import warm_processes
from tests.unit.tiny import pocket_file

TINY = (
    *("method.steps=1", "method.batch=1", "data.count=2", "evaluation.images=1", "evaluation.latency_runs=1"),
    *("format=json", "logger.scores=0", "teacher.recipe.importance_images=2"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights in the shape of sam_pocket, as a setting."""
    return f"teacher.checkpoint={pocket_file(tmp_path_factory.mktemp('teacher') / 'pocket.pth')}"


def students(rows: list[dict[str, Any]]) -> list[tuple[str, float | None, int]]:
    return [(row["method"], row["ratio"], row["seed"]) for row in rows if row["student"]]


def measured(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """By run, its rows without what a clock says."""
    found = {}
    for path in sorted(runs.glob("*/result.json")):
        rows = json.loads(path.read_text())["rows"]
        timed = ("encoder_latency_ms", "decoder_latency_ms", "peak_memory_bytes", "train_seconds", "device_hours")
        timed += ("train_images_per_s", "train_peak_memory_bytes")
        timed += tuple(f"{part}_latency_ratio{end}" for part in ("encoder", "decoder") for end in ("", "_low", "_high"))
        found[path.parent.name] = [{k: v for k, v in row.items() if k not in timed} for row in rows]
    return found


SWEEP = ("-m", "method=scratch,mobilesam", "ratio=0.5,0.77", "seed=range(1)", *TINY)


@pytest.fixture(scope="module")
def swept(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of a sweep's runs, and what it printed and said."""
    runs, out, err = tmp_path_factory.mktemp("swept") / "runs", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*SWEEP, teacher, f"runs={runs}"]) == 0
    return runs, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_methods_run_with_the_options_they_have(
    swept: tuple[Path, str, str], teacher: str, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, out, err = swept
    rows = json.loads(out)["rows"]
    assert students(rows) == [("scratch", 0.5, 0), ("scratch", 0.77, 0), ("mobilesam", None, 0)]
    assert "ratio: mobilesam has no such option; left out there" in err
    assert "3 different runs of 4 combinations" in err
    assert len(list(runs.glob("*/result.json"))) == 3
    before = {path: path.read_bytes() for path in runs.glob("*/result.json")}

    assert main([*SWEEP, teacher, f"runs={runs}"]) == 0
    again = capfd.readouterr()
    assert again.err.count("finished earlier") == 3 and json.loads(again.out)["rows"] == rows
    assert {path: path.read_bytes() for path in runs.glob("*/result.json")} == before


def test_an_option_that_no_method_of_the_sweep_has_is_refused_with_those_it_has(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "method=mobilesam,tinysam", "ratio=0.5", f"runs={tmp_path}"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "error: ratio=0.5: MobileSam takes no ratio",
        "error: ratio=0.5: TinySam takes no ratio",
    ]
    assert "it has batch, decoder_lr, decoder_of, decoder_steps, distillation" in lines[0]


def test_settings_that_do_not_compose_leave_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "method=slimsam,tinysam", "method.stpes=4", "ratio=0.5", f"runs={tmp_path / 'new'}"]) == 2
    assert "method.stpes is no setting; did you mean method.steps?" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_that_fails_is_a_row_and_the_others_go_on(
    teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "method=scratch", "ratio=0.5", "method.optimisation.lr=1e30,1e-3", teacher, *TINY]
    words += ["method.steps=3", "method.optimisation.warmup=0", "method.optimisation.clip=0", f"runs={tmp_path}"]
    assert main(words) == 1
    said = capfd.readouterr()
    assert students(json.loads(said.out)["rows"]) == [("scratch", 0.5, 0)]
    assert said.err.splitlines()[-1].startswith("error: ") and "Traceback" not in said.err
    (failed,) = tmp_path.glob("*/failed.json")
    (row,) = json.loads(failed.read_text())["rows"]
    assert row["status"] == "failed" and row["reason"].startswith("TrainingDiverged")
    assert "failed" in (tmp_path / "leaderboard.csv").read_text() or main(["leaderboard", f"runs={tmp_path}"]) == 0


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_and_ends_the_same(
    swept: tuple[Path, str, str], teacher: str, tmp_path: Path
) -> None:
    runs = tmp_path / "killed"
    command = warm_processes.begin(tmp_path, [*SWEEP, teacher, f"runs={runs}"])
    deadline = time.monotonic() + 240
    while not list(runs.glob("*/result.json")):
        assert command.running() and time.monotonic() < deadline, "the sweep ended before it could be killed"
        time.sleep(0.02)
    command.kill()
    command.ended()
    done = {path: path.read_bytes() for path in runs.glob("*/result.json")}
    assert 0 < len(done) < 3
    assert main([*SWEEP, teacher, f"runs={runs}"]) == 0
    assert all(path.read_bytes() == content for path, content in done.items())
    assert measured(runs) == measured(swept[0])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_give_what_one_process_gives(
    launcher: str, teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "method=slimsam,scratch", "ratio=0.5,0.77", teacher, *TINY]
    assert main([*words, f"runs={tmp_path / 'basic'}"]) == 0
    expected = json.loads(capfd.readouterr().out)["rows"]
    assert main([*words, f"hydra/launcher={launcher}", f"runs={tmp_path / launcher}"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert students(rows) == students(expected) and len(students(rows)) == 4
    assert measured(tmp_path / launcher) == measured(tmp_path / "basic")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_refusal_and_a_failure_come_back_from_a_launchers_process(
    launcher: str, teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "method=scratch", "ratio=0.5,1.5", teacher, *TINY, f"hydra/launcher={launcher}", f"runs={tmp_path}"]
    assert main(words) == 2
    said = capfd.readouterr()
    assert students(json.loads(said.out)["rows"]) == [("scratch", 0.5, 0)]
    assert "error: " in said.err and "1.5" in said.err and "Traceback" not in said.err


@pytest.mark.slow
def test_runs_of_a_sweep_under_torchrun(teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Two processes share a batch.
    tiny = [*(word for word in TINY if word != "method.batch=1"), "method.batch=2"]
    words = ["-m", "method=scratch", "ratio=0.5,0.77", "processes=2", teacher, *tiny, f"runs={tmp_path}"]
    assert main(words) == 0
    assert students(json.loads(capfd.readouterr().out)["rows"]) == [("scratch", 0.5, 0), ("scratch", 0.77, 0)]
    assert len(list(tmp_path.glob("*/result.json"))) == 2
