"""Whole runs that are interrupted, crowded, or left without room or clock: they end with the figures of others."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.provenance import ROOT
from tests.smoke.small_disk import SmallDisk
from tests.unit.tiny import pocket_file

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def disturbed(folder: Path, what: str) -> list[dict[str, Any]]:
    """How the commands of a disturbance ended; what they left at the end is that of an undisturbed one."""
    command = [sys.executable, "-m", "tests.smoke.disturbing_commands", str(folder), what]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not found["different"] and not found["left"], found
    ends: list[dict[str, Any]] = found["ends"]
    assert not any("Traceback" in line for ended in ends for line in ended["said"]), ends
    return ends


def test_ctrl_c_once(tmp_path: Path) -> None:
    first, second = disturbed(tmp_path, "once")
    assert first["status"] == 130 and first["states"] == ["scratch.state"]
    assert first["said"][-2:] == [
        "stopping after this step; Ctrl-C again stops at once",
        "stopped; the same command goes on from what is saved",
    ]
    assert second["status"] == 0


def test_ctrl_c_twice(tmp_path: Path) -> None:
    first, second = disturbed(tmp_path, "twice")
    assert first["status"] == 130 and len(first["said"]) <= 4 and second["status"] == 0


def test_the_same_run_twice_at_a_time_is_refused(tmp_path: Path) -> None:
    second, first, again = disturbed(tmp_path, "beside")
    assert second["status"] == 2 and first["status"] == again["status"] == 0
    (line,) = second["said"]
    assert "another process works on this run; wait for it, or give another seed" in line


def test_two_runs_share_cache_and_leaderboard(tmp_path: Path) -> None:
    assert [ended["status"] for ended in disturbed(tmp_path, "sharing")] == [0, 0]


def test_a_clock_that_jumps_by_years(tmp_path: Path) -> None:
    first, second = disturbed(tmp_path, "clock")
    assert first["status"] == second["status"] == 0 and first["least"] >= 0


def test_a_disk_that_becomes_full(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(SmallDisk(tmp_path / "tried", "1m").remove)
        except OSError as error:
            pytest.skip(f"no file system can be mounted here ({error.strerror})")
    *refused, ended = disturbed(tmp_path, "full")
    assert ended["status"] == 0 and len(refused) == 4
    for end in refused:
        assert end["status"] == 2
        assert (
            end["said"][-1].startswith("error: ") and "cannot be written (No space left on device)" in end["said"][-1]
        )


def _ranks(parent: int) -> dict[int, int]:
    """The processes that torchrun started, by their number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                words = (folder / "environ").read_bytes().split(b"\0")
                rank = next(word for word in words if word.startswith(b"RANK="))
                found[int(rank.partition(b"=")[2])] = int(folder.name)
    return found


def test_a_process_of_torchrun_that_dies_ends_the_others(tmp_path: Path) -> None:
    teacher = pocket_file(tmp_path / "pocket.pth")
    words = ["method=scratch", "ratio=0.5", "method.steps=40", "method.batch=2", "data.count=8", "evaluation.images=2"]
    words += ["evaluation.latency_runs=1", f"teacher.checkpoint={teacher}", "engine.device=cpu", "logger.scores=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "experiments"]
    with subprocess.Popen(
        [*command, *words], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        deadline = time.monotonic() + 300
        while not any(path.stat().st_size for path in tmp_path.glob("runs/*/scratch.jsonl")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(_ranks(child.pid)[1], signal.SIGKILL)
        _, said = child.communicate(timeout=120)
    assert child.returncode != 0 and "SIGKILL" in said
    assert not list(tmp_path.glob("runs/*/result.json"))
    again = subprocess.run(
        [*command, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1
